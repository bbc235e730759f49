"""Each screen at three widths: nothing for axe to say, nothing wider than the screen, and pictures to look at."""

import pathlib
from collections.abc import Collection, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.web.page import App

ROOT = pathlib.Path(__file__).resolve().parents[2]
AXE = ROOT / "client/web/node_modules/axe-core/axe.min.js"
SHOTS = ROOT / "build/screenshots"
_OTHERS: dict[str, dict[str, object]] = {
    "high": {"malignancy": {"level": "RISK_LEVEL_HIGH"}, "namedClass": "mel"},
    "blurred": {
        "verdict": "VERDICT_UNCERTAIN",
        "reasons": ["REASON_BLURRED"],
        "malignancy": {"level": "RISK_LEVEL_INTERMEDIATE"},
    },
    "rejected": {"verdict": "VERDICT_REJECTED", "reasons": ["REASON_NOT_SKIN"], "malignancy": None},
}


def tour(app: App, lesion: pathlib.Path, confident: dict[str, object], only: Collection[str] = ()) -> Iterator[str]:
    """Go through every screen, and yield its name while it is shown; or of those in `only`."""
    for name in _screens(app, lesion, confident):
        if not only or name in only:
            yield name
        if only and name == list(only)[-1]:
            return


def _screens(app: App, lesion: pathlib.Path, confident: dict[str, object]) -> Iterator[str]:
    yield "check"
    app.go("/check/camera")
    app.page.wait_for_selector(".coach.fine")
    yield "camera"
    app.go("/")
    app.answer_with(confident)
    app.choose(lesion)
    yield "frame"
    app.page.locator(".sticky button.primary").click()
    app.result()
    yield "result"
    app.unfold()
    app.page.locator(".chip input").first.check()
    yield "alarm"
    app.go("/check/report")
    app.page.wait_for_selector(".report")
    yield "report"
    app.go("/check/result")
    app.page.locator(".sticky button.primary").click()
    app.page.wait_for_selector(".photos")
    app.page.locator("#place").select_option("front chest")
    yield "spot"
    app.page.locator(".photos a").click()
    app.result()
    yield "photo"
    for address, name, there in (
        ("/history", "history", ".entries"),
        ("/learn", "learn", ".prose"),
        ("/learn/mel", "kind", ".prose"),
        ("/settings", "settings", "#device"),
    ):
        app.go(address)
        app.page.wait_for_selector(there)
        yield name
    app.go("/")
    for name, change in _OTHERS.items():
        app.page.wait_for_selector("#file", state="attached")
        app.answer_with({**confident, **change})
        app.choose(lesion)
        app.page.locator(".sticky button.primary").click()
        app.result()
        yield name
        app.go("/")


def _fits(app: App) -> bool:
    return bool(app.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize(("width", "scheme"), [("phone", "light"), ("phone", "dark"), ("desktop", "light")])
def test_every_screen_can_be_read_by_everyone(
    browser: Browser, served: str, lesion: pathlib.Path, confident: dict[str, object], width: str, scheme: str
) -> None:
    if not AXE.exists():
        pytest.skip("NOT TESTED: axe-core is fetched by `make web`")
    with App.opened(browser, served, shots=SHOTS, desktop=width == "desktop") as app:
        app.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for name in tour(app, lesion, confident):
            app.shoot(f"{width}-{scheme}-{name}")
            assert _fits(app), name
            app.page.evaluate(AXE.read_text())
            found: dict[str, Any] = app.page.evaluate("axe.run({resultTypes: ['violations']})")
            assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]], name


@pytest.mark.parametrize("locale", ["en-GB", "id-ID"])
def test_nothing_scrolls_sideways_on_a_small_phone_with_text_of_twice_the_size(
    browser: Browser, served: str, lesion: pathlib.Path, confident: dict[str, object], locale: str
) -> None:
    with App.opened(browser, served, shots=SHOTS, locale=locale) as app:
        app.page.set_viewport_size({"width": 320, "height": 640})
        app.page.evaluate("localStorage.setItem('dermserve.size', 'larger')")
        app.page.reload()
        app.page.wait_for_selector("#app[data-service]")
        for name in tour(app, lesion, confident):
            assert _fits(app), name
