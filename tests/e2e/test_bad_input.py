"""Bad input gets the right status and words that help, and the next good request works; every kind: tests/gateway."""

import io

import numpy as np
import pytest
from PIL import Image

from dermserve.client import Client, DermserveError, Verdict

MODEL = "mobilenet_v3_small"


@pytest.mark.parametrize(
    ("bad", "options", "status", "reason", "words"),
    [
        ("truncated", {}, "INVALID_ARGUMENT", "UNDECODABLE_IMAGE", "truncated"),
        (b"\xff\xd8\xff" + bytes(20_000_000), {}, "RESOURCE_EXHAUSTED", "IMAGE_TOO_LARGE", "20,000,000"),
        ("good", {"label": "nightly"}, "NOT_FOUND", "LABEL_NOT_FOUND", "nightly"),
    ],
    ids=["truncated", "bytes", "label"],
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
