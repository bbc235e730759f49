"""Open a HEIC file (HEVC in HEIF, ISO/IEC 23008-12) by libheif, with bounded memory and time.

libheif refuses a HEVC stream that is larger than its item's size in the container, takes the first picture of a stream,
and bounds the number of items. This module bounds the rest: the sizes of items and their bytes together, the tiles of a
grid, the units of a stream, and metadata, which pillow-heif copies for each image.
"""

import contextlib
import io
import re
import struct
from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from dermserve.imaging.errors import TooComplexError, UndecodablePhotoError, UnsupportedFormatError

try:
    import pillow_heif
except ImportError:
    pillow_heif = None
else:
    pillow_heif.options.DECODE_THREADS = 1  # each request has its own thread
    pillow_heif.options.THUMBNAILS = pillow_heif.options.DEPTH_IMAGES = pillow_heif.options.AUX_IMAGES = False

HEIC = pillow_heif is not None  # whether the extra `heic` is installed, and works here
_MAX_BOXES = 4096
_MAX_REFERENCES = 100_000  # bytes: two or four for each tile; phones write hundreds of tiles
_MAX_UNITS = 100_000  # most HEVC units shorter than 256 bytes; libheif takes some 90 bytes of memory for each
_SAMPLES = {400: 1, 420: 1.5, 422: 2, 444: 3}  # Samples of a pixel, by the chroma subsampling
_SIZE = re.compile(rb"ispe.{4}(.{4})(.{4})", re.DOTALL)
_REFUSED = (RuntimeError, ValueError, EOFError)  # what pillow-heif raises for damaged files
_HDR = (16, 18)  # transfer characteristics PQ and HLG
_DERIVED = (b"iovl", b"iden")
# An item that makes a picture brighter for screens that can show it (ISO 21496-1), of the picture and a gain map.
# iPhones since iOS 18 and other phones write one; its number has two bytes, or four.
_TONE_MAP = re.compile(rb"infe(?:\x02.{3}(..)|\x03.{3}(.{4}))..tmap", re.DOTALL)


class HeifPicture:
    """The primary image of a HEIC file, turned as its container says.

    Raises:
        UnsupportedFormatError: it is no picture or grid of pictures in HEVC, or has transparency.
        UndecodablePhotoError: it contradicts itself.
        TooComplexError: it has too many parts.
        IndexError, struct.error: it ends too early.
    """

    def __init__(self, data: bytes) -> None:
        sizes, data = _check(data)
        try:
            file = pillow_heif.HeifFile(data, convert_hdr_to_8bit=True, remove_stride=False)
        except (*_REFUSED, SyntaxError) as error:
            raise UndecodablePhotoError("HEIC") from error
        if not len(file):
            raise UnsupportedFormatError("HEIF files without a still picture in HEVC are not supported")
        self._image = image = file[file.primary_index]
        if not image.info["primary"]:  # which is damaged
            raise UndecodablePhotoError("HEIC")
        if image.has_alpha:
            raise UnsupportedFormatError("HEIC files with transparency are not supported")
        self.width, self.height = image.size
        self.profile: bytes = image.info.get("icc_profile") or b""
        self.space = name_space(**image.info.get("nclx_profile") or {})
        deep = image.info["bit_depth"] > 8
        each = 2 * (1 + deep) * _SAMPLES[image.info.get("chroma", 400)] + 4.1  # samples twice, RGB, and what is beside
        self.memory = each * (max(self.width * self.height, *sizes) + _tile(image.info.get("tiling")))
        """Bytes to decode it, the file not counted."""

    def load(self) -> NDArray[np.uint8]:
        """Decode it to [H, W, C], gray or RGB; raise ValueError if it is damaged."""
        try:
            decoded, channels = self._image.data, len(self._image.mode)
        except _REFUSED as error:
            raise ValueError from error
        shape, strides = (self.height, self.width, channels), (self._image.stride, channels, 1)
        return np.ndarray(shape, np.uint8, decoded, strides=strides)


def name_space(color_primaries: int = 1, transfer_characteristics: int = 1, **_: object) -> str:
    """Name a colour space that is given by code points (ITU-T H.273); empty if its primaries are nearly those of sRGB.

    Raises:
        UnsupportedFormatError: it is HDR, which looks faded without a screen that can show it.
    """
    if transfer_characteristics in _HDR:
        raise UnsupportedFormatError("photos in HDR (PQ or HLG) are not supported")
    return {9: "BT.2020", 12: "Display P3"}.get(color_primaries, "")


