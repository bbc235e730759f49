"""Draw pictures without skin, to fit and measure the out-of-distribution score."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels: TypeAlias = NDArray[np.uint8]
_Draw: TypeAlias = Callable[[np.random.Generator, int], Pixels]

_WORDS = (
    "invoice", "total", "amount", "due", "please", "reply", "before", "Friday", "meeting", "room", "seven", "notes",
)  # fmt: skip


def draw_no_skin(side: int, *, each: int = 20, seed: int = 0) -> dict[str, Pixels]:
    """Draw pictures that show no skin, `each` of a kind: uint8 [each, side, side, 3] RGB by kind."""
    drawn = {}
    for index, (kind, draw) in enumerate(_KINDS.items()):
        rng = np.random.default_rng((seed, index))
        drawn[kind] = np.stack([draw(rng, side) for _ in range(each)])
    return drawn


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _gradient(rng: np.random.Generator, side: int) -> Pixels:
    along = np.linspace(0, 1, side)[:, None, None] if rng.random() < 0.5 else np.linspace(0, 1, side)[None, :, None]
    ends = np.asarray((_colour(rng), _colour(rng)), float)
    mixed = ends[0] + along * (ends[1] - ends[0])
    return np.asarray(np.broadcast_to(mixed, (side, side, 3)), np.uint8)


def _clouds(rng: np.random.Generator, side: int) -> Pixels:
    """Draw noise whose power falls with the square of the frequency, as in landscapes."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])
    spectrum = np.fft.fft2(rng.normal(size=(3, side, side))) / np.maximum(frequency, 1 / side)
    field = np.fft.ifft2(spectrum).real
    field -= field.min(axis=(1, 2), keepdims=True)
    return np.asarray(np.moveaxis(field / field.max(axis=(1, 2), keepdims=True) * 255, 0, -1), np.uint8)


def _stripes(rng: np.random.Generator, side: int) -> Pixels:
    width = int(rng.integers(2, 40))
    rows, columns = np.arange(side)[:, None] // width, np.arange(side)[None, :] // width
    odd = (rows + columns * int(rng.integers(0, 2))) % 2
    colours = np.asarray((_colour(rng), _colour(rng)), np.uint8)
    return np.asarray(colours[np.broadcast_to(odd, (side, side))])


def _shapes(rng: np.random.Generator, side: int) -> Pixels:
    image = Image.new("RGB", (side, side), _colour(rng))
    canvas = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(2, 12))):
        left, top = rng.integers(0, side * 3 // 4, 2).tolist()
        box = (left, top, left + int(rng.integers(5, max(6, side // 2))), top + int(rng.integers(5, max(6, side // 2))))
        (canvas.rectangle if rng.random() < 0.5 else canvas.ellipse)(box, fill=_colour(rng))
    return np.asarray(image)


def _page(rng: np.random.Generator, side: int) -> Pixels:
    dark = rng.random() < 0.3
    image = Image.new("RGB", (side, side), (24, 24, 28) if dark else (250, 250, 247))
    canvas = ImageDraw.Draw(image)
    for top in range(6, side - 12, int(rng.integers(13, 24))):
        words = " ".join(rng.choice(_WORDS, int(rng.integers(2, 9))).tolist())
        canvas.text((8, top), words, fill=(225, 225, 225) if dark else (20, 20, 20))
    return np.asarray(image)


def _screen(rng: np.random.Generator, side: int) -> Pixels:
    image = Image.new("RGB", (side, side), (244, 245, 247))
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((0, 0, side, side // 10), fill=_colour(rng))
    for top in range(side // 7, side - 20, side // 8):
        canvas.rounded_rectangle((6, top, side // 4, top + side // 12), 4, fill=_colour(rng))
        canvas.text((10, top + 2), str(rng.choice(_WORDS)), fill=(255, 255, 255))
    points = [(side // 3 + step * side // 16, int(rng.integers(side // 5, side))) for step in range(11)]
    canvas.line(points, fill=_colour(rng), width=2)
    return np.asarray(image)


_KINDS: Mapping[str, _Draw] = {
    "plain colour": lambda rng, side: np.tile(np.asarray(_colour(rng), np.uint8), (side, side, 1)),
    "gradient": _gradient,
    "noise": lambda rng, side: rng.integers(0, 256, (side, side, 3), np.uint8),
    "clouds of noise": _clouds,
    "stripes and squares": _stripes,
    "shapes": _shapes,
    "shapes out of focus": lambda rng, side: np.asarray(
        Image.fromarray(_shapes(rng, side)).filter(ImageFilter.GaussianBlur(float(rng.uniform(4, 20))))
    ),
    "page of text": _page,
    "screen": _screen,
}
