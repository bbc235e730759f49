"""Check a HEIC file (HEVC in HEIF, ISO/IEC 23008-12) before it is decoded: the size and number of its pictures.

Decoders take the size from the HEVC stream and not from the container, so this module reads both and refuses files in
which they differ. It reads the box `meta`, the parameter sets (ITU-T H.265, 7.3.2.2) and the types of the NAL units of
the primary image, which is one coded image or a grid of tiles.
"""

import struct
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from dermserve.imaging.errors import TooComplexError, UndecodablePhotoError, UnsupportedFormatError

try:
    import pillow_heif
except ImportError:
    pillow_heif = None

HEIC = pillow_heif is not None
"""Whether the extra `heic` is installed, and works here."""
_Box: TypeAlias = tuple[bytes, bytes]
"""Kind and content."""
_NAME = "HEIC"
_MAX_BOXES = 4096
_MAX_SLICES = 32  # of one coded image; cameras write one
_PADDING = 64  # rows and columns that an encoder may add: a coding tree unit
_SPS = 33
_PARAMETER_SETS = {32, _SPS, 34}
_SAMPLES = {0: 1, 1: 1.5, 2: 2, 3: 3}
"""A pixel, by chroma_format_idc: gray, 4:2:0, 4:2:2, 4:4:4."""
_ALPHA = (b"urn:mpeg:hevc:2015:auxid:1\0", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0")


def read_heif(data: bytes) -> tuple[int, int, float, bytes]:
    """Read the size, memory and profile of the primary image from the container and the stream, which must agree.

    Returns:
        Its columns and rows as shown (libheif turns and mirrors by itself); bytes to decode it, the file not counted;
        its ICC profile, empty when there is none.

    Raises:
        UnsupportedFormatError: its codec is not HEVC, or it has transparency.
        UndecodablePhotoError: it contradicts itself.
        TooComplexError: it has too many parts.
        IndexError, KeyError, struct.error: it ends too early.
    """
    meta = _Meta(data)
    properties = meta.properties[meta.primary]
    tiles = _tiles(meta)
    coded = [_coded(meta, tile) for tile in sorted(set(tiles))]
    width, height = _extent(properties)
    decoded = width * height
    if meta.kinds[meta.primary] == b"grid":
        _check_grid(meta, tiles, {(columns, rows) for columns, rows, _ in coded}, width, height)
        decoded += coded[0][0] * coded[0][1]
    if sum(kind == b"irot" and body[0] & 1 for kind, body in properties) % 2:
        width, height = height, width
    profile = next((body[4:] for kind, body in properties if kind == b"colr" and body[:4] in {b"prof", b"rICC"}), b"")
    return width, height, decoded * max(each for *_, each in coded), profile


class _Bytes:
    """Big-endian numbers, one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, size: int) -> bytes:
        start, self.position = self.position, self.position + size
        if self.position > len(self.data):
            raise IndexError
        return self.data[start : self.position]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))


def _boxes(data: bytes) -> Iterator[_Box]:
    """Give each box's kind and content."""
    position = 0
    for _ in range(_MAX_BOXES):
        if position >= len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, position)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, position + 8), 16
        end = position + size if size else len(data)
        if (size and size < head) or end > len(data):
            raise UndecodablePhotoError(_NAME)
        yield kind, data[position + head : end]
        position = end
    raise TooComplexError(_NAME, f"{_MAX_BOXES:,} boxes")


def _only(boxes: list[_Box], kind: bytes) -> bytes:
    """Return the content of the only box of a kind: decoders differ in which of two they take."""
    found = [body for name, body in boxes if name == kind]
    if len(found) > 1:
        raise UndecodablePhotoError(_NAME)
    return found[0] if found else b""