def _check(data: bytes) -> tuple[list[int], bytes]:
    """Return the pixels of each item, and the file without the references from metadata and tone maps to images.

    Bytes behind the last whole box are left out.
    """
    if data.count(b"\0\0\0") > _MAX_UNITS:  # begins each short unit, and is never within one (ITU-T H.265, 7.4.2)
        raise TooComplexError("HEIC", f"{_MAX_UNITS:,} units")
    sizes, given = [0], len(data)
    data = data[: _end(data)]
    kept = bytearray(data)
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            content = data[start:end]
            if any(word in content for word in _DERIVED):
                raise UnsupportedFormatError("HEIF files of other parts than tiles are not supported")
            kept[start:end] = content.replace(b"cdsc", b"free")
            tone_maps = {int.from_bytes(short or long) for short, long in _TONE_MAP.findall(content)}
            for inner, *place in _boxes(data, start + 4, end):
                if inner == b"iref":
                    _check_references(kept, *place, tone_maps=tone_maps)
                elif inner == b"iloc":
                    _check_places(data, *place)
            sizes += [int.from_bytes(width) * int.from_bytes(height) for width, height in _SIZE.findall(content)]
    if len(sizes) < 2:
        if len(data) < given:  # it is not junk that was left out
            raise UndecodablePhotoError("HEIC")
        raise UnsupportedFormatError("HEIC sequences without a still picture are not supported")
    return sizes, bytes(kept)


def _end(data: bytes) -> int:
    """Find the end of the last whole box."""
    end = 0
    with contextlib.suppress(UndecodablePhotoError, struct.error):
        for _, _, position in _boxes(data, 0, len(data)):
            end = position
    return end


def _boxes(data: bytes | bytearray, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield each box's kind, and the start and end of its content."""
    for _ in range(_MAX_BOXES):
        if position >= end:
            return
        size, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if size == 1:
            (size,), start = struct.unpack_from(">Q", data, start), start + 8
        position = position + size if size else end
        if not start <= position <= end:
            raise UndecodablePhotoError("HEIC")
        yield kind, start, position
    raise TooComplexError("HEIC", f"{_MAX_BOXES:,} boxes")


def _check_references(kept: bytearray, start: int, end: int, *, tone_maps: Collection[int]) -> None:
    """Check that no tile consists of tiles; take out the references of tone maps."""
    if end - start > _MAX_REFERENCES:
        raise TooComplexError("HEIC", f"{_MAX_REFERENCES:,} bytes of references")
    wide = 4 if kept[start] else 2
    grids, tiles = set(), set()
    for kind, at, stop in _boxes(kept, start + 4, end):
        if kind != b"dimg":
            continue
        item, *parts = (bytes(kept[place : place + wide]) for place in (at, *range(at + wide + 2, stop, wide)))
        if int.from_bytes(item) in tone_maps:
            kept[at - 4 : at] = b"free"
        else:
            grids.add(item)
            tiles.update(parts)
    if grids & tiles:
        raise UndecodablePhotoError("HEIC")


def _check_places(data: bytes, start: int, end: int) -> None:
    """Check that all items together have no more bytes than the file."""
    version, content, total = data[start], io.BytesIO(data[start + 4 : end]), 0

    def number(size: int) -> int:
        if len(read := content.read(size)) < size:
            raise IndexError
        return int.from_bytes(read)

    sizes = number(2)
    offset, length, base, index = (sizes >> at & 15 for at in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    for _ in range(number(wide)):
        number(wide + 2 * bool(version) + 2 + base)
        for _ in range(number(2)):
            number(index * bool(version) + offset)
            total += number(length) or len(data)
            if total > len(data):
                raise UndecodablePhotoError("HEIC")


def _tile(tiling: dict[str, int] | None) -> int:
    """Check that tiles cover the picture exactly, and return the pixels of one; 0 without tiles."""
    if not tiling:
        return 0
    for side, count in ("width", "num_columns"), ("height", "num_rows"):
        tile, whole = tiling[f"tile_{side}"], tiling[f"image_{side}"]
        if not tile * (tiling[count] - 1) < whole <= tile * tiling[count]:
            raise UndecodablePhotoError("HEIC")
    return tiling["tile_width"] * tiling["tile_height"]
