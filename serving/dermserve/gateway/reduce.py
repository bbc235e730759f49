"""Stage *reduce*: many views to one prediction."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.tfserving import Scores


@dataclass(frozen=True, slots=True)
class Reduced:
    """One prediction for all views."""

    mean: NDArray[np.float64]
    """float64 [C], sums to 1."""
    std: NDArray[np.float64]
    """float64 [C], population standard deviation over the views."""
    ranking: tuple[int, ...]
    """Class indices, the most probable first, ties in the card's order."""
    views: int
    """Views the mean is over."""
    ood_score: float
    """Of the identity view."""


def reduce_views(scores: Scores) -> Reduced:
    """Average checked scores of at least one view, the identity first."""
    probabilities = scores.probabilities.astype(np.float64)
    mean = probabilities.mean(axis=0)
    return Reduced(
        mean=mean / mean.sum(),
        std=probabilities.std(axis=0),
        ranking=tuple(int(index) for index in np.argsort(-mean, kind="stable")),
        views=len(probabilities),
        ood_score=float(scores.ood_scores[0]),
    )
