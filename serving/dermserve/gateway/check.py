"""Whether the model server's answer is one that the card's classifier can give. Nothing else becomes a prediction."""

import numpy as np

from dermserve.gateway.errors import InvalidModelOutputError
from dermserve.gateway.tfserving import Scores
from dermserve.v1 import card_pb2

_SUM_TOLERANCE = 1e-3
"""How far from 1 float32 probabilities may sum; 1000 classes of rounding stay well within."""


def check_scores(scores: Scores, *, card: card_pb2.Card) -> Scores:
    """Return the scores when they are sound.

    Raises:
        InvalidModelOutputError: wrong number of views or classes, not finite, outside 0..1, or rows that
            do not sum to 1.
    """
    probabilities, expected = scores.probabilities, (scores.views, len(card.classes))
    if probabilities.shape != expected:
        raise InvalidModelOutputError(f"probabilities have the shape {probabilities.shape}, not {expected}")
    if scores.ood_scores.shape != (scores.views,):
        raise InvalidModelOutputError(f"ood_score has the shape {scores.ood_scores.shape}, not {(scores.views,)}")
    if not (np.isfinite(probabilities).all() and np.isfinite(scores.ood_scores).all()):
        raise InvalidModelOutputError("it is not finite")
    if probabilities.min() < 0 or probabilities.max() > 1 + _SUM_TOLERANCE:
        raise InvalidModelOutputError("probabilities lie outside 0..1")
    if np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1).max() > _SUM_TOLERANCE:
        raise InvalidModelOutputError("probabilities do not sum to 1")
    return scores
