"""Measure a photo's quality: whether it is dark, bright, without natural colour, blurred or empty.

The measures show whether a photo can be classified, and whether photos have changed since a model was calibrated,
without keeping any. All are taken at half the model's size, with pixels averaged two by two: this removes sensor noise,
and the smoothness of small photos that were enlarged. Every photo is measured, so it must be fast.
"""

import bisect
import functools
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

_Floats: TypeAlias = NDArray[np.float32]

_PLANES = np.array([[0.07475, 0.14675, 0.0285], [0.25, -0.25, 0], [0.125, 0.125, -0.25]], np.float32)
"""Luma, red less green, and the mean of red and green less blue, of sums over four pixels."""
_GLARE = 248  # a pixel counts as blown out from this value of its brightest channel on
_LONGER = np.array([1.0, 1.0, 1.6, 1.6])  # second differences are larger along diagonals: pixels are further apart
_OTHERS, _LEAST = 0.75, 1.0
"""Share of the mean over all directions, and gray levels, that count as the structure of each direction, at least:
below a level there is only what rounding to 8 bits leaves."""
_BLOCK = 8  # side in pixels, at half size, of the areas whose brightness is compared for contrast


@dataclass(frozen=True, slots=True)
class Measures:
    """The measures of one photo."""

    brightness: float  # mean luma, 0 to 255
    sharpness: float  # mean absolute difference of pixels one row or one column apart, 0 to 255
    midtones: float  # median luma, 0 to 255
    highlights: float  # 95th percentile of luma, 0 to 255
    glare: float  # share of the pixels with a channel at its limit, 0 to 1
    color: float
    """Standard deviation of the colour differences that brightness does not explain, in gray levels. A gray or
    one-toned (sepia) photo has 0, however strong the tone."""
    redness: float  # mean of red less green, as a share of the mean luma
    yellowness: float  # mean of red and green less blue, as a share of the mean luma
    detail: float
    """Second difference of neighbouring areas of 4×4 pixels over that of areas two apart, in the direction where it is
    least: 0.25 where all is smooth. Where a direction has less structure than the others, as motion leaves it, it is
    compared with theirs. Coarse, as crops of 64 pixels have no finer detail."""
    contrast: float  # standard deviation of the mean luma of areas of 16×16 pixels, as a share of the highlights


