"""Read a photo's header before any pixel is decoded: size, orientation, colour profile, and memory to decode it.

Decoders get only the parts that they need. Text, thumbnails and later frames are left out, since a few megabytes of
them can cost a decoder seconds and gigabytes.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from dermserve.imaging.errors import TooComplexError, UndecodablePhotoError, UnsupportedFormatError
from dermserve.imaging.heif import HEIC, HeifPicture, name_space

_MAX_SCANS = 64  # of a JPEG; encoders write 10 to 20. Each walks over all blocks: 8 ms for 50 megapixels
_MAX_PARTS = 4096  # most JPEG segments, PNG or WebP chunks. A PNG of 20 MB in chunks of 8 kB has 2,500
_MAX_PROFILE = 1 << 20  # bytes: profiles of cameras and phones have 500 to 4,000, of printers up to a megabyte

MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # Pillow's, by channels
_ORIENTATION = 0x0112
# The entry of an EXIF block, in both byte orders, by which cameras name Adobe RGB (DCF 2.0: interoperability R03).
_ADOBE_RGB = (b"\x01\0\x02\0\x04\0\0\0R03", b"\0\x01\0\x02\0\0\0\x04R03")
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")  # 00: a stuffed byte, 01: TEM, D0 to D7: restarts, FF: a fill byte
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
# Segments of applications, and comments; but Adobe's APP14 names the coding of colours.
_DROPPED = {*range(0xE1, 0xF0), 0xFE} - {0xEE}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

# Magic numbers of unsupported formats, to name them in the error.
_KNOWN = {
    "GIF": re.compile(rb"GIF8"),
    "BMP": re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL),
    "TIFF, DNG and raw camera": re.compile(rb"II[*+]\0|MM\0[*+]|IIRO|IIU\0|FUJIFILMCCD-RAW|.{4}ftypcrx ", re.DOTALL),
    "DICOM": re.compile(rb".{128}DICM", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", re.DOTALL),
    "AVIF": re.compile(rb".{4}ftypavi[fs]", re.DOTALL),
    "HEIC": re.compile(rb".{4}ftyp(hei|hev|mif1|msf1)", re.DOTALL),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one photo."""

    format: str  # "JPEG", "PNG", "WebP" or "HEIC"
    kind: str  # the format with the properties that decide how much memory it takes, in words
    mode: str  # what a JPEG decodes to: L, RGB or CMYK; empty for other formats
    width: int
    height: int
    data: bytes  # the file, without the parts that a decoder does not need
    pixel_bytes: float  # memory for each pixel while it is decoded at full size
    orientation: int = 1  # EXIF orientation, 1 to 8
    profile: bytes = b""  # ICC profile; empty when there is none or it is broken
    space: str = ""  # "Adobe RGB", "BT.2020" or "Display P3" where the file names it and has no profile
    heif: HeifPicture | None = None  # the opened HEIC file; None for other formats


