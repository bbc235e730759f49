"""Every photo that a phone, an attacker or an accident can send is answered or refused, and the next one works."""

import io
import struct
import zlib

import grpc
import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from tests.gateway.gateways import PHOTO, ask, make_photo, reason_of
from tests.imaging import heif_files

LIMIT = 200_000
ANSWERED = "answered"


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def _gray(size: tuple[int, int] = (64, 48), value: int = 128) -> Image.Image:
    return Image.new("L", size, value)


def _png(width: int, height: int, *, data: bytes = b"") -> bytes:
    """A PNG whose header may lie."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _jpeg_claiming(width: int, height: int) -> bytes:
    start = PHOTO.index(b"\xff\xc0") + 5
    return PHOTO[:start] + struct.pack(">HH", height, width) + PHOTO[start + 4 :]


def _oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return make_photo(exif=exif)


def _with_text(size: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * size, zip=True)
    return _saved(_gray(), "PNG", pnginfo=info)


def _animation(image_format: str) -> bytes:
    frames = [_gray(value=value) for value in (10, 100, 200)]
    return _saved(frames[0], image_format, save_all=True, append_images=frames[1:])


def _screenshot() -> bytes:
    image = Image.new("RGB", (390, 844), "white")
    ImageDraw.Draw(image).text((20, 20), "Messages\nHello\nOK", fill="black")
    return _saved(image, "PNG")


def _noise() -> bytes:
    return _saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)), "JPEG")


# What takes long to make is made when it is needed: every worker collects every test.
INPUTS = {
    "empty": (b"", "EMPTY_IMAGE"),
    "not_an_image": (b"Dear Sir or Madam, " * 20, "UNSUPPORTED_FORMAT"),
    "zeros": (bytes(1000), "UNSUPPORTED_FORMAT"),
    "wrong_magic": (b"\x00\x00" + PHOTO[2:], "UNSUPPORTED_FORMAT"),
    "soi_only": (b"\xff\xd8", "UNSUPPORTED_FORMAT"),
    "header_only": (PHOTO[:20], "UNDECODABLE_IMAGE"),
    "truncated": (PHOTO[: len(PHOTO) // 2], "UNDECODABLE_IMAGE"),
    "trailing_junk": (PHOTO + b"junk" * 1000, ANSWERED),
    "progressive": (make_photo(progressive=True), ANSWERED),
    "cmyk": (_saved(Image.open(io.BytesIO(PHOTO)).convert("CMYK"), "JPEG"), ANSWERED),
    "gray_jpeg": (_saved(_gray(), "JPEG"), ANSWERED),
    "twelve_bit_jpeg": (PHOTO.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c"), "UNSUPPORTED_FORMAT"),
    "sixteen_bit_png": (_saved(Image.fromarray(np.full((64, 64), 40000, np.uint16)), "PNG"), ANSWERED),
    "palette_png": (_saved(_gray().convert("P"), "PNG"), ANSWERED),
    "rgba_png": (_saved(Image.new("RGBA", (64, 64), (200, 120, 100, 128)), "PNG"), ANSWERED),
    "animated_png": (_animation("PNG"), ANSWERED),
    "animated_webp": (_animation("WEBP"), ANSWERED),
    "animated_gif": (_animation("GIF"), "UNSUPPORTED_FORMAT"),
    "heic": ((heif_files.CASES / "colours.heic").read_bytes(), ANSWERED),
    "heic_without_picture": (b"\x00\x00\x00\x18ftypheic" + bytes(100), "UNSUPPORTED_FORMAT"),
    "one_pixel": (_saved(_gray((1, 1)), "PNG"), "IMAGE_TOO_SMALL"),
    "extreme_aspect": (_saved(_gray((3000, 40)), "PNG"), ANSWERED),
    "jpeg_header_lies": (_jpeg_claiming(65500, 65500), "TOO_MANY_PIXELS"),
    "png_header_lies": (_png(65500, 65500), "TOO_MANY_PIXELS"),
    "png_without_pixels": (_png(1000, 1000), "UNDECODABLE_IMAGE"),
    "png_bomb": (lambda: _png(20_000, 20_000, data=bytes(50_000_000)), "TOO_MANY_PIXELS"),
    "webp_too_large": (lambda: _saved(_gray((8000, 8000)), "WEBP", quality=1, method=0), "TOO_MANY_PIXELS"),
    "huge_icc": (make_photo(icc_profile=bytes(100_000)), ANSWERED),
    "huge_exif": (make_photo(exif=b"Exif\x00\x00" + bytes(60_000)), ANSWERED),
    "corrupt_exif": (make_photo(exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff"), ANSWERED),
    "text_chunk": (_with_text(50_000), ANSWERED),
    "text_bomb": (lambda: _with_text(5_000_000), ANSWERED),
    "black": (_saved(Image.new("RGB", (200, 200)), "JPEG"), ANSWERED),
    "white": (_saved(Image.new("RGB", (200, 200), "white"), "JPEG"), ANSWERED),
    "noise": (_noise(), ANSWERED),
    "screenshot": (_screenshot(), ANSWERED),
    "over_the_byte_limit": (PHOTO + bytes(LIMIT), "IMAGE_TOO_LARGE"),
    **{f"exif_{orientation}": (_oriented(orientation), ANSWERED) for orientation in range(10)},
}


@pytest.mark.parametrize("name", INPUTS)
async def test_each_input_is_answered_or_refused_and_the_next_one_works(running, name):
    image, expected = INPUTS[name]
    image = image() if callable(image) else image
    async with running(max_image_bytes=LIMIT) as world:
        if expected == ANSWERED:
            answer = await world.stub.Classify(ask(image), timeout=100)
            assert len(answer.classes) == 7
        else:
            refused = await world.refusal(ask(image))
            assert reason_of(refused) == expected
            large = expected == "IMAGE_TOO_LARGE"
            code = grpc.StatusCode.RESOURCE_EXHAUSTED if large else grpc.StatusCode.INVALID_ARGUMENT
            assert refused.code() is code
        assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_a_photo_cut_at_any_byte_is_refused(running):
    photo = make_photo(size=(64, 48))
    async with running() as world:
        for length in range(0, len(photo) - 1, 7):
            refused = await world.refusal(ask(photo[:length]))
            assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT, length
        assert (await world.stub.Classify(ask(photo), timeout=100)).classes


async def test_a_message_over_grpcs_own_limit_is_refused(running):
    async with running(max_image_bytes=LIMIT) as world:
        refused = await world.refusal(ask(bytes(LIMIT + 13_000_000)))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_oversized_and_binary_metadata_is_survived(running):
    async with running() as world:
        await world.refusal(ask(), metadata=(("x-large", "x" * 100_000),))
        binary = await world.stub.Classify(ask(), metadata=(("x-request-id-bin", b"\xff\x00"),), timeout=100)
        assert len(binary.request_id) == 32
