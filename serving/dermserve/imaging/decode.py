"""Decode photo bytes to RGB pixels at a model's input size. Limits are checked from the header, before any pixel.

simplejpeg (libjpeg-turbo) decodes JPEGs at a fraction of their size, cykooz-resizer resizes with SIMD instructions, and
Pillow does the rest, or everything where those two have no wheel. HEIC needs the extra `heic` (pillow-heif).
EXIF orientation is applied once, colours are converted to sRGB, and all other metadata is dropped.
"""

import io
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageCms

from dermserve.imaging import errors
from dermserve.imaging.header import MODES, Header, read_header

try:
    import simplejpeg
except ImportError:
    simplejpeg = None
try:
    import cykooz_resizer as simd
except ImportError:
    simd = None

_Pixels: TypeAlias = NDArray[np.uint8]  # [H, W, C]: gray, RGB or CMYK

# Before resizing, a photo is reduced to a half, a quarter … but to no less than this many times the input size; a JPEG
# is reduced while it is decoded.
_GAP = 1.5
_SCALES = (8, 4, 2, 1)
"""Divisors at which JPEGs are decoded. libjpeg-turbo also has other eighths, but without SIMD code: 5/8 of 600×450
takes longer than the whole photo."""
_BAND = 1 << 18  # pixels converted at once
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""What codecs raise for damaged files; not MemoryError, and nothing that only a bug of ours raises."""

Image.MAX_IMAGE_PIXELS = None  # Pillow warns or refuses by a limit of its own

# Until a process has freed a larger block, glibc gives the memory of each photo back to the system and asks for
# it again: 470 page faults and a millisecond for a photo of 600×450.
bytes(1 << 23)

_BILINEAR = simd and simd.ResizeAlg.convolution(simd.FilterType.bilinear)

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # ImageCms' names of colour spaces by mode
_PROBE = Image.frombytes("RGB", (8, 64), bytes(36 * (n >> at & 7) for n in range(512) for at in (0, 3, 6)))
"""Eight levels of each colour in every combination."""
_PRIMARIES = {
    "Adobe RGB": ((1.39836, -0.39836, 0), (0, 1, 0), (0, -0.04293, 1.04293)),
    "BT.2020": ((1.66049, -0.58764, -0.07285), (-0.12455, 1.13290, -0.00835), (-0.01815, -0.10058, 1.11873)),
    "Display P3": ((1.22494, -0.22494, 0), (-0.04206, 1.04206, 0), (-0.01964, -0.07864, 1.09827)),
}
"""Linear sRGB of the linear values of other spaces (W3C, CSS Color 4, 10)."""
_UPRIGHT: dict[int, Callable[[_Pixels], _Pixels]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""How to turn a photo of each EXIF orientation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits for a photo."""

    max_bytes: int = 20_000_000  # file size in bytes
    max_pixels: int = 128_000_000  # width × height, from the header; phones take up to 108 megapixels
    min_side: int = 32  # shorter side in pixels
    max_memory: int = 190_000_000
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
    # Turned before resizing, so that a turned photo gives the same pixels as an upright one.
    fitted = _resize(_UPRIGHT[header.orientation](_reduce(image, lying)), (width, height))
    to_srgb = _transform(header.profile, MODES[fitted.shape[2]]) if header.profile else None
    if to_srgb is not None:
        return np.asarray(to_srgb.apply(_image(fitted)))
    if header.space and fitted.shape[2] == 3:
        return _to_srgb(fitted, header.space)
    return fitted if fitted.shape[2] == 3 else np.asarray(_image(fitted).convert("RGB"))


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
    # A decoded JPEG takes three bytes a pixel, or four with Pillow, and what is cut out of it as many.
    each = header.pixel_bytes + (7 / scale**2 if header.format == "JPEG" else 0)
    most = (limits.max_memory - len(header.data)) / each
    if pixels > most:
        raise errors.TooManyPixelsError(max(0, int(most)), header.width, header.height, header.kind)


