"""The file an out-of-distribution score is kept in. Needs no scikit-learn, so that a run can be exported without it."""

from pathlib import Path

import numpy as np

from dermserve.models.graph import FeatureDistance


def save_distance(distance: FeatureDistance, file: Path) -> None:
    """Write a distance."""
    with file.open("wb") as stream:
        np.savez_compressed(stream, centers=distance.centers, projection=distance.projection, unit=distance.unit)


def load_distance(file: Path) -> FeatureDistance:
    """Read what `save_distance` wrote."""
    with np.load(file) as arrays:
        unit = "unit" in arrays and bool(arrays["unit"])  # files from before there was a choice lack it
        return FeatureDistance(centers=arrays["centers"], projection=arrays["projection"], unit=unit)
