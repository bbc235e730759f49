"""HEIC: decoded by the extra `heic`, and only if container and HEVC stream agree on what there is to decode."""

import contextlib
import dataclasses
import io
import struct
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dermserve.imaging import Limits, PhotoError, decode, header
from dermserve.imaging.errors import (
    TooComplexError,
    TooManyPixelsError,
    TooSmallError,
    UndecodablePhotoError,
    UnsupportedFormatError,
)
from tests.imaging import files
from tests.imaging.heif_files import CASES, box, coded, full, grid, heic, ispe, single

_COLOURS = coded("colours.heic")
_TILE = coded("gradient_512.heic")
_CONFIG = box(b"hvcC", _COLOURS.config)
_SIZE = ispe(_COLOURS.width, _COLOURS.height)


def _pixels(data: bytes, height: int = 96, width: int = 128) -> np.ndarray:
    return decode(data, height=height, width=width).astype(int)


def _expected() -> np.ndarray:
    rows, columns = np.mgrid[0:96, 0:128]
    return np.stack([columns * 2, rows * 2.6, rows + columns], -1).clip(0, 255).astype(np.uint8).astype(int)


@pytest.mark.parametrize("name", ["colours.heic", "deep.heic"])
def test_a_heic_gives_the_pixels_it_was_made_of(name: str) -> None:
    data = (CASES / name).read_bytes()
    read = header.read_header(data)
    assert (read.format, read.width, read.height) == ("HEIC", 128, 96)
    assert np.abs(_pixels(data) - _expected()).mean() < 3


def _coloured(primaries: int, transfer: int, *more: bytes) -> bytes:
    """Write a file that names its colour space by code points (ITU-T H.273), full range, matrix of BT.601."""
    return single(_COLOURS, box(b"colr", b"nclx", struct.pack(">HHHB", primaries, transfer, 6, 0x80)), *more)


@pytest.mark.parametrize(("primaries", "profile"), [(12, files.DISPLAY_P3), (9, files.BT_2020)])
def test_colours_named_by_number_are_converted_as_by_a_profile(primaries: int, profile: bytes) -> None:
    pixels, plain = _pixels(_coloured(primaries, 13)), _pixels(_coloured(1, 13))
    by_profile = ImageCms.buildTransform(io.BytesIO(profile), ImageCms.createProfile("sRGB"), "RGB", "RGB")
    expected = np.asarray(by_profile.apply(Image.fromarray(plain.astype(np.uint8)))).astype(int)
    assert np.abs(plain - expected).mean() > 5
    assert np.abs(pixels - expected).mean() < 2


def test_a_profile_counts_more_than_colours_named_by_number() -> None:
    profile = box(b"colr", b"prof", files.DISPLAY_P3)
    assert (_pixels(_coloured(9, 13, profile)) == _pixels(_coloured(1, 13, profile))).all()


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_named_and_not_answered_in_faded_colours(transfer: int) -> None:
    with pytest.raises(UnsupportedFormatError, match="HDR"):
        header.read_header(_coloured(9, transfer))


def test_a_gray_heic_is_gray() -> None:
    pixels = _pixels((CASES / "gray.heic").read_bytes())
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert pixels[-1].mean() - pixels[0].mean() > 200


def test_a_grid_of_tiles_is_one_picture() -> None:
    pixels = _pixels(grid(_COLOURS, 256, 192), 192, 256)
    assert np.abs(pixels[:96, :128] - pixels[96:, 128:]).max() <= 2
    assert np.abs(pixels[96:, 128:] - _expected()).mean() < 3


def test_an_iphones_file_with_thumbnail_gain_map_and_tone_map_is_decoded() -> None:
    gray = coded("gray.heic")
    gain = (ispe(gray.width, gray.height), box(b"hvcC", gray.config), full(b"auxC", b"urn:com:apple:photo:2020\0"))
    layout = bytes([0, 1, 1, 1]) + struct.pack(">II", 256, 192)
    items = [(b"grid", layout, (ispe(256, 192),)), *[(b"hvc1", _COLOURS.stream, (_SIZE, _CONFIG))] * 5]
    items += [(b"hvc1", gray.stream, gain), (b"tmap", bytes(62), (ispe(256, 192),)), (b"Exif", bytes(4), ())]
    references = [(b"dimg", 1, range(2, 6)), (b"thmb", 6, [1]), (b"auxl", 7, [1, 8]), (b"dimg", 8, [1, 7])]
    data = heic(items, references=[*references, (b"cdsc", 9, [1, 8])])
    assert (_pixels(data, 192, 256) == _pixels(grid(_COLOURS, 256, 192), 192, 256)).all()


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_heic_is_turned_and_mirrored_as_its_container_says(turns: int, axis: int | None) -> None:
    mirror = [] if axis is None else [box(b"imir", bytes([axis]))]
    data = single(_COLOURS, box(b"irot", bytes([turns])), *mirror)
    expected = np.rot90(_expected(), turns)
    expected = expected if axis is None else expected[:, ::-1] if axis else expected[::-1]
    read = header.read_header(data)
    assert (read.height, read.width) == expected.shape[:2]
    assert np.abs(_pixels(data, *expected.shape[:2]) - expected).mean() < 3


