import contextlib
import importlib
import io
import pathlib
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from dermserve.imaging import Limits, PhotoError, TooManyBytesError, decode
from dermserve.imaging.errors import (
    EmptyPhotoError,
    TooManyPixelsError,
    TooSmallError,
    UndecodablePhotoError,
    UnsupportedFormatError,
)
from dermserve.imaging.header import read_header
from tests.imaging.files import chunk, png_header, saved, turned

decoding = importlib.import_module("dermserve.imaging.decode")  # the package has a function of this name
_CASES = pathlib.Path(__file__).parent / "cases"
_SIDE = 64
_NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)


def _pixels(data: bytes) -> np.ndarray:
    return decode(data, height=_SIDE, width=_SIDE)


def _with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    """Put a chunk before the pixels of a PNG."""
    at = png.index(b"IDAT") - 4
    return png[:at] + chunk(name, content) + png[at:]


def test_a_photo_becomes_its_centre_square() -> None:
    expected = Image.fromarray(_NOISE[:, 15:105]).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    pixels = _pixels(saved(Image.fromarray(_NOISE), "PNG")).astype(int)
    assert np.abs(pixels - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("shape", [(91, 120), (120, 91), (97, 33), (32, 5000), (64, 64)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_of_a_photo_gives_the_same_pixels(shape: tuple[int, int], orientation: int) -> None:
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8))
    image, exif = turned(upright, orientation)
    assert (_pixels(saved(image, "PNG", exif=exif)) == _pixels(saved(upright, "PNG"))).all()


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray(_NOISE), "JPEG", progressive=True),
        saved(Image.fromarray(_NOISE).convert("CMYK"), "JPEG"),
        saved(Image.fromarray(_NOISE).convert("L"), "JPEG"),
        saved(Image.fromarray(_NOISE), "WEBP", lossless=True),
        saved(Image.fromarray(_NOISE).convert("P"), "PNG"),
        saved(Image.fromarray(_NOISE).convert("RGBA"), "PNG"),
        saved(Image.fromarray(_NOISE).convert("LA"), "PNG"),
        saved(Image.fromarray(_NOISE).convert("1"), "PNG"),
        saved(Image.fromarray(_NOISE[..., 0].astype(np.uint16) * 257), "PNG"),
        saved(Image.fromarray(_NOISE), "PNG", save_all=True, append_images=[Image.fromarray(_NOISE[::-1])]),
        saved(Image.fromarray(_NOISE), "JPEG") + b"trailing junk",
        saved(Image.fromarray(_NOISE), "PNG") + b"junk",
        saved(Image.fromarray(_NOISE), "WEBP", lossless=True) + b"junk",
        saved(Image.fromarray(_NOISE), "WEBP", lossless=True) + b"trailing junk" * 9999,
        saved(Image.fromarray(_NOISE), "JPEG").replace(b"\xff\xdb", b"\xff\xe2\0\x0eICC_PROFILE\0\xff\xdb", 1),
        _with_chunk(saved(Image.fromarray(_NOISE).convert("P"), "PNG"), b"tRNS", b"\xff" * 300),
        saved(Image.fromarray(_NOISE), "JPEG", exif=b"Exif\0\0garbage"),
        saved(Image.fromarray(_NOISE), "JPEG", icc_profile=b"x" * 500_000),
    ],
    ids=[
        "progressive", "cmyk", "gray", "webp", "palette", "rgba", "gray_alpha", "bilevel", "gray16", "apng",
        "trailing_junk", "png_trailing", "webp_trailing", "webp_trailing_chunks", "icc_without_number",
        "more_transparent_colours_than_colours", "corrupt_exif", "huge_icc",
    ],
)  # fmt: skip
def test_every_usual_kind_of_photo_is_decoded(data: bytes) -> None:
    pixels = _pixels(data)
    assert pixels.shape == (_SIDE, _SIDE, 3)
    assert pixels.dtype == np.uint8
    assert abs(float(pixels.mean()) - float(_NOISE.mean())) < 12


def test_decoders_get_no_comments_and_no_metadata() -> None:
    photo = saved(Image.fromarray(_NOISE), "JPEG", exif=Image.Exif(), comment=b"a comment", icc_profile=b"a profile")
    kept = read_header(photo[:2] + b"\xff\xed\0\x06IPTC" + photo[2:]).data
    for part in (b"a comment", b"Exif", b"a profile", b"IPTC"):
        assert part not in kept
    assert len(kept) < len(saved(Image.fromarray(_NOISE), "JPEG")) + 1


def test_sixteen_bit_gray_is_scaled_not_clipped() -> None:
    gray = Image.fromarray(np.full((64, 64), 0x8000, np.uint16))
    assert (_pixels(saved(gray, "PNG")) == 0x80).all()


def test_transparency_lies_over_white() -> None:
    assert (_pixels(saved(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), "PNG")) == 255).all()


def test_a_large_jpeg_decoded_at_a_fraction_looks_as_if_decoded_whole(photo: bytes) -> None:
    large = Image.open(io.BytesIO(photo)).resize((2400, 1800), Image.Resampling.BICUBIC)
    scaled = decode(saved(large, "JPEG", quality=95), height=224, width=224).astype(int)
    whole = decode(saved(large, "PNG"), height=224, width=224)
    assert np.abs(scaled - whole).max() <= 6