def _load(header: Header, scale: int) -> Image.Image | _Pixels:
    """Decode to pixels, or to an image of any mode."""
    if header.heif is not None:
        return header.heif.load()
    size = math.ceil(header.width / scale), math.ceil(header.height / scale)
    if header.format == "JPEG" and simplejpeg is not None and header.mode != "CMYK":
        colours = "GRAY" if header.mode == "L" else "RGB"
        try:
            pixels: _Pixels = simplejpeg.decode_jpeg(header.data, colours, min_width=size[0], min_height=size[1])
        except ValueError:  # for damaged and for unusual files; Pillow decides
            pass
        else:
            return pixels
    image = Image.open(io.BytesIO(header.data), formats=[header.format.upper()])
    if image.size != (header.width, header.height):
        raise ValueError(f"{image.size} pixels, not those of the header")
    image.draft(None, (header.width // scale, header.height // scale))
    image.load()
    return image


def _region(width: int, height: int, size: tuple[int, int]) -> tuple[float, float]:
    """Return columns and rows of the largest region of a shape."""
    return min(width, height * size[0] / size[1]), min(height, width * size[1] / size[0])


def _reduce(image: Image.Image | _Pixels, size: tuple[int, int]) -> _Pixels:
    """Cut out the largest centred region of an input's shape, averaged to no less than _GAP times that input.

    This is done in bands, so that only one band at a time is in memory in another mode.
    """
    width, height = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
    across, down = _region(width, height, size)
    factor = max(1, int(across / size[0] / _GAP))
    whole = math.floor if factor > 1 else math.ceil  # whole blocks, and the pixels that lie partly within
    columns, rows = whole(across / factor), whole(down / factor)
    left, top = (width - columns * factor) // 2, (height - rows * factor) // 2
    if factor == 1:
        if isinstance(image, Image.Image):
            return _pixels(_cut(image, left, top, width - left, height - top))
        return image[top : height - top, left : width - left]
    right, step = left + columns * factor, max(1, _BAND // (columns * factor * factor)) * factor
    starts = range(top, top + rows * factor, step)
    bands = (_cut(image, left, at, right, min(at + step, top + rows * factor)) for at in starts)
    return np.concatenate([_pixels(band.reduce(factor)) for band in bands])


def _cut(image: Image.Image | _Pixels, left: int, top: int, right: int, bottom: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return _flat(image.crop((left, top, right, bottom)))
    return _image(image[top:bottom, left:right])


def _image(pixels: _Pixels) -> Image.Image:
    return Image.frombytes(MODES[pixels.shape[2]], pixels.shape[1::-1], pixels.tobytes())


def _pixels(image: Image.Image) -> _Pixels:
    return np.asarray(image).reshape(image.height, image.width, -1)


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


def _resize(pixels: _Pixels, size: tuple[int, int]) -> _Pixels:
    """Fit the largest centred region to a size, antialiased bilinear."""
    height, width, channels = pixels.shape
    columns, rows = _region(width, height, size)
    left, top = (width - columns) / 2, (height - rows) / 2
    if simd is None:
        box = (left, top, width - left, height - top)
        return _pixels(_image(pixels).resize(size, Image.Resampling.BILINEAR, box=box))
    kind = getattr(simd.PixelType, "U8" if channels == 1 else f"U8x{channels}")
    fitted = simd.ImageData(*size, kind)
    crop = simd.CropBox(left, top, min(columns, width - left), min(rows, height - top))
    options = simd.ResizeOptions(_BILINEAR, crop_box=crop, use_alpha=False)
    simd.Resizer().resize(simd.ImageData(width, height, kind, pixels.tobytes()), fitted, options)
    return np.frombuffer(fitted.get_buffer(), np.uint8).reshape(*size[::-1], channels)


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


def _to_srgb(pixels: _Pixels, space: str) -> _Pixels:
    """Convert from a space that the file names. That of Adobe has a gamma, the others have sRGB's tone curve."""
    values = pixels / 255
    curve = np.where(values > 0.04045, ((values + 0.055) / 1.055) ** 2.4, values / 12.92)
    linear = np.clip((values**2.2 if space == "Adobe RGB" else curve) @ np.transpose(_PRIMARIES[space]), 0, 1)
    encoded = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, linear * 12.92)
    return np.asarray(np.rint(encoded * 255), np.uint8)
