"""Each screen at two widths: nothing for axe to say, nothing wider than the screen, and a picture to look at."""

import pathlib
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


def _check(app: App, name: str) -> None:
    app.shoot(name)
    assert app.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    app.page.evaluate(AXE.read_text())
    found: dict[str, Any] = app.page.evaluate("axe.run()")
    assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]], name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_screen_can_be_read_by_everyone(
    browser: Browser, served: str, lesion: pathlib.Path, confident: dict[str, object], width: str, scheme: str
) -> None:
    if not AXE.exists():
        pytest.skip("NOT TESTED: axe-core is fetched by `make web`")
    with App.opened(browser, served, shots=SHOTS, desktop=width == "desktop") as app:
        app.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        shot = f"{width}-{scheme}"
        _check(app, f"{shot}-home")
        app.page.locator("summary").click()
        _check(app, f"{shot}-options")
        app.press("Take a photo")
        app.until("document.querySelector('video')?.videoWidth > 0")
        _check(app, f"{shot}-camera")
        app.press("Back")
        app.choose(lesion)
        _check(app, f"{shot}-frame")
        app.press("Analyse")
        app.result()
        _check(app, f"{shot}-result")
        app.press("Save to history")
        app.press("Home")
        app.answer_with(confident)
        app.classify(lesion)
        _check(app, f"{shot}-low")
        app.unfold()
        _check(app, f"{shot}-low-open")
        app.press("Save to history")
        app.page.wait_for_selector(".entry")
        _check(app, f"{shot}-history")
        for name, change in _OTHERS.items():
            app.press("Back")
            app.answer_with({**confident, **change})
            app.classify(lesion)
            _check(app, f"{shot}-{name}")
