"""Spoiling photos, to see whether the limits on quality notice it: dark, bright, without colour, blurred, even."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

Pixels: TypeAlias = NDArray[np.uint8]
_Spoil: TypeAlias = Callable[[Image.Image], Image.Image]

_SEPIA = (1.07, 0.87, 0.67)


def spoil(pixels: Pixels, kind: str) -> Pixels:
    """Spoil one photo, uint8 [S, S, 3], as a kind of SPOILED says."""
    return np.asarray(SPOILED[kind](Image.fromarray(pixels)))


def _exposed(factor: float) -> _Spoil:
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


def _gamma(exponent: float) -> _Spoil:
    return lambda image: image.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def _lifted(step: int) -> _Spoil:
    return lambda image: image.point([min(255, value + step) for value in range(256)] * 3)


def _desaturated(left: float) -> _Spoil:
    return lambda image: ImageEnhance.Color(image).enhance(left)


def _sepia(image: Image.Image) -> Image.Image:
    gray = np.asarray(image.convert("L"), float)[..., np.newaxis]
    return Image.fromarray((gray * _SEPIA).clip(0, 255).astype(np.uint8))


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


SPOILED: Mapping[str, _Spoil] = MappingProxyType(
    {
        "exposure x0.4": _exposed(0.4),
        "exposure x0.2": _exposed(0.2),
        "gamma 4": _gamma(4),
        "exposure x1.8": _exposed(1.8),
        "exposure x2.5": _exposed(2.5),
        "gamma 0.2": _gamma(0.2),
        "90 brighter": _lifted(90),
        "gray": _desaturated(0.0),
        "a tenth of the colour": _desaturated(0.1),
        "sepia": _sepia,
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
)
"""By kind, lengths in pixels of the model's input: 6 of 224 are 12 of a photo of 600×450."""
