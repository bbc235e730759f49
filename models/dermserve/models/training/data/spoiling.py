"""Photos as people spoil them: to measure the limits on quality, to look for a false all-clear, and to train on."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

Pixels: TypeAlias = NDArray[np.uint8]
_Skin: TypeAlias = Pixels | None  # without a lesion, to surround the photo; its own corner, enlarged, when None
_Spoil: TypeAlias = Callable[[Image.Image, _Skin], Image.Image]

_SEAM = 16  # of a photo's side, over which it fades into the skin around it


def spoil(pixels: Pixels, kind: str, skin: _Skin = None) -> Pixels:
    """Spoil one photo, uint8 [S, S, 3], by a kind of SPOILED or HARD, before `skin`."""
    return np.asarray((SPOILED.get(kind) or HARD[kind])(Image.fromarray(pixels), skin))


def spoil_at_random(pixels: Pixels, skin: _Skin, rng: np.random.Generator) -> Pixels:
    """Spoil one photo to train on, uint8 [S, S, 3], in a way like those of HARD; `skin` is as for `spoil`."""
    far, cut, side = math.exp(rng.uniform(*np.log((0.1, 0.8)))), rng.uniform(0.8, 1.2), rng.uniform(0.3, 0.5)
    hide: _Spoil = (
        partial(_placed, far, *rng.uniform(0.3, 0.7, 2)),
        partial(_placed, far, *rng.uniform(0.3, 0.7, 2)),
        partial(_placed, cut, *rng.permutation((0.5 + side * rng.choice((-1, 1)), rng.uniform(0.2, 0.8)))),
        partial(_washed_out, rng.uniform(0.1, 0.7), rng.uniform(100, 230)),
        partial(_gamma, math.exp(rng.uniform(*np.log((0.2, 2.5))))),
        partial(_glaring, rng.uniform(0.1, 0.4), *rng.uniform(0.2, 0.8, 2)),
        partial(_noisy, rng.uniform(5, 40), rng),
        partial(_cast, np.exp(rng.uniform(math.log(0.5), math.log(1.3), 3)).tolist()),
    )[rng.integers(8)]
    return np.asarray(hide(Image.fromarray(pixels), skin))


def _placed(share: float, x: float, y: float, image: Image.Image, skin: _Skin) -> Image.Image:
    """Show a photo at so much of its size, its middle there, in shares of the frame."""
    side = max(1, round(share * image.width))
    edge = side // _SEAM
    mask = Image.new("L", (side, side))
    mask.paste(255, (edge, edge, side - edge, side - edge))
    mask = mask.filter(ImageFilter.GaussianBlur(edge / 2))
    corner = round(x * image.width - side / 2), round(y * image.height - side / 2)
    enlarged = (0, 0, image.width // 8, image.height // 8)
    framed = image.resize(image.size, box=enlarged) if skin is None else Image.fromarray(skin)
    framed.paste(image.resize((side, side)), corner, mask)
    return framed


def _washed_out(left: float, gray: float | None, image: Image.Image, _: _Skin) -> Image.Image:
    """Leave so much of the contrast, as a greasy lens does, about a gray; about the photo's own when absent."""
    if gray is None:
        return ImageEnhance.Contrast(image).enhance(left)
    return Image.blend(Image.new("RGB", image.size, (round(gray),) * 3), image, left)


def _glaring(radius: float, x: float, y: float, image: Image.Image, _: _Skin) -> Image.Image:
    """Put a white glare of that radius there, in shares of the frame."""
    down, across = np.mgrid[: image.height, : image.width] / image.width
    light = np.exp(-((down - y) ** 2 + (across - x) ** 2) / (2 * radius**2))[..., np.newaxis]
    pixels = np.asarray(image, float)
    return Image.fromarray((pixels + (255 - pixels) * light).astype(np.uint8))


