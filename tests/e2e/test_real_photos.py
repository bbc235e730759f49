"""The real photos beside the checkout, as clients send them and as clients mangle them."""

import io
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dermserve.client import Client, Prediction
from tests.imaging.files import turned

pytestmark = pytest.mark.shared_data
LARGE, SMALL = "resnet50", "mobilenet_v3_small"


@pytest.fixture(scope="module")
def photos(shared: pathlib.Path) -> list[bytes]:
    files = sorted((shared / "data" / "ham10000_600x450_sample").rglob("*.jpg"))
    assert len(files) == 25
    return [file.read_bytes() for file in files]


@pytest.fixture(scope="module")
def few(client: Client, photos: list[bytes]) -> list[tuple[bytes, np.ndarray]]:
    """Every fifth photo and the small model's answer to it as it is."""
    return [(photo, _probabilities(client.classify(photo, model=SMALL))) for photo in photos[::5]]


def _encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def _turned(photo: bytes, orientation: int, image_format: str) -> bytes:
    image = Image.open(io.BytesIO(photo)).convert("RGB")
    stored, exif = turned(image, orientation)
    options = {"quality": 95, "subsampling": 0} if image_format == "JPEG" else {}
    return _encoded(stored, image_format, exif=exif, **options)


def _probabilities(prediction: Prediction) -> np.ndarray:
    return np.array([score.probability for score in sorted(prediction.classes, key=lambda score: score.code)])


@pytest.mark.parametrize(
    ("model", "tta", "count"), [(SMALL, "none", 25), (SMALL, "full", 25), (LARGE, "none", 25), (LARGE, "full", 5)]
)
def test_every_photo_is_answered_as_it_is(
    client: Client, photos: list[bytes], model: str, tta: str, count: int
) -> None:
    answers = list(client.classify_many(photos[:: 25 // count], model=model, tta=tta, deadline=300))
    assert [answer.error for answer in answers] == [None] * count


def test_every_orientation_gives_the_same_answer(client: Client, few: list[tuple[bytes, np.ndarray]]) -> None:
    for photo, upright in few[:3]:
        for orientation in range(1, 9):
            exact = _probabilities(client.classify(_turned(photo, orientation, "PNG"), model=SMALL))
            recoded = _probabilities(client.classify(_turned(photo, orientation, "JPEG"), model=SMALL))
            np.testing.assert_allclose(exact, upright, atol=1e-3)
            np.testing.assert_allclose(recoded, upright, atol=0.1)


def _enlarged(image: Image.Image) -> bytes:
    return _encoded(image.resize((4000, 3000), Image.Resampling.BICUBIC), "JPEG", quality=95)


_RECODINGS: dict[str, tuple[Callable[[Image.Image], bytes], float]] = {
    "png": (lambda image: _encoded(image, "PNG"), 1e-3),
    "webp": (lambda image: _encoded(image, "WEBP", quality=95), 0.1),
    "progressive": (lambda image: _encoded(image, "JPEG", quality=95, progressive=True), 0.1),
    "cmyk": (lambda image: _encoded(image.convert("CMYK"), "JPEG", quality=95), 0.1),
    "gray": (lambda image: _encoded(image.convert("L"), "JPEG", quality=95), 1.0),
    "12_megapixels": (_enlarged, 0.1),
}


@pytest.mark.parametrize("kind", list(_RECODINGS))
def test_photos_are_answered_however_they_are_encoded(
    client: Client, few: list[tuple[bytes, np.ndarray]], kind: str
) -> None:
    recode, tolerance = _RECODINGS[kind]
    for photo, original in few:
        recoded = recode(Image.open(io.BytesIO(photo)).convert("RGB"))
        answer = _probabilities(client.classify(recoded, model=SMALL))
        np.testing.assert_allclose(answer, original, atol=tolerance)
