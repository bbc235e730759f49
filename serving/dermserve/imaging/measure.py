"""Two numbers that say what a photo looks like, by which a change in the photos is noticed without keeping any.

The green channel stands for brightness: it carries most of it, and reading one channel is cheap.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Measures:
    """Of one photo's pixels."""

    brightness: float
    """Mean of the green channel, 0 to 255."""
    sharpness: float
    """Mean absolute difference of pixels one row or one column apart, in the green channel, 0 to 255."""


def measure(pixels: NDArray[np.uint8]) -> Measures:
    """Measure pixels, uint8 [H, W, 3] of at least 2×2, at the size that a model sees."""
    green = np.ascontiguousarray(pixels[..., 1])
    return Measures(float(green.mean()), (_step(green[1:], green[:-1]) + _step(green[:, 1:], green[:, :-1])) / 2)


def _step(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float((np.maximum(one, other) - np.minimum(one, other)).mean())  # stays within uint8, which is the fast way