def test_the_exif_orientation_of_a_heic_is_ignored_as_its_standard_says() -> None:
    exif = b"\0\0\0\0" + Image.Exif().tobytes() + b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
    data = heic([(b"hvc1", _COLOURS.stream, (_SIZE, _CONFIG)), (b"Exif", exif, ())], references=[(b"cdsc", 2, [1])])
    assert (_pixels(data) == _pixels(single(_COLOURS))).all()


def test_the_colour_profile_of_a_heic_is_converted() -> None:
    plain, wide = _pixels(single(_COLOURS)), _pixels(single(_COLOURS, box(b"colr", b"prof" + files.DISPLAY_P3)))
    assert 1 < np.abs(wide - plain).mean() < 30


def test_only_the_primary_picture_is_decoded() -> None:
    lying = (ispe(1600, 1600), box(b"hvcC", _COLOURS.config))
    data = heic(
        [(b"hvc1", _COLOURS.stream, (_SIZE, _CONFIG)), (b"hvc1", _COLOURS.stream, lying), (b"hvc1", b"12", lying)],
        references=[(b"thmb", 2, [1])],
    )
    assert (_pixels(data) == _pixels(single(_COLOURS))).all()


def _sps(columns: int, rows: int) -> bytes:
    """Write the start of a sequence parameter set of another size, in the gradient's profile."""

    def golomb(number: int) -> str:
        return "0" * ((number + 1).bit_length() - 1) + format(number + 1, "b")

    bits = "00000001" + "0" * 96 + golomb(0) + golomb(3) + "0" + golomb(columns) + golomb(rows) + "0" + golomb(0) * 2
    bits += "1" * (-len(bits) % 8)
    raw = int(bits, 2).to_bytes(len(bits) // 8)
    return b"\x42\x01" + raw.replace(b"\0\0", b"\0\0\3")


def _config(*units: bytes) -> bytes:
    arrays = b"".join(bytes([0x80 | unit[0] >> 1 & 63]) + struct.pack(">HH", 1, len(unit)) + unit for unit in units)
    return _COLOURS.config[:22] + bytes([len(units)]) + arrays


def _unit(kind: int) -> bytes:
    return struct.pack(">I", 40) + bytes([kind << 1, 1]) + bytes(38)


_HUGE = dataclasses.replace(_TILE, config=_config(_sps(16_000, 16_000)))
_ALPHA = full(b"auxC", b"urn:mpeg:hevc:2015:auxid:1\0")
_BASE = (b"hvc1", _COLOURS.stream, (_SIZE, _CONFIG))
_AS_MAP = full(b"infe", struct.pack(">HH", 1, 0), b"tmap\0", version=2)
_GRID = (b"grid", bytes([0, 1, 0, 0]) + struct.pack(">II", 128, 96), (_SIZE,))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (single(_COLOURS, size=ispe(16_000, 9000)), TooManyPixelsError, "128 megapixels"),
        (single(_COLOURS, size=ispe(3000, 2000)), UndecodablePhotoError, "HEIC file is truncated or damaged"),
        (single(dataclasses.replace(_COLOURS, width=40)), UndecodablePhotoError, "damaged"),
        (single(_HUGE), UndecodablePhotoError, "damaged"),
        (single(dataclasses.replace(_COLOURS, config=_config(_sps(128, 96), _sps(16_000, 96)))),
         UndecodablePhotoError, "damaged"),
        (single(_COLOURS, stream=_unit(33) + _COLOURS.stream), UndecodablePhotoError, "damaged"),
        (single(_COLOURS, stream=_unit(35) * 10_000), TooComplexError, "100,000 units"),
        (single(dataclasses.replace(_COLOURS, config=_COLOURS.config[:17] + b"\xfa" + _COLOURS.config[18:])),
         UndecodablePhotoError, "damaged"),
        (single(_COLOURS, ispe(12_000, 12_000)), TooManyPixelsError, "megapixels"),
        (single(_COLOURS, box(b"clap", struct.pack(">8I", 64, 1, 64, 1, 0, 1, 0, 1)), size=ispe(6000, 6000)),
         TooManyPixelsError, "megapixels"),
        (grid(_HUGE, 600, 400), UndecodablePhotoError, "damaged"),
        (grid(_TILE, 100, 100, columns=5, rows=5), UndecodablePhotoError, "damaged"),
        (grid(_TILE, 1000, 1000, copies=3), UndecodablePhotoError, "damaged"),
        (grid(_TILE, 16_000, 9_000), TooManyPixelsError, "128 megapixels"),
        (grid(_COLOURS, 20, 20), TooSmallError, "20×20"),
        (heic([_GRID, _GRID, _BASE], references=[(b"dimg", 1, [2]), (b"dimg", 2, [3])]),
         UndecodablePhotoError, "damaged"),
        (heic([_GRID, (*_GRID[:2], (_SIZE, _AS_MAP)), _BASE], references=[(b"dimg", 1, [2]), (b"dimg", 2, [3])]),
         UndecodablePhotoError, "damaged"),
        (heic([_BASE, (b"hvc1", _COLOURS.stream, (_SIZE, _CONFIG, _ALPHA))], references=[(b"auxl", 2, [1])]),
         UnsupportedFormatError, "transparency"),
        (heic([(b"av01", b"", (_SIZE,))]), UnsupportedFormatError, "without a still picture in HEVC"),
        (heic([(b"iovl", b"", (_SIZE,)), _BASE], references=[(b"dimg", 1, [2])]), UnsupportedFormatError, "tiles"),
        (single(_COLOURS)[:24], UnsupportedFormatError, "still picture"),
        (heic([_BASE], extra=box(b"free") * 5000), TooComplexError, "4,096 boxes"),
        (heic([_BASE], references=[(b"thmb", 2, [1] * 60_000)]), TooComplexError, "100,000 bytes of references"),
        ((CASES / "transparent.heic").read_bytes(), UnsupportedFormatError, "transparency"),
    ],
    ids=[
        "large", "size_beyond_stream", "size_below_stream", "stream_beyond_size", "two_sps", "sps_in_stream", "units",
        "two_depths", "two_sizes", "cut_out", "tile_beyond_size", "tiles_beyond_picture", "missing_tile", "large_grid",
        "small_grid", "grid_of_grids", "grid_as_tone_map", "alpha", "avif", "overlay", "sequence", "boxes",
        "references", "alpha_of_encoder",
    ],
)  # fmt: skip
def test_a_heic_that_would_take_more_than_it_says_is_refused(data: bytes, error: type[PhotoError], words: str) -> None:
    with pytest.raises(error, match=words):
        _pixels(data)


