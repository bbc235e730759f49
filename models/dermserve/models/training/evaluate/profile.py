"""What validation photos looked like and how they were answered: the card's profile, by which drift is noticed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermserve.imaging import measure
from dermserve.models.training.train.loop import Labelled

_BINS = 10


def measure_profile(photos: Labelled, probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Measure a profile.

    Args:
        photos: N photos that the network was not trained on.
        probabilities: of the identity view of each, calibrated; float64 [N, C].

    Returns:
        The fields of a `dermserve.v1.Profile`, as JSON values.
    """
    measures = [measure(photos.images[row]) for row in photos.rows]
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return {
        "photos": len(photos),
        "class_shares": (counts / counts.sum()).tolist(),
        "confidence": _histogram(probabilities.max(axis=1)),
        "brightness": _histogram([found.brightness for found in measures]),
        "sharpness": _histogram([found.sharpness for found in measures]),
    }


def _histogram(values: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
    """Bin values at their deciles, so that each bin has about as many of them."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "shares": (counts / counts.sum()).tolist(), "mean": float(np.mean(values))}