def _noisy(deviation: float, rng: np.random.Generator | None, image: Image.Image, _: _Skin) -> Image.Image:
    """Add normal noise to every value, as a sensor does in little light; the same each time without `rng`."""
    pixels = np.asarray(image, float)
    noise = (rng or np.random.default_rng(0)).normal(0, deviation, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def _gamma(exponent: float, image: Image.Image, _: _Skin) -> Image.Image:
    return image.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def _cast(gains: Sequence[float], image: Image.Image, _: _Skin) -> Image.Image:
    return Image.fromarray((np.asarray(image, float) * np.asarray(gains)).clip(0, 255).astype(np.uint8))


def _moved(columns: int, rows: int, image: Image.Image, _: _Skin) -> Image.Image:
    pixels, steps = np.asarray(image, float), max(abs(columns), abs(rows))
    shifts = [(rows * step // steps, columns * step // steps) for step in range(steps)]
    return Image.fromarray(np.mean([np.roll(pixels, shift, (0, 1)) for shift in shifts], axis=0).astype(np.uint8))


SPOILED: Mapping[str, _Spoil] = {
    "exposure x0.4": lambda image, _: ImageEnhance.Brightness(image).enhance(0.4),
    "exposure x0.2": lambda image, _: ImageEnhance.Brightness(image).enhance(0.2),
    "gamma 4": partial(_gamma, 4),
    "exposure x1.8": lambda image, _: ImageEnhance.Brightness(image).enhance(1.8),
    "exposure x2.5": lambda image, _: ImageEnhance.Brightness(image).enhance(2.5),
    "gamma 0.2": partial(_gamma, 0.2),
    "90 brighter": lambda image, _: image.point([min(255, value + 90) for value in range(256)] * 3),
    "gray": lambda image, _: ImageEnhance.Color(image).enhance(0.0),
    "a tenth of the colour": lambda image, _: ImageEnhance.Color(image).enhance(0.1),
    "sepia": lambda image, _: _cast((1.07, 0.87, 0.67), image.convert("L").convert("RGB"), None),
    "yellow cast": partial(_cast, (1.1, 1.0, 0.5)),
    "red cast": partial(_cast, (1.3, 0.6, 0.6)),
    "green cast": partial(_cast, (0.7, 1.2, 0.7)),
    "blue cast": partial(_cast, (0.6, 0.8, 1.3)),
    "Gaussian blur, sigma 4": lambda image, _: image.filter(ImageFilter.GaussianBlur(4)),
    "Gaussian blur, sigma 6": lambda image, _: image.filter(ImageFilter.GaussianBlur(6)),
    "box blur of 13": lambda image, _: image.filter(ImageFilter.BoxBlur(6)),
    "motion of 20 along rows": partial(_moved, 20, 0),
    "motion of 20 along columns": partial(_moved, 0, 20),
    "motion of 28 along a diagonal": partial(_moved, 20, 20),
    "plain beige": lambda image, _: Image.new("RGB", image.size, (222, 184, 150)),
    "black": lambda image, _: Image.new("RGB", image.size, (0, 0, 0)),
    "white": lambda image, _: Image.new("RGB", image.size, (255, 255, 255)),
}
"""By kind, lengths in pixels of the model's input: 6 of 224 are 12 of a photo of 600×450."""

HARD: Mapping[str, _Spoil] = {
    "half as large": partial(_placed, 1 / 2, 0.5, 0.5),
    "a quarter as large": partial(_placed, 1 / 4, 0.5, 0.5),
    "a tenth as large": partial(_placed, 1 / 10, 0.5, 0.5),
    "half the contrast": partial(_washed_out, 0.5, None),
    "a fifth of the contrast": partial(_washed_out, 0.2, None),
    "gamma 0.4": partial(_gamma, 0.4),
    "wide glare": partial(_glaring, 0.25, 0.5, 0.5),
    "noise of 25": partial(_noisy, 25, None),
    "cut off at the edge": partial(_placed, 1, 1.0, 0.5),
    "cut off in the corner": partial(_placed, 1, 0.9, 0.9),
}
"""What may pass the limits on quality, and must not turn a malignant lesion's risk LOW."""