def _png_claiming(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_header(width, height) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(("width", "height"), [(12_000, 11_000), (20_000, 10_000), (65_500, 65_500)])
def test_a_header_over_the_pixel_limit_is_refused_before_any_pixel(width: int, height: int) -> None:
    with pytest.raises(TooManyPixelsError, match="128 megapixels"):
        _pixels(_png_claiming(width, height))


_BASELINE = saved(Image.fromarray(_NOISE), "JPEG")
_AT = _BASELINE.index(b"\xff\xc0") + 9
_WRONG_COMPONENTS = [_BASELINE[:_AT] + bytes([count]) + _BASELINE[_AT + 1 :] for count in (0, 2, 5, 255)]
"""JPEGs of no, two, five and 255 components."""


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", EmptyPhotoError, "empty"),
        (b"hello, this is no image at all", UnsupportedFormatError, "not an image"),
        (saved(Image.fromarray(_NOISE), "GIF"), UnsupportedFormatError, "GIF"),
        (saved(Image.fromarray(_NOISE), "BMP"), UnsupportedFormatError, "BMP"),
        (saved(Image.fromarray(_NOISE), "TIFF"), UnsupportedFormatError, "TIFF"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, UnsupportedFormatError, "HEIC"),
        (b"\xff\xd8", PhotoError, "JPEG"),
        (saved(Image.fromarray(_NOISE[:1, :1]), "PNG"), TooSmallError, "1×1"),
        (_png_claiming(120, 90), UndecodablePhotoError, "truncated or damaged"),
        *((data, UndecodablePhotoError, "truncated or damaged") for data in _WRONG_COMPONENTS),
    ],
)
def test_a_bad_photo_is_refused_with_what_is_wrong(data: bytes, error: type[PhotoError], words: str) -> None:
    with pytest.raises(error, match=words):
        _pixels(data)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\0" * 128 + b"DICM", "DICOM"),
        (b"\xff\x0a", "JPEG XL"),
        (_CASES / "photo.jxl", "JPEG XL"),
        (b"II*\0", "TIFF, DNG and raw camera"),
        (b"\0\0\0\x18ftypcrx ", "raw camera"),
        (b"\0\0\0\x18ftypavif", "AVIF"),
    ],
)
def test_a_format_that_is_not_taken_is_named(start: bytes | pathlib.Path, name: str) -> None:
    data = start.read_bytes() if isinstance(start, pathlib.Path) else start + bytes(200)
    with pytest.raises(UnsupportedFormatError, match=f"{name} files are not supported: send a JPEG, PNG or WebP file"):
        _pixels(data)


@pytest.mark.parametrize(("old", "new"), [(b"\xff\xc0", b"\xff\xc9"), (b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c")])
def test_an_arithmetic_or_twelve_bit_jpeg_is_refused_by_name(old: bytes, new: bytes) -> None:
    with pytest.raises(UnsupportedFormatError, match="arithmetically coded, lossless or of 12 bits"):
        _pixels(saved(Image.fromarray(_NOISE), "JPEG").replace(old, new))


@pytest.mark.parametrize("error", [MemoryError(), TypeError("ours"), AttributeError("ours"), KeyError("ours")])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_fault_that_is_not_the_photos_is_not_blamed_on_it(
    error: Exception, image_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(decoding.simplejpeg, "decode_jpeg", fail)
    monkeypatch.setattr(Image.Image, "crop", fail)
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(type(error)):
        _pixels(saved(Image.fromarray(_NOISE), image_format))


def test_running_out_of_memory_within_pillow_is_not_a_damaged_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError("out of memory when reading image file")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MemoryError):
        _pixels(saved(Image.fromarray(_NOISE), "WEBP"))


@pytest.mark.parametrize("missing", ["simd", "simplejpeg"])
@pytest.mark.parametrize("size", [(600, 450), (450, 601), (200, 150), (64, 64), (1999, 1501)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_the_same_without_the_fast_libraries(
    missing: str, size: tuple[int, int], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decoding.simd
    assert decoding.simplejpeg
    noise = np.random.default_rng(2).integers(0, 256, (*size[::-1], 3), np.uint8)
    data = saved(Image.fromarray(noise).convert(mode), "JPEG", quality=95)
    fast = decode(data, height=224, width=224).astype(int)
    monkeypatch.setattr(decoding, missing, None)
    slow = decode(data, height=224, width=224)
    assert np.abs(fast - slow).max() <= 1


def test_a_file_over_the_byte_limit_is_refused_unread() -> None:
    with pytest.raises(TooManyBytesError, match="1,001 bytes, over the limit of 1,000"):
        decode(b"x" * 1001, height=_SIDE, width=_SIDE, limits=Limits(max_bytes=1000))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_photo_truncated_anywhere_is_refused_or_decoded_but_never_crashes(image_format: str) -> None:
    data = saved(Image.fromarray(_NOISE), image_format)
    outcomes = set()
    for length in range(0, len(data) - 1, max(1, len(data) // 200)):
        try:
            _pixels(data[:length])
            outcomes.add("decoded")
        except PhotoError:
            outcomes.add("refused")
    assert "refused" in outcomes
    with pytest.raises(PhotoError):
        _pixels(data[: len(data) // 2])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_files_raise_nothing_but_photo_errors(data: st.DataObject) -> None:
    image_format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    file = bytearray(saved(Image.fromarray(_NOISE), image_format))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PhotoError):
        _pixels(bytes(file))
