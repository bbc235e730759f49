"""Photo bytes to RGB pixels at a model's input size, within limits that are read from the header before any pixel.

Pillow does the work (https://pillow.readthedocs.io/en/stable/reference/Image.html): an explicit format list, DCT-scaled
JPEG decoding (`draft`) and a two-step resize (`reducing_gap`). EXIF orientation is applied once; all other metadata,
colour profiles included, is dropped.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from dermserve.imaging.errors import (
    EmptyPhotoError,
    TooManyBytesError,
    TooManyPixelsError,
    TooSmallError,
    UndecodablePhotoError,
    UnsupportedFormatError,
)

_FORMATS = ("JPEG", "PNG", "WEBP")
# MPO: what phones write that store a depth map beside a JPEG. Pillow opens it as JPEG; its first frame is that JPEG.
_NAMES = {"MPO": "JPEG", "WEBP": "WebP"}

# Magic numbers of formats people send that we do not take: to say which it is, not to decode it.
_KNOWN_MAGIC = {
    "GIF": ((0, b"GIF8"),),
    "BMP": ((0, b"BM"),),
    "TIFF": ((0, b"II*\0"), (0, b"MM\0*")),
    "PDF": ((0, b"%PDF"),),
    "SVG": ((0, b"<svg"),),
    "AVIF": ((4, b"ftypavif"),),
    "HEIC": ((4, b"ftyphei"), (4, b"ftyphev"), (4, b"ftypmif1"), (4, b"ftypmsf1")),
}

# Halve, quarter ... a photo to no less than this many times the input size before resizing it, JPEGs while they are
# decoded: of 1024×768 pixels that takes 0.6 times the time of resizing at once, and moves a value by 0.3 of 255 on
# average, whether pixels are averaged or the JPEG's DCT is scaled.
_GAP = 1.5

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a photo may be."""

    max_bytes: int = 20_000_000
    """File size in bytes."""
    max_pixels: int = 50_000_000
    """Width × height, from the header."""
    min_side: int = 32
    """Shorter side in pixels."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo."""

    pixels: NDArray[np.uint8]
    """uint8 [height, width, 3], RGB."""
    format: str
    """"JPEG", "PNG" or "WebP"."""
    width: int
    """Columns of the file, before EXIF orientation."""
    height: int
    """Rows of the file, before EXIF orientation."""


def decode(data: bytes, *, height: int, width: int, limits: Limits | None = None) -> Photo:
    """Decode one photo to the pixels a model sees.

    Args:
        data: a JPEG, PNG or WebP file.
        height: rows of the model's input.
        width: columns of the model's input.
        limits: what to refuse; the defaults when None.

    Raises:
        PhotoError: the photo is empty, too large, too small, in another format, or damaged.
    """
    limits = limits or Limits()
    if not data:
        raise EmptyPhotoError
    if len(data) > limits.max_bytes:
        raise TooManyBytesError(len(data), limits.max_bytes)
    with _open(data, limits) as image:
        image_format = _NAMES.get(str(image.format), str(image.format))
        columns, rows = image.size
        try:
            image.draft(None, (int(width * _GAP), int(height * _GAP)))
            image.load()
            upright = _upright(_rgb(image))
        except Exception as error:  # damaged files raise anything from OSError to struct.error and SyntaxError
            raise UndecodablePhotoError(image_format) from error
        return Photo(fit(upright, height=height, width=width), image_format, columns, rows)


def fit(image: Image.Image, *, height: int, width: int) -> NDArray[np.uint8]:
    """Fit an RGB image to an input: the largest centred region of its shape, antialiased bilinear.

    Returns:
        uint8 [height, width, 3].
    """
    columns = min(float(image.width), image.height * width / height)
    rows = min(float(image.height), image.width * height / width)
    left, top = (image.width - columns) / 2, (image.height - rows) / 2
    box = (left, top, image.width - left, image.height - top)
    resized = image.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=_GAP)
    return np.asarray(resized)


@contextlib.contextmanager
def _open(data: bytes, limits: Limits) -> Iterator[Image.Image]:
    """Read the header alone, and check it against the limits."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # a warning where those are errors
        raise TooManyPixelsError(limits.max_pixels) from error
    except UnidentifiedImageError as error:
        raise UnsupportedFormatError(_describe(data)) from error
    except Exception as error:  # a header so damaged that a plugin trips over it
        raise UndecodablePhotoError("image") from error
    with image:
        if image.width * image.height > limits.max_pixels:
            raise TooManyPixelsError(limits.max_pixels, image.width, image.height)
        if min(image.size) < limits.min_side:
            raise TooSmallError(image.width, image.height, limits.min_side)
        yield image


def _describe(data: bytes) -> str:
    for name, magics in _KNOWN_MAGIC.items():
        if any(data.startswith(magic, offset) for offset, magic in magics):
            return f"{name} files are not supported"
    return "the bytes are not an image this service can read"


def _rgb(image: Image.Image) -> Image.Image:
    """Convert any mode Pillow decodes to RGB: 16-bit scaled, transparency over white."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit gray
        return Image.fromarray((np.asarray(image, np.uint32) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        return canvas.convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Apply EXIF orientation, before resizing so that a turned photo gives the same pixels as an upright one."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # corrupt EXIF: take the pixels as they lie
        return image
    method = _TRANSPOSE.get(orientation)
    return image if method is None else image.transpose(method)
