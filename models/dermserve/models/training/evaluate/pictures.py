"""Pictures to fit and test gates with: drawn ones without skin, and photos spoiled for the limits on quality."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

Pixels: TypeAlias = NDArray[np.uint8]
_Draw: TypeAlias = Callable[[np.random.Generator, int], Pixels]
_Spoil: TypeAlias = Callable[[Image.Image], Image.Image]

_WORDS = (
    "invoice", "total", "amount", "due", "please", "reply", "before", "Friday", "meeting", "room", "seven", "notes",
)  # fmt: skip
_SEPIA = (1.07, 0.87, 0.67)


def draw_no_skin(side: int, *, each: int = 20, seed: int = 0) -> dict[str, Pixels]:
    """Draw pictures that show no skin, `each` of a kind: uint8 [each, side, side, 3] RGB by kind."""
    drawn = {}
    for index, (kind, draw) in enumerate(_KINDS.items()):
        rng = np.random.default_rng((seed, index))
        drawn[kind] = np.stack([draw(rng, side) for _ in range(each)])
    return drawn


def spoil(pixels: Pixels, kind: str) -> Pixels:
    """Spoil one photo, uint8 [S, S, 3], as a kind of SPOILED says."""
    return np.asarray(SPOILED[kind](Image.fromarray(pixels)))


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _gradient(rng: np.random.Generator, side: int) -> Pixels:
    along = np.linspace(0, 1, side)[:, None, None] if rng.random() < 0.5 else np.linspace(0, 1, side)[None, :, None]
    ends = np.asarray((_colour(rng), _colour(rng)), float)
    mixed = ends[0] + along * (ends[1] - ends[0])
    return np.asarray(np.broadcast_to(mixed, (side, side, 3)), np.uint8)


def _clouds(rng: np.random.Generator, side: int) -> Pixels:
    """Noise whose power falls with the square of the frequency, as in landscapes."""
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


def _blurred_shapes(rng: np.random.Generator, side: int) -> Pixels:
    """Draw shapes out of focus: what a finger on the lens or a table looks like."""
    image = Image.fromarray(_shapes(rng, side)).filter(ImageFilter.GaussianBlur(float(rng.uniform(4, 20))))
    return np.asarray(image)


_KINDS: Mapping[str, _Draw] = {
    "plain colour": lambda rng, side: np.tile(np.asarray(_colour(rng), np.uint8), (side, side, 1)),
    "gradient": _gradient,
    "noise": lambda rng, side: rng.integers(0, 256, (side, side, 3), np.uint8),
    "clouds of noise": _clouds,
    "stripes and squares": _stripes,
    "shapes": _shapes,
    "shapes out of focus": _blurred_shapes,
    "page of text": _page,
    "screen": _screen,
}


def _exposed(factor: float) -> _Spoil:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def _gamma(exponent: float) -> _Spoil:
    return lambda image: image.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def _desaturated(left: float) -> _Spoil:
    return lambda image: ImageEnhance.Color(image).enhance(left)


def _sepia(image: Image.Image) -> Image.Image:
    gray = np.asarray(image.convert("L"), float)[..., np.newaxis]
    return Image.fromarray((gray * _SEPIA).clip(0, 255).astype(np.uint8))


def _cast(*gains: float) -> _Spoil:
    return lambda image: Image.fromarray((np.asarray(image, float) * gains).clip(0, 255).astype(np.uint8))


def _blurred(sigma: float) -> _Spoil:
    return lambda image: image.filter(ImageFilter.GaussianBlur(sigma))


def _moved(columns: int, rows: int) -> _Spoil:
    def move(image: Image.Image) -> Image.Image:
        pixels, steps = np.asarray(image, float), max(abs(columns), abs(rows))
        shifts = [(rows * step // steps, columns * step // steps) for step in range(steps)]
        mean = np.mean([np.roll(pixels, shift, (0, 1)) for shift in shifts], axis=0)
        return Image.fromarray(mean.astype(np.uint8))

    return move


def _plain(color: tuple[int, int, int]) -> _Spoil:
    return lambda image: Image.new("RGB", image.size, color)


SPOILED: Mapping[str, _Spoil] = {
    "exposure x0.4": _exposed(0.4),
    "exposure x0.2": _exposed(0.2),
    "gamma 4": _gamma(4),
    "exposure x1.8": _exposed(1.8),
    "exposure x2.5": _exposed(2.5),
    "gamma 0.2": _gamma(0.2),
    "90 brighter": lambda image: image.point([min(255, value + 90) for value in range(256)] * 3),
    "gray": _desaturated(0.0),
    "a tenth of the colour": _desaturated(0.1),
    "sepia": _sepia,
    "yellow cast": _cast(1.1, 1.0, 0.5),
    "red cast": _cast(1.3, 0.6, 0.6),
    "green cast": _cast(0.7, 1.2, 0.7),
    "blue cast": _cast(0.6, 0.8, 1.3),
    "Gaussian blur, sigma 4": _blurred(4),
    "Gaussian blur, sigma 6": _blurred(6),
    "box blur of 13": lambda image: image.filter(ImageFilter.BoxBlur(6)),
    "motion of 20 along rows": _moved(20, 0),
    "motion of 20 along columns": _moved(0, 20),
    "motion of 28 along a diagonal": _moved(20, 20),
    "plain beige": _plain((222, 184, 150)),
    "black": _plain((0, 0, 0)),
    "white": _plain((255, 255, 255)),
}
"""By kind, lengths in pixels of the model's input: 6 of 224 are 12 of a photo of 600×450."""
