"""Fuzz target: whatever bytes are sent as a photo are decoded, viewed and measured, or refused by a PhotoError."""

import contextlib
import io
from collections.abc import Iterator

import numpy as np

from tests.fuzz import fuzzing
from tests.imaging import files, heif_files

with fuzzing.instrumented():
    from PIL import Image

    from dermserve.imaging import STANDARD_VIEWS, Limits, PhotoError, decode, make_views, measure


LIMITS = Limits(max_bytes=100_000, max_pixels=100_000, min_side=1, max_memory=4_000_000)
"""Like the gateway's, and small, so that many inputs are tried a second."""
_SIDE = 20
_ORIENTATION = 0x0112


def target(data: bytes) -> None:
    """Decode, make all views and measure, as the gateway does."""
    with contextlib.suppress(PhotoError):
        pixels = decode(data, height=_SIDE, width=_SIDE, limits=LIMITS)
        assert (pixels.shape, pixels.dtype) == ((_SIDE, _SIDE, 3), np.uint8)
        assert make_views(pixels, STANDARD_VIEWS).shape == (len(STANDARD_VIEWS), _SIDE, _SIDE, 3)
        found = measure(pixels)
        assert 0 <= found.brightness <= 255
        assert 0 <= found.sharpness <= 510


def seeds() -> Iterator[bytes]:
    """Draw small pictures of every format and most of their varieties."""
    rows, columns = np.mgrid[0:24, 0:32]
    picture = Image.fromarray(np.stack([rows * 9, columns * 7, rows + columns], -1).astype(np.uint8))
    exif = Image.Exif()
    for turn in range(1, 9):
        exif[_ORIENTATION] = turn
        yield _saved(picture, "JPEG", exif=exif, quality=60)
    yield _saved(picture, "JPEG", progressive=True)
    yield _saved(picture, "JPEG", icc_profile=b"x" * 300, comment=b"hello")
    for kind in ("JPEG", "PNG", "WEBP"):
        yield _saved(picture, kind, icc_profile=files.DISPLAY_P3)
    yield _saved(picture.convert("CMYK"), "JPEG", icc_profile=files.cmyk_profile(3))
    for mode in ("L", "CMYK"):
        yield _saved(picture.convert(mode), "JPEG")
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield _saved(picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode), "PNG")
    yield _saved(picture, "PNG", save_all=True, append_images=[picture.rotate(90)])
    for lossless in (False, True):
        yield _saved(picture, "WEBP", lossless=lossless, exif=exif)
    yield _saved(picture.convert("RGBA"), "WEBP", save_all=True, append_images=[picture.convert("RGBA").rotate(90)])
    yield from (heif_files.single(heif_files.coded("colours.heic")), heif_files.single(heif_files.coded("deep.heic")))
    yield heif_files.grid(heif_files.coded("gray.heic"), 150, 100)
    yield _saved(picture, "GIF")
    yield from (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF\x00\x00\x00\x00WEBP")


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


if __name__ == "__main__":
    fuzzing.run(target, seeds())
