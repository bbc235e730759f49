"""Compare photos and answers with those that a version was calibrated on: counts in a rolling window, no photo.

Compared as population stability index (PSI): the sum over bins of (now - then) x ln(now / then). Below 0.1 is commonly
read as stable, above 0.25 as changed.
"""

import math
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dermserve.imaging import Measures
from dermserve.v1 import card_pb2

WINDOW = 1000  # answers of each version in the window, as bins
_LEAST = 100  # with fewer answers, chance alone would look like drift
_LEAST_SHARE = 1e-3  # share of an empty bin, which would make the index infinite
_VERSIONS = 16
_COMPARED = ("classes", "confidence", "brightness", "sharpness")
_Answer: TypeAlias = tuple[float, ...]  # its top probability, and the bin of each of _COMPARED


@dataclass(frozen=True, slots=True)
class Reading:
    """The comparison of a version's answers with its card's profile."""

    model: str
    version: int
    answers: int  # in the window
    confidence: float  # their mean top probability
    psi: dict[str, float]  # by what is compared; empty while there are too few answers


class Drift:
    """A window for each version that answers."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, int], tuple[card_pb2.Card, deque[_Answer]]] = {}

    def note(
        self, model: str, version: int, *, card: card_pb2.Card, probabilities: Sequence[float], measures: Measures
    ) -> None:
        """Record the measures and the answer of a photo's identity view, for a card that has a profile."""
        known, answers = self._windows.get((model, version), (None, deque[_Answer]()))
        if known is not card:
            if len(self._windows) >= _VERSIONS:
                del self._windows[next(iter(self._windows))]
            answers = deque(maxlen=WINDOW)
            self._windows[model, version] = card, answers
        top = max(probabilities)
        values = zip(_histograms(card.profile), (top, measures.brightness, measures.sharpness), strict=True)
        answers.append((top, list(probabilities).index(top), *(bisect_right(of.edges, value) for of, value in values)))

    def read(self) -> Iterator[Reading]:
        """Compare every window; callable from any thread."""
        for (model, version), (card, answers) in list(self._windows.items()):
            tops, *bins = zip(*list(answers), strict=True)
            shares = [card.profile.class_shares, *(each.shares for each in _histograms(card.profile))]
            psi = dict(zip(_COMPARED, map(_psi, shares, bins), strict=True)) if len(tops) >= _LEAST else {}
            yield Reading(model, version, len(tops), sum(tops) / len(tops), psi)


def _histograms(profile: card_pb2.Profile) -> tuple[card_pb2.Histogram, card_pb2.Histogram, card_pb2.Histogram]:
    return profile.confidence, profile.brightness, profile.sharpness


def _psi(then: Sequence[float], bins: Sequence[float]) -> float:
    counts = Counter(bins)
    floored = [(max(share, _LEAST_SHARE), max(counts[at] / len(bins), _LEAST_SHARE)) for at, share in enumerate(then)]
    return sum((now - before) * math.log(now / before) for before, now in floored)
