"""Whether photos and answers still look like those a version was calibrated on: counts in a rolling window, no photo.

Compared as population stability index (PSI): the sum over bins of (now - then) x ln(now / then). Below 0.1 is commonly
read as stable, above 0.25 as changed.
"""

import math
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dermserve.imaging import Measures
from dermserve.v1 import card_pb2

WINDOW = 1000
"""Answers that are remembered of each version, as bins."""
_LEAST = 100
"""Answers below which chance alone would look like drift."""
_LEAST_SHARE = 1e-3
"""For a bin that is empty then or now, which would make the index infinite."""
_VERSIONS = 16
_COMPARED = ("classes", "confidence", "brightness", "sharpness")
_Bins = tuple[float, int, int, int, int]
"""Of one answer: its top probability, and the bins of its class and of the three others of _COMPARED."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a version's answers compare with its card's profile."""

    model: str
    version: int
    answers: int
    """In the window."""
    confidence: float
    """Their mean top probability."""
    psi: dict[str, float]
    """By what is compared; empty while there are too few answers."""


class Drift:
    """The windows of the versions that answer."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, int], tuple[card_pb2.Card, deque[_Bins]]] = {}

    def note(
        self, model: str, version: int, *, card: card_pb2.Card, probabilities: Sequence[float], measures: Measures
    ) -> None:
        """Record the measures and the answer of a photo's identity view, for a card that has a profile."""
        known, answers = self._windows.get((model, version), (None, deque[_Bins](maxlen=WINDOW)))
        if known is not card:
            if len(self._windows) >= _VERSIONS:
                del self._windows[next(iter(self._windows))]
            answers = deque(maxlen=WINDOW)
            self._windows[model, version] = card, answers
        top, of = max(probabilities), card.profile
        answers.append(
            (
                top,
                list(probabilities).index(top),
                bisect_right(of.confidence.edges, top),
                bisect_right(of.brightness.edges, measures.brightness),
                bisect_right(of.sharpness.edges, measures.sharpness),
            )
        )

    def read(self) -> Iterator[Reading]:
        """Compare every window; callable from any thread."""
        for (model, version), (card, answers) in list(self._windows.items()):
            tops, *bins = zip(*list(answers), strict=True)
            psi = dict(zip(_COMPARED, map(_psi, _shares(card.profile), bins), strict=True))
            confidence = sum(tops) / len(tops)
            yield Reading(model, version, len(tops), confidence, psi if len(tops) >= _LEAST else {})


def _shares(profile: card_pb2.Profile) -> tuple[Sequence[float], ...]:
    histograms = (profile.confidence, profile.brightness, profile.sharpness)
    return profile.class_shares, *(histogram.shares for histogram in histograms)


def _psi(then: Sequence[float], bins: Sequence[int]) -> float:
    counts = Counter(bins)
    floored = [(max(share, _LEAST_SHARE), max(counts[at] / len(bins), _LEAST_SHARE)) for at, share in enumerate(then)]
    return sum((now - before) * math.log(now / before) for before, now in floored)