class _Meta:
    """The items of a file: their types, places and properties."""

    def __init__(self, file: bytes) -> None:
        self.file, self.unread = file, len(file)  # bytes that no item has used yet
        meta = _only(list(_boxes(file)), b"meta")
        if not meta:
            raise UnsupportedFormatError("HEIC sequences without a still picture are not supported")
        boxes = list(_boxes(meta[4:]))
        pitm = _Bytes(_only(boxes, b"pitm"))
        self.primary = pitm.number(4 if pitm.number(4) >> 24 else 2) if pitm.data else 0
        self.idat = _only(boxes, b"idat")
        self.kinds: dict[int, bytes] = _once(_kinds(_only(boxes, b"iinf")))
        self.places: dict[int, list[tuple[int, int, int]]] = _once(_places(_only(boxes, b"iloc")))
        self.properties = _properties(list(_boxes(_only(boxes, b"iprp"))))
        self.references = list(_references(_only(boxes, b"iref")))

    def data(self, item: int) -> bytes:
        """Put together an item's bytes."""
        parts = []
        for method, start, length in self.places[item]:
            source = self.idat if method else self.file
            end = start + length if length else len(source)
            self.unread -= end - start
            if method > 1 or end > len(source) or self.unread < 0:  # no camera writes items that share bytes
                raise UndecodablePhotoError(_NAME)
            parts.append(source[start:end])
        return b"".join(parts)


def _once(items: Iterable[tuple[int, Any]]) -> dict[int, Any]:
    """Refuse an item that is there twice."""
    found: dict[int, Any] = {}
    for item, value in items:
        if item in found:
            raise UndecodablePhotoError(_NAME)
        found[item] = value
    return found


def _kinds(iinf: bytes) -> Iterator[tuple[int, bytes]]:
    for _, infe in _boxes(iinf[6 if not iinf[0] else 8 :]):
        entry = _Bytes(infe)
        item = entry.number(2 if entry.number(4) >> 24 < 3 else 4)
        entry.take(2)
        yield item, entry.take(4)


def _places(iloc: bytes) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
    """Give each item's extents: how they are placed, where they start, and how long they are."""
    reader = _Bytes(iloc)
    version = reader.number(4) >> 24
    sizes, more = reader.number(1), reader.number(1)
    wide = 4 if version == 2 else 2
    for _ in range(reader.number(wide)):
        item = reader.number(wide)
        method = reader.number(2) & 15 if version else 0
        reader.take(2)
        base = reader.number(more >> 4)
        extents = []
        for _ in range(reader.number(2)):
            reader.take(more & 15 if version else 0)
            start = base + reader.number(sizes >> 4)
            extents.append((method, start, reader.number(sizes & 15)))
        yield item, extents


def _properties(iprp: list[_Box]) -> dict[int, list[_Box]]:
    known, found = list(_boxes(_only(iprp, b"ipco"))), dict[int, list[_Box]]()
    for body in (body for kind, body in iprp if kind == b"ipma"):
        reader = _Bytes(body)
        head = reader.number(4)
        for _ in range(reader.number(4)):
            of = found.setdefault(reader.number(4 if head >> 24 else 2), [])
            for _ in range(reader.number(1)):
                index = reader.number(2) & 0x7FFF if head & 1 else reader.number(1) & 0x7F
                of.extend(known[index - 1 : index] if index else [])
    return found


def _references(iref: bytes) -> Iterator[tuple[bytes, int, list[int]]]:
    wide = 4 if iref[:1] == b"\1" else 2
    for kind, body in _boxes(iref[4:]):
        reader = _Bytes(body)
        item = reader.number(wide)
        yield kind, item, [reader.number(wide) for _ in range(reader.number(2))]


def _tiles(meta: _Meta) -> list[int]:
    """List the coded images that the primary one consists of."""
    kind = meta.kinds[meta.primary]
    for reference, item, to in meta.references:
        about = [body[4:] for name, body in meta.properties.get(item, []) if name == b"auxC"]
        if reference == b"auxl" and meta.primary in to and any(body.startswith(_ALPHA) for body in about):
            raise UnsupportedFormatError("HEIC files with transparency are not supported")
    if kind == b"hvc1":
        return [meta.primary]
    if kind == b"av01":
        raise UnsupportedFormatError("AVIF files are not supported")
    if kind != b"grid":
        raise UnsupportedFormatError("HEIF files with another codec than HEVC are not supported")
    found = [to for reference, item, to in meta.references if reference == b"dimg" and item == meta.primary]
    if len(found) != 1 or not found[0] or any(meta.kinds[tile] != b"hvc1" for tile in found[0]):
        raise UndecodablePhotoError(_NAME)
    return found[0]