def measure(pixels: NDArray[np.uint8]) -> Measures:
    """Measure pixels, uint8 [H, W, 3] of at least 4×4, at the size that a model sees."""
    half = _halve(pixels)
    planes = _PLANES @ half.reshape(3, -1)
    size = planes.shape[1]
    midtones, highlights = _select(planes[0], size // 2, size * 95 // 100)
    means = np.add.reduce(planes, axis=1) / size
    brightness, redness, yellowness = means.tolist()
    planes -= means[:, np.newaxis]
    luma = planes[0].reshape(half.shape[1:])  # less its mean, on which nothing below depends
    return Measures(
        brightness=brightness,
        sharpness=(_size(luma[:, 1:] - luma[:, :-1]) + _size(luma[1:] - luma[:-1])) / 2,
        midtones=midtones,
        highlights=highlights,
        glare=np.count_nonzero(np.maximum.reduce(half, axis=0) >= 4 * _GLARE) / size,
        color=_color(planes),
        redness=redness / max(brightness, 1.0),
        yellowness=yellowness / max(brightness, 1.0),
        detail=_detail(luma),
        contrast=_contrast(luma) / max(highlights, 1.0),
    )


_FAULTS = {
    "too_dark": {"min_midtones", "min_highlights"},
    "too_bright": {"max_midtones", "max_glare"},
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


def _sum(values: _Floats) -> float:
    return float(np.add.reduce(values, axis=None))  # numpy's `sum` takes twice as long


def _halve(pixels: NDArray[np.uint8]) -> _Floats:
    """Sum pixels two by two: float32 [3, H // 2, W // 2], four times their mean."""
    rows, columns = pixels.shape[0] // 2, pixels.shape[1] // 2
    even = pixels[: rows * 2, : columns * 2]
    pairs = np.add(even[0::2], even[1::2], dtype=np.uint16).ravel()
    sums = np.empty((rows * columns, 6), np.uint16)  # with the pixel to the right: the first three of each six count
    np.add(pairs[:-3], pairs[3:], out=sums.ravel()[:-3])
    half = np.empty((3, rows, columns), np.float32)
    half.reshape(3, -1)[...] = sums[:, :3].T
    return half


def _select(luma: _Floats, *places: int) -> list[float]:
    """Return the values that are at some places of the sorted luma.

    Only those of the same gray level are compared: numpy's partition of all takes five times as long for most photos.
    """
    levels, found = luma.astype(np.uint8), []
    ends = np.cumsum(np.bincount(levels)).tolist()
    for place in places:
        level = bisect.bisect_right(ends, place)
        rank = place - (ends[level - 1] if level else 0)
        found.append(float(np.partition(luma[levels == level], rank)[rank]))
    return found


def _color(planes: _Floats) -> float:
    """Subtract from the variance of colour differences what a linear function of luma explains; all are centred."""
    power, *sizes = np.vecdot(planes, planes).tolist()
    shared = (planes[1:] @ planes[0]).tolist()
    left = [size - (along**2 / power if power else 0.0) for size, along in zip(sizes, shared, strict=True)]
    return math.sqrt(sum(max(0.0, each) for each in left) / planes.shape[1])


def _size(differences: _Floats) -> float:
    """Mean absolute value."""
    return _sum(np.abs(differences, out=differences)) / max(differences.size, 1)


def _detail(luma: _Floats) -> float:
    rows, columns = [size // 2 * 2 for size in luma.shape]
    pairs = luma[0:rows:2] + luma[1:rows:2]
    areas = pairs[:, 0:columns:2] + pairs[:, 1:columns:2]  # four times their mean
    fine, coarse = _bends(areas, 1), _bends(areas, 2)
    least = max(4 * _LEAST, _OTHERS * sum(coarse) / len(coarse))
    return min([one / max(other, least) for one, other in zip(fine, coarse, strict=True)])


def _bends(luma: _Floats, lag: int) -> list[float]:
    """Mean absolute second difference of pixels so far apart: along rows, along columns, and along both diagonals."""
    rows, columns = [max(0, size - 2 * lag) for size in luma.shape]
    up, level, down = [slice(at, at + rows) for at in (0, lag, 2 * lag)]
    left, centre, right = [slice(at, at + columns) for at in (0, lag, 2 * lag)]
    bends = np.empty((4, rows, columns), np.float32)
    np.add(luma[level, left], luma[level, right], out=bends[0])
    np.add(luma[up, centre], luma[down, centre], out=bends[1])
    np.add(luma[up, left], luma[down, right], out=bends[2])
    np.add(luma[up, right], luma[down, left], out=bends[3])
    bends -= 2 * luma[level, centre]
    sums = np.add.reduce(np.abs(bends, out=bends).reshape(4, -1), axis=1)
    means: list[float] = (sums / (_LONGER * max(rows * columns, 1))).tolist()
    return means


def _contrast(luma: _Floats) -> float:
    side = min(_BLOCK, *luma.shape)
    rows, columns = [_averaging(size // side, side) for size in luma.shape]
    means = np.matmul(rows @ luma[: rows.shape[1], : columns.shape[1]], columns.T).ravel()
    means -= np.float32(_sum(means) / means.size)
    return math.sqrt(float(means @ means) / means.size)


@functools.lru_cache
def _averaging(blocks: int, side: int) -> _Floats:
    """Make the matrix, float32 [blocks, blocks * side], that averages so many blocks of a side."""
    return np.repeat(np.eye(blocks, dtype=np.float32) / np.float32(side), side, axis=1)
