"""Photo files of every format and mode, made by code: PNGs of any depth, JPEGs of many scans, colour profiles."""

import io
import math
import struct
import zlib

from PIL import Image

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_STORED = (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270,
)  # fmt: skip
"""How the pixels of an upright photo lie in a file with EXIF orientation 2 to 8."""
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values a pixel, by the colour type of a PNG."""


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    """Save an image to bytes."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def turned(upright: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    """Give the pixels as they lie in the file, and the EXIF block that says how to turn them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return upright if orientation == 1 else upright.transpose(_STORED[orientation - 2]), exif


def chunk(name: bytes, data: bytes) -> bytes:
    """Make a chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def zeros(count: int) -> bytes:
    """Compress many zeros into few bytes."""
    packed = zlib.compressobj(9)
    return b"".join(packed.compress(bytes(1_000_000)) for _ in range(count // 1_000_000)) + packed.flush()


def png_header(width: int, height: int, *, depth: int = 8, colour: int = 2, interlaced: bool = False) -> bytes:
    """Make the first chunk of a PNG."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """Write a PNG whose values are all 0; `extra` chunks lie before the pixels."""
    packed = zlib.compressobj(1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    pixels = b"".join(
        packed.compress(bytes(1 + (math.ceil((width - x) / dx) * CHANNELS[colour] * depth + 7) // 8))
        for x, y, dx, dy in passes
        for _ in range(math.ceil((height - y) / dy))
    )
    header = png_header(width, height, depth=depth, colour=colour, interlaced=interlaced)
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [header, palette, extra, chunk(b"IDAT", pixels + packed.flush()), chunk(b"IEND", b"")]
    )


def segment(marker: int, data: bytes = b"") -> bytes:
    """Make a segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """Write a gray progressive JPEG without detail: a scan for the mean of each block, others that add nothing."""
    blocks = math.ceil(side / 8) ** 2
    tables = segment(0xC4, bytes([0x00, 1, *[0] * 15, 0])) + segment(0xC4, bytes([0x10, 1, *[0] * 15, 0xE0]))
    frame = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, struct.pack(">BHHB3s", 8, side, side, 1, b"\1\x11\0"))
    means = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(math.ceil(blocks / 8))
    runs, left = "", blocks
    while left:  # one code ends up to 32,767 blocks
        run = min(left, 32_767) if left >= 16_384 else left
        runs += "0" + format(max(run - 16_384, 0), "014b")
        left -= min(left, max(run, 16_384))
    bits = runs + "1" * (-len(runs) % 8)
    packed = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    return (
        b"\xff\xd8"
        + frame
        + tables
        + means
        + (segment(0xDA, bytes([1, 1, 0, 1, 63, 0, 0])[:6]) + packed) * (scans - 1)
        + b"\xff\xd9"
    )


def _tag(kind: bytes, *numbers: float) -> bytes:
    return kind + bytes(4) + b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def profile(space: bytes, tags: dict[bytes, bytes], *, connection: bytes = b"XYZ ") -> bytes:
    """Write an ICC profile."""
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, b"mntr", space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">iii", 63190, 65536, 54061) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


_WHITE = {b"wtpt": _tag(b"XYZ ", 0.9642, 1, 0.8249)}


def rgb_profile(red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...], gamma: float) -> bytes:
    """Write a profile of three primaries, as XYZ adapted to D50, and one gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    primaries = {b"rXYZ": red, b"gXYZ": green, b"bXYZ": blue}
    tags = {name: _tag(b"XYZ ", *primary) for name, primary in primaries.items()}
    return profile(b"RGB ", _WHITE | tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def gray_profile(gamma: float) -> bytes:
    """Write a profile of gray of one gamma."""
    return profile(b"GRAY", _WHITE | {b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))})


def cmyk_profile(grid: int = 9) -> bytes:
    """Write a profile by which all inks give middle gray: a table of grid⁴ Lab colours."""
    identity = b"".join(struct.pack(">i", 65536 * (row == column)) for row in range(3) for column in range(3))
    table = struct.pack(">HHH", 0x8000, 0x8000, 0x8000) * grid**4
    curves = struct.pack(">HH", 0, 65535)
    lut = b"mft2" + bytes(4) + bytes([4, 3, grid, 0]) + identity + struct.pack(">HH", 2, 2) + curves * 4 + table
    return profile(b"CMYK", _WHITE | {b"A2B0": lut + curves * 3}, connection=b"Lab ")


DISPLAY_P3 = rgb_profile((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841), 2.2)
ADOBE_RGB = rgb_profile((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446), 2.19921875)
BT_2020 = rgb_profile((0.6735, 0.2790, -0.0019), (0.1657, 0.6753, 0.0300), (0.1250, 0.0456, 0.7970), 2.2)
PROPHOTO = rgb_profile((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249), 1.8)


def adobe_rgb_exif(order: str) -> bytes:
    """Write an EXIF block of Adobe RGB (DCF 2.0): colour space "uncalibrated", interoperability R03."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]

    def directory(*entries: bytes) -> bytes:
        return struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)

    def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")

    long = struct.Struct(f"{order}I").pack
    first = directory(entry(0x8769, 4, 1, long(26)))
    second = directory(entry(0xA001, 3, 1, struct.pack(f"{order}H", 0xFFFF)), entry(0xA005, 4, 1, long(56)))
    return b"Exif\0\0" + mark + long(8) + first + second + directory(entry(1, 2, 4, b"R03\0"))
