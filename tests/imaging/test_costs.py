"""Memory and time of a photo are bounded by its header, whatever its format and mode."""

import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from dermserve.imaging import Limits, decode
from dermserve.imaging.errors import TooComplexError, TooManyPixelsError, UndecodablePhotoError
from dermserve.imaging.header import read_header
from tests.imaging import files, heif_files

_ALLOWED = 20_000_000
"""Bytes of memory allowed for a photo in the table, a fifth of the default, so that it is quick."""
_BESIDE = 8 << 20
"""Bytes for what does not grow with a photo: bands, the model's input."""
_SIDE = 3000
"""The longest in the table."""


def _pngs() -> Iterator[tuple[str, Callable[[int], bytes]]]:
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 8), 4: (8, 16), 6: (8, 16)}
    for colour, depth in ((colour, depth) for colour, some in depths.items() for depth in some):
        yield (
            f"png_colour{colour}_depth{depth}",
            lambda side, colour=colour, depth=depth: files.png(side, side, colour=colour, depth=depth),
        )
    for colour, alpha in {0: bytes(2), 2: bytes(6), 3: bytes(range(256))}.items():
        extra = files.chunk(b"tRNS", alpha)
        yield (
            f"png_colour{colour}_transparent",
            lambda side, colour=colour, extra=extra: files.png(
                side, side, colour=colour, extra=b"" if colour == 3 else extra
            ),
        )
    yield "png_interlaced", lambda side: files.png(side, side, colour=6, interlaced=True)


def _saved(mode: str, image_format: str, **options: object) -> Callable[[int], bytes]:
    def make(side: int) -> bytes:
        gradient = Image.linear_gradient("L").resize((side, side))
        return files.saved(gradient.convert("RGB").convert(mode), image_format, **options)

    return make


def _animated(side: int) -> bytes:
    frames = [Image.new("RGBA", (side, side), colour) for colour in ("red", "green", "blue")]
    return files.saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True, method=0)


_TILE = heif_files.coded("gradient_512.heic")


CASES = {
    **dict(_pngs()),
    **{f"jpeg_{mode}": _saved(mode, "JPEG") for mode in ("L", "RGB", "CMYK")},
    **{f"jpeg_{mode}_progressive": _saved(mode, "JPEG", progressive=True) for mode in ("L", "RGB", "CMYK")},
    "jpeg_progressive_444": _saved("RGB", "JPEG", progressive=True, subsampling=0),
    **{f"webp_{mode}": _saved(mode, "WEBP", method=0) for mode in ("RGB", "RGBA")},
    **{f"webp_{mode}_lossless": _saved(mode, "WEBP", method=0, lossless=True) for mode in ("RGB", "RGBA")},
    "webp_animated": _animated,
    "heic_grid": lambda side: heif_files.grid(_TILE, side, side),
    "heic_one_tile": lambda side: heif_files.grid(_TILE, min(side, 512), min(side, 512)),
}


def _peak() -> int:
    return int(next(line for line in Path("/proc/self/status").open() if line.startswith("VmHWM")).split()[1]) << 10


def _rise(data: bytes, limits: Limits) -> int:
    """Decode, and give by how many bytes resident memory rose meanwhile."""
    decode(_saved("RGB", "JPEG")(64), height=32, width=32)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak()
    decode(data, height=224, width=224, limits=limits)
    return _peak() - before


def _largest_allowed(make: Callable[[int], bytes], limits: Limits) -> bytes:
    each = read_header(make(64)).pixel_bytes
    side = min(_SIDE, int((0.85 * limits.max_memory / each) ** 0.5)) if each else _SIDE
    return make(side)


