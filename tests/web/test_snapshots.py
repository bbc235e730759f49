"""The eight main screens look as they did: small pictures, compared with a tolerance on the browser that made them."""

import io
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from tests.web.page import App
from tests.web.test_looks import tour

SNAPSHOTS = pathlib.Path(__file__).with_name("snapshots")
MADE_WITH = SNAPSHOTS / "made-with.json"
UPDATE = "DERMSERVE_UPDATE_SNAPSHOTS"
SCREENS = ("check", "camera", "frame", "result", "spot", "history", "learn", "settings")
_WIDTH = 130
"""In pixels, a third of the phone's: antialiasing and hinting average out."""
_FAR = 40
"""Of 255: a pixel further off than this is another one."""
_MOST_FAR = 0.02
"""Share of such pixels, enough for a date of another length, not for a button that moved."""


def _machine(browser: Browser) -> dict[str, str]:
    fc_match = shutil.which("fc-match")
    font = (
        subprocess.run([fc_match, "system-ui"], capture_output=True, text=True, check=True).stdout if fc_match else ""
    )
    return {"chromium": browser.version, "font": font.strip()}


def _picture(app: App) -> Image.Image:
    image = Image.open(io.BytesIO(app.page.screenshot(animations="disabled"))).convert("RGB")
    return image.resize((_WIDTH, round(image.height * _WIDTH / image.width)), Image.Resampling.BOX)


def _difference(one: Image.Image, other: Image.Image) -> float:
    if one.size != other.size:
        return 1.0
    apart = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).max(axis=2)
    return float((apart > _FAR).mean())


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_main_screens_look_as_they_did(
    browser: Browser,
    served: str,
    lesion: pathlib.Path,
    confident: dict[str, object],
    tmp_path: pathlib.Path,
    scheme: str,
) -> None:
    machine, update = _machine(browser), UPDATE in os.environ
    if not update and (not MADE_WITH.exists() or json.loads(MADE_WITH.read_text()) != machine):
        pytest.skip(f"NOT TESTED: the pictures were made with another Chromium or font than {machine}")
    wrong = {}
    with App.opened(browser, served, shots=tmp_path) as app:
        app.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        for name in tour(app, lesion, confident, only=SCREENS):
            app.page.evaluate("Promise.all([...document.images].map((image) => image.decode().catch(() => {})))")
            found, kept = _picture(app), SNAPSHOTS / f"{scheme}-{name}.png"
            if update:
                SNAPSHOTS.mkdir(exist_ok=True)
                found.quantize(64).save(kept, optimize=True)
            share = _difference(found, Image.open(kept).convert("RGB"))
            if share > _MOST_FAR:
                wrong[name] = round(share, 3)
    if update:
        MADE_WITH.write_text(json.dumps(machine, indent=1) + "\n")
    assert not wrong, f"look at them; if they are meant, run again with {UPDATE}=1"


def test_a_button_that_moved_is_seen() -> None:
    screen = Image.new("RGB", (_WIDTH, 281), "white")
    moved = screen.copy()
    screen.paste("teal", (10, 40, 120, 55))
    moved.paste("teal", (10, 48, 120, 63))
    assert _difference(screen, moved) > _MOST_FAR
    assert _difference(screen, screen) == 0
