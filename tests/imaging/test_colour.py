"""Embedded colour profiles are converted to sRGB, whatever the format, the mode and the EXIF turn."""

import pathlib
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from dermserve.imaging import decode
from dermserve.imaging.errors import UnsupportedFormatError
from tests.imaging import files

_CASES = pathlib.Path(__file__).parent / "cases"
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_SKIN = Image.fromarray(
    (np.indices((96, 96)).sum(0)[..., np.newaxis] * (0.6, 0.4, 0.3) + (100, 60, 50)).astype(np.uint8)
)
_JPEG = {"quality": 98, "subsampling": 0}


def _pixels(data: bytes) -> np.ndarray:
    return decode(data, height=64, width=64).astype(int)


def _in_space(profile: bytes) -> Image.Image:
    """Give the same colours as in _SKIN by the values of another space."""
    spaces = [ImageCms.ImageCmsProfile(ImageCms.core.profile_frombytes(data)) for data in (_SRGB, profile)]
    image = ImageCms.profileToProfile(_SKIN, *spaces)
    image.info.clear()  # or it would be saved with the profile
    return image


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    options |= _JPEG if image_format == "JPEG" else {"lossless": True} if image_format == "WEBP" else {}
    return files.saved(image, image_format, **options)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "profile", [files.DISPLAY_P3, files.ADOBE_RGB, files.PROPHOTO], ids=["p3", "adobe", "prophoto"]
)
def test_a_wide_space_gives_the_pixels_of_srgb(image_format: str, profile: bytes) -> None:
    wide = _pixels(_saved(_in_space(profile), image_format, icc_profile=profile))
    expected = _pixels(_saved(_SKIN, image_format))
    assert np.abs(wide - expected).max() <= 4
    assert np.abs(wide - expected).mean() < 1
    assert np.abs(_pixels(_saved(_in_space(profile), image_format)) - expected).mean() > 3  # without its profile


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_profile_is_converted_at_any_exif_turn(orientation: int) -> None:
    image, exif = files.turned(_in_space(files.DISPLAY_P3), orientation)
    data = _saved(image, "JPEG", exif=exif, icc_profile=files.DISPLAY_P3)
    assert np.abs(_pixels(data) - _pixels(_saved(_SKIN, "JPEG"))).max() <= 6


def test_a_phones_photo_is_as_its_srgb_copy() -> None:
    p3, srgb = (decode((_CASES / f"{name}.jpg").read_bytes(), height=224, width=224) for name in ("p3", "srgb"))
    assert np.abs(p3.astype(int) - srgb).max() <= 3


def test_a_camera_says_adobe_rgb_by_exif_alone() -> None:
    """As DCF 2.0 has it, Canon's cameras for one, in either byte order; it counts for nothing beside a profile."""
    image = _in_space(files.ADOBE_RGB)
    for order in "<>":
        exif = files.adobe_rgb_exif(order)
        assert np.abs(_pixels(_saved(image, "JPEG", exif=exif)) - _pixels(_saved(_SKIN, "JPEG"))).max() <= 4
    beside = _saved(_in_space(files.DISPLAY_P3), "JPEG", exif=exif, icc_profile=files.DISPLAY_P3)
    assert np.abs(_pixels(beside) - _pixels(_saved(_SKIN, "JPEG"))).max() <= 4
    gray = _SKIN.convert("L")
    assert (_pixels(_saved(gray, "JPEG", exif=exif)) == _pixels(_saved(gray, "JPEG"))).all()


def _cicp(primaries: int, transfer: int, image: Image.Image) -> bytes:
    plain = _saved(image, "PNG")
    return plain[:33] + files.chunk(b"cICP", bytes([primaries, transfer, 0, 1])) + plain[33:]


def test_a_png_names_its_colours_by_number() -> None:
    wide, plain = _in_space(files.DISPLAY_P3), _pixels(_saved(_SKIN, "PNG"))
    assert np.abs(_pixels(_cicp(12, 13, wide)) - plain).mean() < 2
    assert (_pixels(_cicp(1, 13, _SKIN)) == plain).all()
    with pytest.raises(UnsupportedFormatError, match="HDR"):
        _pixels(_cicp(9, 16, wide))


def test_a_profile_in_many_segments_is_joined_in_their_order() -> None:
    parts = [files.DISPLAY_P3[at : at + 100] for at in range(0, len(files.DISPLAY_P3), 100)]
    segments = [
        files.segment(0xE2, b"ICC_PROFILE\0" + bytes([number, len(parts)]) + part)
        for number, part in enumerate(parts, 1)
    ]
    plain = _saved(_in_space(files.DISPLAY_P3), "JPEG")
    data = plain[:2] + b"".join(reversed(segments)) + plain[2:]
    assert np.abs(_pixels(data) - _pixels(_saved(_SKIN, "JPEG"))).max() <= 4


def test_srgb_by_any_name_leaves_pixels_alone() -> None:
    assert (_pixels(_saved(_SKIN, "PNG", icc_profile=_SRGB)) == _pixels(_saved(_SKIN, "PNG"))).all()


@pytest.mark.parametrize(
    "profile",
    [
        b"x",
        b"x" * 500_000,
        files.DISPLAY_P3[:200],
        files.DISPLAY_P3[:-60],
        bytes(2_000_000),
        files.gray_profile(1.0),
        files.cmyk_profile(),
        _SRGB.replace(b"RGB XYZ ", b"Lab XYZ "),
    ],
    ids=["one_byte", "garbage", "cut", "cut_late", "too_long", "of_gray", "of_inks", "of_lab"],
)
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_profile_that_is_broken_or_of_another_space_is_ignored(profile: bytes, image_format: str) -> None:
    data = _saved(_SKIN, image_format, icc_profile=profile)
    assert (_pixels(data) == _pixels(_saved(_SKIN, image_format))).all()


def test_a_broken_compressed_profile_is_ignored() -> None:
    plain = _saved(_SKIN, "PNG")
    for packed in (b"junk", zlib.compress(files.DISPLAY_P3)[:-40], files.zeros(5_000_000), b""):
        data = plain[:33] + files.chunk(b"iCCP", b"name\0\0" + packed) + plain[33:]
        assert (_pixels(data) == _pixels(plain)).all()


@pytest.mark.parametrize(("image_format", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "LA")])
def test_gray_is_converted_by_a_profile_of_gray(image_format: str, mode: str) -> None:
    gray = Image.new(mode, (64, 64), (128, 255)[: len(mode)] if mode == "LA" else 128)
    pixels = _pixels(_saved(gray, image_format, icc_profile=files.gray_profile(1.0)))
    assert np.abs(pixels - 188).max() <= 1  # half of the light


def test_inks_are_converted_by_their_profile() -> None:
    image = Image.new("CMYK", (64, 64), (10, 20, 30, 40))
    by_profile = _pixels(_saved(image, "JPEG", icc_profile=files.cmyk_profile()))
    assert (by_profile == by_profile[0, 0, 0]).all()  # its table gives one gray
    assert np.abs(_pixels(_saved(image, "JPEG")) - by_profile).max() > 20
    assert _pixels(_saved(image, "JPEG", icc_profile=files.DISPLAY_P3)).shape == (64, 64, 3)
