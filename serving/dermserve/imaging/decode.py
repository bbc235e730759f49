"""Decode photo bytes to RGB pixels at a model's input size. Limits are checked from the header, before any pixel.

simplejpeg (libjpeg-turbo) decodes JPEGs at a fraction of their size, cykooz-resizer resizes with SIMD instructions, and
Pillow does the rest, or everything where those two have no wheel. HEIC needs the extra `heic` (pillow-heif).
EXIF orientation is applied once, the embedded colour profile is converted to sRGB, and all other metadata is dropped.
"""

import io
import math
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from dermserve.imaging import errors
from dermserve.imaging.header import Header, read_header
from dermserve.imaging.heif import HeifPicture

try:
    import simplejpeg
except ImportError:
    simplejpeg = None
try:
    import cykooz_resizer as simd
except ImportError:
    simd = None

# Before resizing, a photo is reduced to a half, a quarter … but to no less than this many times the input size; a JPEG
# is reduced while it is decoded.
_GAP = 1.5
_SCALES = (8, 4, 2, 1)
"""Divisors at which JPEGs are decoded. libjpeg-turbo also has other eighths, but without SIMD code: 5/8 of 600×450
takes longer than the whole photo."""
_BAND = 1 << 18  # pixels converted at once
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What codecs raise for damaged files; not MemoryError, and nothing that only a bug of ours raises."""

_BILINEAR = simd and simd.ResizeAlg.convolution(simd.FilterType.bilinear)

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # ImageCms' names of colour spaces by mode
_PROBE = Image.frombytes("RGB", (8, 64), bytes(36 * (n >> at & 7) for n in range(512) for at in (0, 3, 6)))
"""Eight levels of each colour in every combination."""
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
    """Limits for a photo."""

    max_bytes: int = 20_000_000  # file size in bytes
    max_pixels: int = 50_000_000  # width × height, from the header
    min_side: int = 32  # shorter side in pixels
    max_memory: int = 100_000_000
    """Bytes that decoding one photo may take, estimated from its header. It limits the pixels of formats that can't be
    reduced while they are decoded."""


def decode(data: bytes, *, height: int, width: int, limits: Limits | None = None) -> NDArray[np.uint8]:
    """Decode one photo to the pixels that a model sees: the largest centred region of its shape, resized, in sRGB.

    Args:
        data: a JPEG, PNG or WebP file, or HEIC with the extra `heic`.
        height: rows of the model's input.
        width: columns of the model's input.
        limits: what to refuse; the defaults when None.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        PhotoError: the photo is empty, too large, too small, in another format, or damaged.
        MemoryError: there is not enough memory for it now.
    """
    limits = limits or Limits()
    if not data:
        raise errors.EmptyPhotoError
    if len(data) > limits.max_bytes:
        raise errors.TooManyBytesError(len(data), limits.max_bytes)
    header = read_header(data)
    lying = (width, height) if header.orientation < 5 else (height, width)  # from 5 on, turned by 90 degrees
    scale = _scale(header, lying)
    _check(header, scale, limits)
    try:
        image = _load(header, scale)
    except _DAMAGED as error:
        if "out of memory" in str(error):  # Pillow's message for a failed allocation
            raise MemoryError from error
        raise errors.UndecodablePhotoError(header.format) from error
    region = _reduce(image, lying)
    if header.orientation > 1:  # before resizing, so that a turned photo gives the same pixels as an upright one
        region = region.transpose(_TRANSPOSE[header.orientation])
    fitted = _resize(region, (width, height))
    to_srgb = _transform(header.profile, fitted.mode) if header.profile else None
    return np.asarray(fitted.convert("RGB") if to_srgb is None else to_srgb.apply(fitted))


def _scale(header: Header, size: tuple[int, int]) -> int:
    """Choose the divisor at which a JPEG is decoded."""
    room = min(header.width / size[0], header.height / size[1]) / _GAP if header.format == "JPEG" else 1
    return next((scale for scale in _SCALES if scale <= room), 1)


def _check(header: Header, scale: int, limits: Limits) -> None:
    pixels = header.width * header.height
    if pixels > limits.max_pixels:
        raise errors.TooManyPixelsError(limits.max_pixels, header.width, header.height)
    if min(header.width, header.height) < limits.min_side:
        raise errors.TooSmallError(header.width, header.height, limits.min_side)
    # For a moment a decoded JPEG is in memory twice, with three and with four bytes a pixel.
    each = header.pixel_bytes + (7 / scale**2 if header.format == "JPEG" else 0)
    most = (limits.max_memory - len(header.data)) / each
    if pixels > most:
        raise errors.TooManyPixelsError(max(0, int(most)), header.width, header.height, header.kind)


def _load(header: Header, scale: int) -> Image.Image | HeifPicture:
    """Decode to mode L, RGB or CMYK, or to another one that _flat converts."""
    if header.heif is not None:
        header.heif.load()
        return header.heif
    size = math.ceil(header.width / scale), math.ceil(header.height / scale)
    if header.format == "JPEG" and simplejpeg is not None and header.mode != "CMYK":
        colours = "GRAY" if header.mode == "L" else "RGB"
        try:
            pixels = simplejpeg.decode_jpeg(header.data, colours, min_width=size[0], min_height=size[1])
            return Image.fromarray(pixels[..., 0] if colours == "GRAY" else pixels)
        except ValueError:  # for damaged and for unusual files; Pillow decides
            pass
    image = Image.open(io.BytesIO(header.data), formats=[header.format.upper()])
    if image.size != (header.width, header.height):
        raise ValueError(f"{image.size} pixels, not those of the header")
    image.draft(None, (header.width // scale, header.height // scale))
    image.load()
    return image


def _region(image: Image.Image | HeifPicture, size: tuple[int, int]) -> tuple[float, float]:
    """Return columns and rows of the largest region of a shape."""
    return min(image.width, image.height * size[0] / size[1]), min(image.height, image.width * size[1] / size[0])


def _reduce(image: Image.Image | HeifPicture, size: tuple[int, int]) -> Image.Image:
    """Cut out the largest centred region of an input's shape, averaged to no less than _GAP times that input.

    This is done in bands, so that only one band at a time is in memory in another mode.
    """
    across, down = _region(image, size)
    factor = max(1, int(across / size[0] / _GAP))
    whole = math.floor if factor > 1 else math.ceil  # whole blocks, and the pixels that lie partly within
    columns, rows = whole(across / factor), whole(down / factor)
    left, top = (image.width - columns * factor) // 2, (image.height - rows * factor) // 2
    if factor == 1:
        return _flat(image.crop((left, top, image.width - left, image.height - top)))
    right, step = left + columns * factor, max(1, _BAND // (columns * factor * factor)) * factor
    reduced: Image.Image | None = None
    for row in range(0, rows * factor, step):
        end = top + min(row + step, rows * factor)
        band = _flat(image.crop((left, top + row, right, end))).reduce(factor)
        reduced = reduced or Image.new(band.mode, (columns, rows))
        reduced.paste(band, (0, row // factor))
    assert reduced is not None
    return reduced


def _flat(image: Image.Image) -> Image.Image:
    """Convert any mode to L, RGB or CMYK: 16-bit scaled, transparency over white."""
    if image.mode.startswith("I"):  # 16-bit gray
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        return canvas.convert("L" if image.mode in {"1", "L", "LA"} else "RGB")
    if image.mode in {"L", "RGB", "CMYK"}:
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Fit the largest centred region of an image of mode L, RGB or CMYK to a size, antialiased bilinear."""
    columns, rows = _region(image, size)
    left, top = (image.width - columns) / 2, (image.height - rows) / 2
    if simd is None:
        box = (left, top, image.width - left, image.height - top)
        return image.resize(size, Image.Resampling.BILINEAR, box=box)
    fitted = Image.new(image.mode, size)
    crop = simd.CropBox(left, top, min(columns, image.width - left), min(rows, image.height - top))
    options = simd.ResizeOptions(_BILINEAR, crop_box=crop)
    simd.Resizer().resize_pil(image, fitted, options)
    return fitted


@lru_cache(maxsize=8)  # phones send the same few profiles; one of a printer takes up to 3 MB
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Make LittleCMS's conversion of mode L, RGB or CMYK to sRGB; None for a broken profile or one of another space."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ValueError, ImageCms.PyCMSError):  # not a profile, or one that LittleCMS can't use
        return None
    changes = ImageChops.difference(transform.apply(_PROBE.convert(mode)), _PROBE.convert(mode).convert("RGB"))
    return transform if np.asarray(changes).max() > 2 else None  # sRGB under any name
