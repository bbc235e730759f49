"""Bad input gets the right status and words that help, and the next good request works."""

import io

import numpy as np
import pytest
from PIL import Image

from dermserve.client import Client, DermserveError, Verdict


def _png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


def _gif() -> bytes:
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "GIF")
    return file.getvalue()


MODEL = "mobilenet_v3_small"


@pytest.mark.parametrize(
    ("bad", "options", "status", "reason", "words"),
    [
        (b"", {}, "INVALID_ARGUMENT", "EMPTY_IMAGE", "empty"),
        (b"no image", {}, "INVALID_ARGUMENT", "UNSUPPORTED_FORMAT", "send a JPEG, PNG or WebP"),
        (_gif(), {}, "INVALID_ARGUMENT", "UNSUPPORTED_FORMAT", "GIF"),
        ("truncated", {}, "INVALID_ARGUMENT", "UNDECODABLE_IMAGE", "truncated"),
        (b"\xff\xd8\xff" + bytes(20_000_000), {}, "RESOURCE_EXHAUSTED", "IMAGE_TOO_LARGE", "20,000,000"),
        (_png(8000, 7000), {}, "INVALID_ARGUMENT", "TOO_MANY_PIXELS", "50 megapixels"),
        ("good", {"model": "vgg16"}, "NOT_FOUND", "MODEL_NOT_FOUND", "resnet50"),
        ("good", {"version": 99}, "NOT_FOUND", "VERSION_NOT_FOUND", "1"),
        ("good", {"label": "nightly"}, "NOT_FOUND", "LABEL_NOT_FOUND", "nightly"),
    ],
    ids=["empty", "no_image", "gif", "truncated", "bytes", "pixels", "model", "version", "label"],
)
def test_bad_input_is_refused_with_what_to_do(
    client: Client, photo: bytes, bad: bytes | str, options: dict[str, object], status: str, reason: str, words: str
) -> None:
    sent = {"good": photo, "truncated": photo[: len(photo) // 2]}[bad] if isinstance(bad, str) else bad
    with pytest.raises(DermserveError) as raised:
        client.classify(sent, **{"model": MODEL, **options})
    assert raised.value.status == status
    assert raised.value.reason == reason
    assert words in raised.value.message
    assert client.classify(photo, model=MODEL).classes


def test_noise_black_and_white_are_answered_without_confidence(client: Client) -> None:
    for pixels in (
        np.zeros((300, 400, 3)),
        np.full((300, 400, 3), 255),
        np.random.default_rng(0).integers(0, 256, (300, 400, 3)),
    ):
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG")
        assert client.classify(file.getvalue(), model=MODEL).verdict is not Verdict.CONFIDENT