def test_items_that_share_bytes_are_refused() -> None:
    whole = single(_COLOURS)
    place = struct.pack(">HHHII", 1, 0, 1, whole.index(_COLOURS.stream), len(_COLOURS.stream))
    many = b"".join(place[4:] for _ in range(3))[2:]
    data = whole.replace(place, struct.pack(">HHH", 1, 0, 3) + many)
    with pytest.raises(UndecodablePhotoError):
        _pixels(data)


def test_metadata_is_not_copied_for_each_picture() -> None:
    count, note = 60, b"\0\0\0\0" + b"A" * 4_000_000
    data = heic([_BASE] * count + [(b"Exif", note, ())], references=[(b"cdsc", count + 1, range(1, count + 1))])
    tracemalloc.start()
    try:
        assert (_pixels(data) == _pixels(single(_COLOURS))).all()
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [lambda: single(_COLOURS), lambda: grid(_COLOURS, 256, 192)], ids=["single", "grid"])
def test_a_heic_truncated_anywhere_is_refused(make: Callable[[], bytes]) -> None:
    data = make()
    for length in range(12, len(data) - 1, max(1, len(data) // 200)):
        with pytest.raises(PhotoError):
            _pixels(data[:length])


@pytest.mark.parametrize(
    "behind",
    [b"x", bytes(3), bytes(99), b"trailing junk", b"SEFHwithSEFT" * 9, b"\xff\xd8\xff\xe0" * 9, box(b"mpvd", b"film")],
)
def test_what_follows_a_heic_changes_nothing(behind: bytes) -> None:
    for data in (single(_COLOURS), grid(_COLOURS, 256, 192)):
        assert (_pixels(data + behind) == _pixels(data)).all()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_heics_raise_nothing_but_photo_errors(data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from([single(_COLOURS), grid(_COLOURS, 256, 192)])))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(8, len(file) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PhotoError):
        decode(bytes(file), height=64, width=64, limits=Limits(max_memory=5_000_000))


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"hevc", b"mif1", b"msf1"])
def test_without_the_extra_a_heic_is_refused_by_name(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(header._FORMATS, "HEIC")
    with pytest.raises(UnsupportedFormatError, match="HEIC files are not supported: send a JPEG, PNG or WebP file"):
        _pixels(single(_COLOURS).replace(b"heic", brand, 1))
