"""Each screen in five looks: nothing for axe to say, nothing wider than the screen, and the main ones as they were."""

import io
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from tests.web.page import DESKTOP, PHONE, App

ROOT = pathlib.Path(__file__).resolve().parents[2]
AXE = ROOT / "client/web/node_modules/axe-core/axe.min.js"
SHOTS = ROOT / "build/screenshots"
SNAPSHOTS = pathlib.Path(__file__).with_name("snapshots")
MADE_WITH = SNAPSHOTS / "made-with.json"
UPDATE = "DERMSERVE_UPDATE_SNAPSHOTS"
SCREENS = (
    *("check", "camera", "frame", "result", "alarm", "report", "spot", "photo"),
    *("history", "learn", "kind", "settings", "high", "blurred", "rejected"),
)
KEPT = ("check", "camera", "frame", "result", "spot", "history", "learn", "settings")
"""The main screens, of which a small picture is kept (one tolerance for all)."""
_RULES: dict[str, dict[str, object]] = {
    "phone-dark": {"runOnly": ["color-contrast", "link-in-text-block"]},
    "small-browser": {"rules": {"color-contrast": {"enabled": False}}},
}
"""What axe is asked of a look that differs from the first in colours alone, or in its text's size alone."""
_COMPARED = ("phone-light", "phone-dark")
_SHOT = ("phone-light", "desktop-light")
"""Looks that are compared with those pictures, and looks whose screens are left in build/screenshots."""
_SMALL = {"width": 320, "height": 640}
LOOKS = {
    "phone-light": (PHONE, "light", "en-GB", "normal"),
    "phone-dark": (PHONE, "dark", "en-GB", "normal"),
    "desktop-light": (DESKTOP, "light", "en-GB", "normal"),
    "small-browser": (_SMALL, "light", "en-GB", "normal"),
    "small-indonesian": (_SMALL, "dark", "id-ID", "larger"),
}
"""Width, colours, language and text size: twice the size by the browser's setting, then by the page's ("larger")."""
_WIDTH = 130
"""In pixels, a third of the phone's: antialiasing and hinting average out."""
_FAR = 40
"""Of 255: a pixel further off than this is another one."""
_MOST_FAR = 0.02
"""Share of such pixels, enough for a date of another length, not for a button that moved."""
_OTHERS: dict[str, dict[str, object]] = {
    "high": {"malignancy": {"level": "RISK_LEVEL_HIGH"}, "namedClass": "mel"},
    "blurred": {
        "verdict": "VERDICT_UNCERTAIN",
        "reasons": ["REASON_BLURRED"],
        "malignancy": {"level": "RISK_LEVEL_INTERMEDIATE"},
    },
    "rejected": {"verdict": "VERDICT_REJECTED", "reasons": ["REASON_NOT_SKIN"], "malignancy": None},
}


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


def _machine(browser: Browser) -> dict[str, str]:
    fc_match = shutil.which("fc-match")
    font = (
        subprocess.run([fc_match, "system-ui"], capture_output=True, text=True, check=True).stdout if fc_match else ""
    )
    return {"chromium": browser.version, "font": font.strip()}


def _picture(app: App) -> Image.Image:
    app.page.evaluate("Promise.all([...document.images].map((image) => image.decode().catch(() => {})))")
    image = Image.open(io.BytesIO(app.page.screenshot(animations="disabled"))).convert("RGB")
    return image.resize((_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.BOX)


def _difference(one: Image.Image, other: Image.Image) -> float:
    if one.size != other.size:
        return 1.0
    apart = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max(axis=2)
    return float((apart > _FAR).mean())


@dataclass
class Walk:
    """The way through all screens in one look; each test takes it on to its own screen."""

    app: App
    look: str
    steps: Iterator[str]
    pictures: dict[str, Image.Image | None] = field(default_factory=dict)
    """Of the screens behind, small; None of those that are not compared."""

    def reach(self, screen: str) -> None:
        while screen not in self.pictures:
            name = next(self.steps)
            compared = self.look in _COMPARED and name in KEPT
            self.pictures[name] = _picture(self.app) if compared else None


@pytest.fixture(scope="module")
def walk(
    request: pytest.FixtureRequest, served: str, lesion: pathlib.Path, confident: dict[str, object]
) -> Iterator[Walk]:
    size, scheme, locale, text = LOOKS[request.param]
    browser = request.getfixturevalue("large_browser" if request.param == "small-browser" else "browser")
    with App.opened(browser, served, shots=SHOTS, locale=locale) as app:
        app.page.set_viewport_size(size)  # type: ignore[arg-type]
        app.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        app.page.evaluate(f"localStorage.setItem('dermserve.size', '{text}')")
        app.page.reload()
        app.page.wait_for_selector("#app[data-service]")
        yield Walk(app, request.param, _screens(app, lesion, confident))


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("walk", LOOKS, indirect=True)
def test_a_screen_can_be_read_by_everyone(walk: Walk, screen: str) -> None:
    walk.reach(screen)
    page = walk.app.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if walk.look in _SHOT:
        walk.app.shoot(f"{walk.look}-{screen}")
    if not AXE.exists():
        pytest.skip("NOT TESTED: axe-core is fetched by `make web`")
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    options = {"resultTypes": ["violations"], **_RULES.get(walk.look, {})}
    found: dict[str, Any] = page.evaluate("(options) => axe.run(options)", options)
    assert found["violations"] or found["passes"] or found["inapplicable"]
    assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("screen", KEPT)
@pytest.mark.parametrize("walk", _COMPARED, indirect=True)
def test_a_main_screen_looks_as_it_did(walk: Walk, browser: Browser, screen: str) -> None:
    machine, update = _machine(browser), UPDATE in os.environ
    if not update and (not MADE_WITH.exists() or json.loads(MADE_WITH.read_text()) != machine):
        pytest.skip(f"NOT TESTED: the pictures were made with another Chromium or font than {machine}")
    walk.reach(screen)
    found, kept = walk.pictures[screen], SNAPSHOTS / f"{walk.look.removeprefix('phone-')}-{screen}.png"
    assert found is not None
    if update:
        SNAPSHOTS.mkdir(exist_ok=True)
        found.quantize(64).save(kept, optimize=True)
        MADE_WITH.write_text(json.dumps(machine, indent=1) + "\n")
    apart = _difference(found, Image.open(kept).convert("RGB"))
    assert apart <= _MOST_FAR, f"look at it; if it is meant, run again with {UPDATE}=1"


def test_a_button_that_moved_is_seen() -> None:
    screen = Image.new("RGB", (_WIDTH, 281), "white")
    moved = screen.copy()
    screen.paste("teal", (10, 40, 120, 55))
    moved.paste("teal", (10, 48, 120, 63))
    assert _difference(screen, moved) > _MOST_FAR
    assert _difference(screen, screen) == 0
