"""Measure a photo's quality: whether it is dark, bright, without natural colour, blurred or empty.

The measures show whether a photo can be classified, and whether photos have changed since a model was calibrated,
without keeping any. All are taken of areas, the means of 4×4 pixels at the model's size: this removes sensor noise, and
the smoothness of small photos that were enlarged. Every photo is measured, so it must be fast.
"""

import functools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_Floats: TypeAlias = NDArray[np.float32]

_AREA = 4  # side of an area in pixels
_PLANES: _Floats = np.divide([[0.299, 0.587, 0.114], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]], _AREA**2, dtype=np.float32)
"""Luma, red less green, and the mean of red and green less blue, of sums over an area."""
_GLARE = 248 * _AREA**2  # a channel of an area counts as blown out from this sum on
_LONGER = np.array([1.0, 1.0, 1.6, 1.6] * 2)  # second differences are larger along diagonals: areas are further apart
_OTHERS, _LEAST = 0.75, 1.0
"""Share of the mean over all directions, and gray levels, that count as the structure of each direction, at least:
below a level there is only what rounding to 8 bits leaves."""


@dataclass(frozen=True, slots=True)
class Measures:
    """The measures of one photo."""

    brightness: float  # mean luma, 0 to 255
    sharpness: float  # mean absolute second difference of neighbouring areas' luma, over all directions; 0 or more
    glare: float  # share of all areas' channels that are at their limit, 0 to 1
    color: float
    """Standard deviation of the colour differences that brightness does not explain, in gray levels. A gray or
    one-toned (sepia) photo has 0, however strong the tone."""
    redness: float  # mean of red less green, in gray levels: as a share of the luma, dark photos have more
    yellowness: float  # mean of red and green less blue, as a share of the mean luma
    detail: float
    """Second difference of neighbouring areas over that of areas two apart, in the direction where it is least: 0.25
    where all is smooth. Where a direction has less structure than the others, as motion leaves it, it is compared with
    theirs. Coarse, as crops of 64 pixels have no finer detail."""
    contrast: float  # standard deviation of luma, as a share of its mean


def measure(pixels: NDArray[np.uint8]) -> Measures:
    """Measure pixels, uint8 [H, W, 3] of at least 4×4, at the size that a model sees."""
    areas = _sum_areas(pixels)
    planes = _PLANES @ areas.reshape(3, -1)
    size = planes.shape[1]
    means = np.add.reduce(planes, axis=1) / size
    planes -= means[:, np.newaxis]
    brightness, redness, yellowness = means.tolist()
    light = max(brightness, 1.0)
    contrast, color = _spread(planes)
    sharpness, detail = _compare(planes[0].reshape(areas.shape[1:]))
    return Measures(
        brightness=brightness,
        sharpness=sharpness,
        glare=np.count_nonzero(areas >= _GLARE) / areas.size,
        color=color,
        redness=redness,
        yellowness=yellowness / light,
        detail=detail,
        contrast=contrast / light,
    )


_FAULTS = {
    "too_dark": {"min_brightness"},
    "too_bright": {"max_brightness", "max_glare"},
    "uniform": {"min_contrast"},
    "no_color": {"min_color", "min_redness", "max_redness", "min_yellowness", "max_yellowness"},
    "blurred": {"min_detail"},
}
"""The limits of each fault."""
FAULTS = tuple(_FAULTS)
_BEYOND = {"min_": operator.lt, "max_": operator.gt}


def find_faults(measures: Measures, limits: Mapping[str, float]) -> list[str]:
    """Name the faults of a photo, among FAULTS, by those limits of a `dermserve.v1.QualityLimits` that are given."""
    beyond = {limit for limit, value in limits.items() if _BEYOND[limit[:4]](getattr(measures, limit[4:]), value)}
    found = [fault for fault, its in _FAULTS.items() if its & beyond]
    # Colour and detail of a uniform area mean nothing.
    return [fault for fault in found if fault not in ("no_color", "blurred")] if "uniform" in found else found


def _sum_areas(pixels: NDArray[np.uint8]) -> _Floats:
    """Sum pixels four by four: float32 [3, H // 4, W // 4]."""
    rows, columns = pixels.shape[0] // _AREA, pixels.shape[1] // _AREA
    whole = pixels[: rows * _AREA, : columns * _AREA].reshape(rows, _AREA, -1)
    sums = np.add.reduce(whole, axis=1, dtype=np.uint16).ravel()
    pairs = sums[:-3] + sums[3:]  # with the pixel to the right
    fours = pairs[:-6] + pairs[6:]  # of these, the first three of each twelve are areas
    areas = np.empty((3, rows, columns), np.float32)
    for channel, plane in enumerate(areas.reshape(3, -1)):
        plane[...] = fours[channel :: 3 * _AREA]
    return areas


def _spread(planes: _Floats) -> tuple[float, float]:
    """Return the standard deviations of luma, and of the colour differences less what a linear function of it explains.

    All planes are centred.
    """
    areas, colors = planes.shape[1], planes[1:].ravel()
    power, *shared = (planes @ planes[0]).tolist()
    explained = sum(along**2 for along in shared) / power if power else 0.0
    return math.sqrt(power / areas), math.sqrt(max(0.0, float(colors @ colors) - explained) / areas)


def _compare(luma: _Floats) -> tuple[float, float]:
    """Return sharpness and detail, from second differences along rows, along columns, and along both diagonals."""
    rows, columns = luma.shape
    if min(rows, columns) < 5:  # no area has two others on all sides
        return 0.0, 0.0
    flat, edge = luma.ravel(), 2 * columns + 2
    end = len(flat) - edge
    bends = np.empty((8, end - edge), np.float32)
    steps = [lag * step for lag in (1, 2) for step in (1, columns, columns + 1, columns - 1)]
    for bend, step in zip(bends, steps, strict=True):
        np.add(flat[edge - step : end - step], flat[edge + step : end + step], out=bend)
    bends -= 2 * flat[edge:end]
    means = (np.abs(bends, out=bends) @ _weigh(rows, columns) / _LONGER).tolist()
    fine, coarse = means[:4], means[4:]
    least = max(_LEAST, _OTHERS * sum(coarse) / len(coarse))
    return sum(fine) / len(fine), min([one / max(other, least) for one, other in zip(fine, coarse, strict=True)])


@functools.lru_cache
def _weigh(rows: int, columns: int) -> _Floats:
    """Weigh areas to average those with two others on all sides; float32, from the first of them to the last."""
    weights = np.zeros((rows, columns), np.float32)
    weights[2:-2, 2:-2] = 1 / ((rows - 4) * (columns - 4))
    return weights.ravel()[2 * columns + 2 : -2 * columns - 2]
