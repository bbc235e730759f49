"""How often a person is told the same by the device as by the server: verdict and level, of real and spoiled photos."""

import base64
import io
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image, ImageFilter

from dermserve.edge.config import ON_DEVICE
from tests.web.page import App
from tests.web.test_device import _device

pytestmark = [pytest.mark.usefixtures("runtime"), pytest.mark.shared_data, pytest.mark.slow]


def _verdict_and_level(app: App, photo: bytes) -> tuple[Any, str]:
    url = app.page.url.partition("/app/")[0]
    request = {"image": base64.b64encode(photo).decode(), "tta": "TTA_MODE_NONE"}
    answer = requests.post(f"{url}/v1/models/{ON_DEVICE}:classify", json=request, timeout=100).json()
    level = answer.get("malignancy", {}).get("level", "RISK_LEVEL_NONE")
    return answer["verdict"], level.removeprefix("RISK_LEVEL_").lower()


def _agreeing(app: App, photos: list[bytes]) -> float:
    """Share of the photos with the same verdict and level."""
    same = 0
    for photo in photos:
        device = _device(app, photo, "NONE")
        same += (device["verdict"], device["level"]) == _verdict_and_level(app, photo)
    return same / len(photos)


def _spoiled(photo: bytes) -> Iterator[bytes]:
    """The photo blurred, dark, gray, and a picture of one colour beside it."""
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    side = min(image.size)
    beige = Image.new("RGB", image.size, tuple(np.asarray(image)[0, 0]))
    for made in (
        image.filter(ImageFilter.GaussianBlur(side * 12 / 224)),
        image.point(lambda value: value // 10),
        image.convert("L").convert("RGB"),
        beige,
    ):
        written = io.BytesIO()
        made.save(written, "JPEG", quality=92)
        yield written.getvalue()


@pytest.fixture(scope="module")
def photos(shared: pathlib.Path) -> list[bytes]:
    """Of the model's own data, of other lesions at 224 px, and the 25 originals."""
    data = shared / "data"
    own = sorted((data / "three_class_64").rglob("*.png"))[::18]
    other = sorted((data / "ham10000_224_non_nv").rglob("*.jpg"))[::28]
    originals = sorted((data / "ham10000_600x450_sample").rglob("*.jpg"))
    return [path.read_bytes() for path in own + other + originals]


def test_the_device_gives_the_servers_verdict_and_level_of_photos(once: App, photos: list[bytes]) -> None:
    assert _agreeing(once, photos) >= 0.97


def test_the_device_gives_the_servers_verdict_and_level_of_spoiled_photos(once: App, photos: list[bytes]) -> None:
    spoiled = [made for photo in photos[::3] for made in _spoiled(photo)]
    assert _agreeing(once, spoiled) >= 0.99