def measure_all() -> None:
    """Print the rise of memory of each case, in bytes; each in a process forked for it, without memory to reuse."""
    limits, default = Limits(max_memory=_ALLOWED), Limits()
    cases: dict[str, Callable[[], int]] = {
        name: lambda make=make: _rise(_largest_allowed(make, limits), limits) for name, make in CASES.items()
    }
    cases["large_png"] = lambda: _rise(files.png(6800, 6800, colour=6, depth=16), default)
    cases["large_webp"] = lambda: _rise(CASES["webp_RGBA_lossless"](3200), default)
    cases["large_heic"] = lambda: _rise(heif_files.grid(_TILE, 5712, 4284), default)
    for name, measure in cases.items():
        if os.fork() == 0:
            try:
                print(name, measure(), flush=True)  # noqa: T201
            finally:
                os._exit(0)
        os.wait()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's peak of resident memory")
def test_no_photo_takes_more_memory_than_its_header_says() -> None:
    command = [sys.executable, "-c", "from tests.imaging.test_costs import measure_all; measure_all()"]
    folder = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=folder, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    rises = {name: int(rise) for name, rise in (line.split() for line in ended.stdout.splitlines())}
    *table, png, webp, heic = rises  # the last three of the default size
    assert table == list(CASES)
    assert {name: rise for name, rise in rises.items() if name in CASES and rise > _ALLOWED + _BESIDE} == {}
    assert max(rises[png], rises[webp], rises[heic]) <= Limits().max_memory + _BESIDE
    assert min(rises[png], rises[webp], rises[heic]) > 100 << 20  # what was measured is what was decoded


_PROGRESSIVE = _saved("RGB", "JPEG", progressive=True, subsampling=0)(90)
_FLAT_WEBP = (Path(__file__).parent / "cases" / "flat_49_9_megapixels.webp").read_bytes()


def _resized(jpeg: bytes, side: int) -> bytes:
    """Let a JPEG of 90×90 say that it has another size."""
    return jpeg.replace(struct.pack(">HH", 90, 90), struct.pack(">HH", side, side), 1)


@pytest.mark.parametrize(
    ("data", "most"),
    [
        (lambda: files.png(7000, 7000), r"47\.\d megapixels for a PNG in colour"),
        (lambda: _FLAT_WEBP, r"11\.\d megapixels for a WebP"),
        (lambda: _resized(_PROGRESSIVE, 7000), r"31 megapixels for a progressive JPEG"),
        (lambda: heif_files.grid(_TILE, 7000, 7000), r"26\.\d megapixels for a HEIC"),
    ],
    ids=["png", "webp", "progressive", "heic"],
)  # fmt: skip
def test_a_format_that_is_not_reduced_while_decoded_has_its_own_limit(data: Callable[[], bytes], most: str) -> None:
    photo = data()
    with pytest.raises(TooManyPixelsError, match=most) as caught:
        decode(photo, height=224, width=224)
    assert str(caught.value).endswith("scale it down first, or send a baseline JPEG")


_JPEG = files.saved(Image.linear_gradient("L").resize((90, 90)).convert("RGB"), "JPEG")
_PNG = files.saved(Image.linear_gradient("L").resize((90, 90)).convert("RGB"), "PNG")
_EXIF, _TEXT = files.segment(0xE1, b"Exif\0\0"), files.chunk(b"tEXt", b"a\0b")


def _webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


_SMALL_CANVAS = (b"VP8X", bytes(4) + b"\x63\0\0" * 2)
_SMALL_FRAME = files.segment(0xC0, struct.pack(">BHHB", 8, 90, 90, 3) + b"\1\x22\0\2\x11\1\3\x11\1")