def read_header(data: bytes) -> Header:
    """Read the header of a JPEG, PNG or WebP file, or of a HEIC file with the extra `heic`.

    Raises:
        UnsupportedFormatError: it is in another format.
        UndecodablePhotoError: its header is damaged.
        TooComplexError: it has too many parts or scans.
    """
    for image_format, (magic, read) in _FORMATS.items():
        if magic.match(data):
            try:
                return read(data)
            except (IndexError, KeyError, struct.error) as error:  # the file ends within the header
                raise UndecodablePhotoError(image_format) from error
    for name, magic in _KNOWN.items():
        if magic.match(data[:1024]):
            raise UnsupportedFormatError(f"{name} files are not supported")
    raise UnsupportedFormatError("the bytes are not an image this service can read")


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield each marker of a JPEG, with the start and end of its segment."""
    for _ in range(_MAX_PARTS):
        found = _MARKER.search(data, position)
        if found is None:
            return
        marker, start = data[found.end() - 1], found.start()
        bare = marker in {_SOI, _EOI}
        position = found.end() if bare else found.end() + max(2, *struct.unpack_from(">H", data, found.end()))
        yield marker, start, position
        if marker == _EOI:
            return
    raise TooComplexError("JPEG", f"{_MAX_PARTS:,} segments")


def _jpeg(data: bytes) -> Header:
    frame, exif, kept, profile = b"", b"", [data[:2]], {}
    walk = _segments(data, 2)
    for marker, start, end in walk:
        segment = data[start + 4 : end]
        if marker == _SOS:
            break
        if marker in _FRAMES:
            if frame:  # decoders differ in which one they take
                raise UndecodablePhotoError("JPEG")
            frame = bytes([marker]) + segment
        if marker == 0xE1 and segment.startswith(b"Exif\0\0"):
            exif = exif or segment[6:]
        elif marker == 0xE2 and segment.startswith(b"ICC_PROFILE\0"):
            profile[segment[12:13]] = segment[14:]
        elif marker not in _DROPPED:
            kept.append(data[start:end])
    else:
        raise UndecodablePhotoError("JPEG")
    coding, precision, height, width, components = struct.unpack_from(">BBHHB", frame)
    if coding > 0xC2 or precision != 8:
        raise UnsupportedFormatError(
            "JPEG files that are arithmetically coded, lossless or of 12 bits are not supported"
        )
    # Of a sequential file whose first scan has all components, decoders read no further scan.
    whole = coding != 0xC2 and data[start + 4] == components
    if not whole and sum(marker == _SOS for marker, *_ in walk) >= _MAX_SCANS:
        raise TooComplexError("JPEG", f"{_MAX_SCANS} scans")
    joined = b"".join(profile[number] for number in sorted(profile))
    samples = [(factors >> 4) * (factors & 15) for factors in frame[8 : 7 + 3 * components : 3]]
    held = 0 if whole else 2 * sum(samples) / max([1, *samples])  # decoders keep all coefficients until the last scan
    clean = b"".join([*kept, memoryview(data)[start:]])
    kind = "JPEG" if whole else "progressive JPEG"
    mode = MODES.get(components, "")
    space = "Adobe RGB" if any(entry in exif for entry in _ADOBE_RGB) else ""
    return Header("JPEG", kind, mode, width, height, clean, held, _orientation(exif), joined[:_MAX_PROFILE], space)


def _png(data: bytes) -> Header:
    kept, exif, profile, space, position = [data[:8]], b"", b"", "", 8
    for _ in range(_MAX_PARTS):
        length, name = struct.unpack_from(">I4s", data, position)
        start, position = position, position + 12 + length
        if (name == b"IHDR") != (start == 8):  # decoders differ in which one they take
            raise UndecodablePhotoError("PNG")
        if name in _PNG_KEPT and not (name == b"tRNS" and length > 256):  # which fits no palette
            kept.append(data[start:position])
        elif name == b"eXIf":
            exif = data[start + 8 : position]
        elif name == b"cICP":
            space = name_space(*data[start + 8 : start + 10])
        elif name == b"iCCP":
            profile = _inflated(data[start + 8 : position - 4].partition(b"\0")[2][1:])
        if name == b"IEND" or position >= len(data):
            break
    else:
        raise TooComplexError("PNG", f"{_MAX_PARTS:,} chunks")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    one = {0: max(1, depth // 8), 3: 1}.get(colour, 4)
    kind = f"PNG in {'gray' if colour == 0 else 'palette colours' if colour == 3 else 'colour or with transparency'}"
    return Header("PNG", kind, "", width, height, b"".join(kept), one, _orientation(exif), profile, space)


def _webp(data: bytes) -> Header:
    data = data[: 8 + int.from_bytes(data[4:8], "little")]  # without what follows the file
    chunks: dict[bytes, bytes] = {}
    position = 12
    for _ in range(_MAX_PARTS):
        if position >= len(data):
            break
        name, length = struct.unpack_from("<4sI", data, position)
        chunks.setdefault(name, data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    else:
        raise TooComplexError("WebP", f"{_MAX_PARTS:,} chunks")
    first = next(iter(chunks), b"")  # identifies the form of the file
    if first == b"VP8X":
        canvas = chunks[first]
        width, height = (1 + int.from_bytes(canvas[at : at + 3], "little") for at in (4, 7))
    elif first == b"VP8L":
        bits = int.from_bytes(chunks[first][1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", chunks[b"VP8 "], 6))
    exif = chunks.get(b"EXIF", b"").removeprefix(b"Exif\0\0")
    return Header(
        "WebP", "WebP", "", width, height, data, 17, _orientation(exif), chunks.get(b"ICCP", b"")[:_MAX_PROFILE]
    )


def _heic(data: bytes) -> Header:
    heif = HeifPicture(data)
    each = heif.memory / max(1, heif.width * heif.height)
    profile = heif.profile[:_MAX_PROFILE]
    return Header("HEIC", "HEIC", "", heif.width, heif.height, data, each, 1, profile, heif.space, heif)


def _inflated(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, _MAX_PROFILE)
    except zlib.error:
        return b""


def _orientation(exif: bytes) -> int:
    """Find one tag in the first directory of an EXIF block; a broken block has none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (offset,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, offset)
        for at in range(offset + 2, offset + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at)
            if tag == _ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


_FORMATS = {
    "JPEG": (re.compile(rb"\xff\xd8\xff"), _jpeg),
    "PNG": (re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    "WebP": (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), _webp),
}
if HEIC:
    _FORMATS["HEIC"] = (_KNOWN["HEIC"], _heic)
