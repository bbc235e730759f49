"""The file an out-of-distribution score is kept in. Needs no scikit-learn, so that a run can be exported without it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from dermserve.models.graph import FeatureDistance


def save_distance(distance: FeatureDistance, file: Path) -> None:
    """Write a distance."""
    with file.open("wb") as stream:
        arrays: dict[str, Any] = {
            name: value for name, value in dataclasses.asdict(distance).items() if value is not None
        }
        np.savez_compressed(stream, **arrays)


def load_distance(file: Path) -> FeatureDistance:
    """Read what `save_distance` wrote."""
    with np.load(file) as arrays:
        return FeatureDistance(
            centers=arrays["centers"],
            projection=arrays["projection"],
            unit=bool(arrays["unit"]),
            scope=arrays.get("scope"),
            limit=float(arrays.get("limit", 0.0)),
        )