def _extent(properties: list[_Box]) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", _only(properties, b"ispe"), 4)
    return width, height


def _check_grid(meta: _Meta, tiles: list[int], sizes: set[tuple[int, int]], width: int, height: int) -> None:
    """Check that the tiles are alike, and cover the picture exactly."""
    grid = _Bytes(meta.data(meta.primary))
    wide = 4 if grid.number(2) & 1 else 2
    rows, columns = grid.number(1) + 1, grid.number(1) + 1
    size = grid.number(wide), grid.number(wide)
    across, down = min(sizes)
    covered = (columns - 1) * across < width <= columns * across and (rows - 1) * down < height <= rows * down
    if size != (width, height) or len(tiles) != rows * columns or len(sizes) > 1 or not covered:
        raise UndecodablePhotoError(_NAME)


def _coded(meta: _Meta, item: int) -> tuple[int, int, float]:
    """Check one coded image; give its columns, its rows, and the memory to decode a pixel of it."""
    width, height = _extent(meta.properties[item])
    config = _Bytes(_only(meta.properties[item], b"hvcC"))
    head = config.take(22)
    sets = []
    for _ in range(config.number(1)):
        kind = config.number(1) & 63
        units = [config.take(config.number(2)) for _ in range(config.number(2))]
        sets += [unit for unit in units if _SPS in {kind, unit[0] >> 1 & 63}]
    if len(sets) != 1:
        raise UndecodablePhotoError(_NAME)
    columns, rows, *form = _read_sps(sets[0])
    fits = width <= columns < width + _PADDING and height <= rows < height + _PADDING
    if not fits or form != [head[16] & 3, head[17] & 7, head[18] & 7]:  # hvcC says the same
        raise UndecodablePhotoError(_NAME)
    _check_units(meta.data(item), (head[21] & 3) + 1)
    each = (1 + any(form[1:])) * _SAMPLES[form[0]]
    return width, height, 2 * each + 4.1  # samples twice, RGB, and what lies beside


def _check_units(stream: bytes, length_size: int) -> None:
    """Check that a stream has one picture and no parameter sets."""
    reader, slices, pictures = _Bytes(stream), 0, 0
    for _ in range(_MAX_BOXES):
        if reader.position == len(stream):
            break
        unit = reader.take(reader.number(length_size))
        kind = unit[0] >> 1 & 63
        slices += kind < 32
        pictures += kind < 32 and unit[2] >> 7
        if kind in _PARAMETER_SETS or pictures > 1:
            raise UndecodablePhotoError(_NAME)
    else:
        raise TooComplexError(_NAME, f"{_MAX_BOXES:,} units")
    if slices > _MAX_SLICES:
        raise TooComplexError(_NAME, f"{_MAX_SLICES} slices")


def _read_sps(unit: bytes) -> tuple[int, int, int, int, int]:
    """Read columns, rows, chroma_format_idc, and the bits beyond 8 of luma and chroma samples."""
    bits = _Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 96)
    for flag in [bits.take(2) for _ in range(8 if layers else 0)][:layers]:
        bits.take(88 * (flag >> 1) + 8 * (flag & 1))
    bits.golomb()
    chroma = bits.golomb()
    if chroma == 3:
        bits.take(1)
    width, height = bits.golomb(), bits.golomb()
    if bits.take(1):
        for _ in range(4):
            bits.golomb()
    return width, height, chroma, bits.golomb(), bits.golomb()


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._left, self._value = 8 * len(data), int.from_bytes(data)

    def take(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """Read an Exp-Golomb code (9.2)."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise IndexError
        return (1 << zeros) - 1 + self.take(zeros)