@pytest.mark.parametrize(
    "data",
    [
        lambda: files.png(90, 90, extra=files.png_header(12_000, 12_000)),
        lambda: files.png(90, 90, extra=files.png_header(30_000, 30_000)),
        lambda: _JPEG[:2] + _SMALL_FRAME + _resized(_JPEG[2:], 12_000),
        lambda: _webp(_SMALL_CANVAS, (b"VP8L", _FLAT_WEBP[20:])),
        lambda: _webp((b"JUNK", b""), _SMALL_CANVAS, (b"VP8L", _FLAT_WEBP[20:])),
        lambda: _webp((b"VP8L", _FLAT_WEBP[20:]), _SMALL_CANVAS),
    ],
    ids=["png", "png_bomb", "jpeg", "webp_canvas", "webp_junk_first", "webp_canvas_last"],
)
def test_a_photo_of_two_sizes_is_refused_by_the_larger_or_as_damaged(data: Callable[[], bytes]) -> None:
    photo = data()
    with pytest.raises((TooManyPixelsError, UndecodablePhotoError)):
        decode(photo, height=32, width=32)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: files.jpeg_of_scans(2000, 65), "JPEG file has more than 64 scans"),
        (lambda: _JPEG[:2] + files.segment(0xE5) * 1_000_000 + _JPEG[2:], "JPEG file has more than 4,096 segments"),
        (lambda: _JPEG[:2] + _EXIF * 1_000_000 + _JPEG[2:], "JPEG file has more than 4,096 segments"),
        (
            lambda: _PROGRESSIVE[:-2] + files.segment(0xE2) * 1_000_000 + _PROGRESSIVE[-2:],
            "JPEG file has more than 4,096 segments",
        ),
        (lambda: _PNG[:33] + files.chunk(b"IDAT", b"") * 1_000_000 + _PNG[33:], "PNG file has more than 4,096 chunks"),
        (lambda: _PNG[:33] + _TEXT * 1_000_000 + _PNG[33:], "PNG file has more than 4,096 chunks"),
        (lambda: _webp((b"VP8X", bytes(10)), *[(b"ANMF", b"")] * 500_000), "WebP file has more than 4,096 chunks"),
    ],
    ids=["scans", "segments", "exif", "segments_between_scans", "idat", "text", "frames"],
)  # fmt: skip
def test_a_photo_of_too_many_parts_is_refused_at_once(data: Callable[[], bytes], words: str) -> None:
    photo = data()
    start = time.process_time()
    with pytest.raises(TooComplexError, match=words):
        decode(photo, height=224, width=224)
    assert time.process_time() - start < 1


def _many_tags() -> bytes:
    tags = (struct.pack("<HHII", 0x8000 + tag % 0x7000, 7, 1_000_000, 8) for tag in range(65_000))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 65_000) + b"".join(tags) + bytes(10**6)


@pytest.mark.parametrize(
    "data",
    [
        lambda: _JPEG[:2] + b"\xff" * 19_000_000 + _JPEG[2:],
        lambda: _JPEG[:-2] + b"\xff" * 19_000_000 + _JPEG[-2:],
        lambda: _JPEG[:-2] + b"\xff\xd0" * 9_000_000 + _JPEG[-2:],
        lambda: _JPEG[:-2] + files.segment(0xE2) * 4_000_000 + _JPEG[-2:],
        lambda: _JPEG[:2] + files.segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 290 + _JPEG[2:],
        lambda: _PNG[:33] + files.chunk(b"eXIf", _many_tags()) + _PNG[33:],
        lambda: _PNG[:33] + files.chunk(b"iCCP", b"a\0\0" + files.zeros(200_000_000)) + _PNG[33:],
        lambda: _PNG[:33] + files.chunk(b"zTXt", b"a\0\0" + files.zeros(200_000_000)) + _PNG[33:],
        lambda: files.jpeg_of_scans(6400, 63),
        lambda: files.png(6600, 6600, colour=6, depth=16),
        lambda: files.png(11_000, 11_000, colour=3),
        lambda: files.saved(Image.new("RGB", (12_000, 9000), "pink"), "JPEG"),
        lambda: heif_files.grid(_TILE, 5712, 4284),
    ],
    ids=[
        "fill", "fill_after", "restarts", "segments_after", "exif", "exif_tags", "profile_bomb", "text_bomb", "scans",
        "png", "palette", "jpeg", "heic",
    ],
)  # fmt: skip
def test_no_photo_takes_two_seconds_of_a_core(data: Callable[[], bytes]) -> None:
    photo = data()
    start = time.process_time()
    assert decode(photo, height=224, width=224).shape == (224, 224, 3)
    assert time.process_time() - start < 2
