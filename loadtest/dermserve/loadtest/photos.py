"""Photos to send: those of a folder, or drawn by code, so that a test needs no photo of anyone's skin."""

import io
import pathlib
from collections.abc import Sequence

from PIL import Image, ImageOps

from dermserve.imaging import PhotoError, decode
from dermserve.loadtest.errors import PhotosError

_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp")
_DRAWN = 8
_QUALITY = 90
_MOST = 256


def load_photos(folder: str, sides: Sequence[int] = ()) -> list[bytes]:
    """Read up to 256 photos of a folder, or draw eight, and scale each to all sides.

    Args:
        folder: photos in it and below; drawn photos when empty.
        sides: longer sides in pixels, each at least 64; photos stay as they are when there are none.

    Returns:
        Files.

    Raises:
        PhotosError: no such folder, no photos in it, or one that the gateway would refuse.
    """
    originals = [_checked(file) for file in find_photos(pathlib.Path(folder))] if folder else _draw()
    return [scale(photo, side) for photo in originals for side in sides] if sides else originals


def scale(photo: bytes, side: int) -> bytes:
    """Scale a photo, up or down, to a longer side in pixels.

    Returns:
        A JPEG.
    """
    with Image.open(io.BytesIO(photo)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        factor = side / max(upright.size)
        size = (max(1, round(upright.width * factor)), max(1, round(upright.height * factor)))
        file = io.BytesIO()
        upright.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=_QUALITY)
        return file.getvalue()


def _draw() -> list[bytes]:
    from dermserve.local.picture import draw_lesion

    return [draw_lesion(seed=seed) for seed in range(_DRAWN)]


def find_photos(folder: pathlib.Path) -> list[pathlib.Path]:
    """List up to 256 photos below a folder.

    Raises:
        PhotosError: no such folder, or no photos in it.
    """
    if not folder.is_dir():
        raise PhotosError(f"{folder} is not a folder: give one with photos, or none to have some drawn")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)[:_MOST]
    if not files:
        raise PhotosError(f"{folder} has no photos ({', '.join(_SUFFIXES)})")
    return files


def _checked(file: pathlib.Path) -> bytes:
    try:
        photo = file.read_bytes()
        decode(photo, height=224, width=224)
    except (OSError, PhotoError) as error:
        raise PhotosError(f"{file}: {error}; take it out of the folder") from error
    return photo
