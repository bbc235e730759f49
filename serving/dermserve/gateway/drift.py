"""Compare photos and answers with those that a version was calibrated on: counts in a rolling window, no photo.

Compared as population stability index (PSI): the sum over bins of (now - then) x ln(now / then). Below 0.1 is commonly
read as stable, above 0.25 as changed.
"""

import math
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from dermserve.imaging import Measures
from dermserve.v1 import card_pb2

WINDOW = 1000  # answers of each version in the window, as bins
_LEAST = 100  # with fewer answers, chance alone would look like drift
_LEAST_SHARE = 1e-3  # share of an empty bin, which would make the index infinite
_VERSIONS = 16
_COMPARED = ("classes", "confidence", "brightness", "sharpness")
_Answer: TypeAlias = tuple[float, list[int]]


class Drift:
    """A window for each version that answers.

    It holds the card, the edges of the bins and, for each answer, its top probability and the bin of each of _COMPARED.
    """

    def __init__(self) -> None:
        self._windows: dict[tuple[str, int], tuple[card_pb2.Card, list[list[float]], deque[_Answer]]] = {}

    def note(
        self, model: str, version: int, *, card: card_pb2.Card, probabilities: Sequence[float], measures: Measures
    ) -> None:
        """Record the measures and the answer of a photo's identity view, for a card that has a profile."""
        window = self._windows.get((model, version))
        if window is None or window[0] is not card:
            if len(self._windows) >= _VERSIONS:
                del self._windows[next(iter(self._windows))]
            window = card, [list(each.edges) for each in _histograms(card.profile)], deque(maxlen=WINDOW)
            self._windows[model, version] = window
        top = max(probabilities)
        bins = map(bisect_right, window[1], (top, measures.brightness, measures.sharpness))
        window[2].append((top, [list(probabilities).index(top), *bins]))

    def read(self) -> Iterator[tuple[tuple[str, int], int, float, dict[str, float]]]:
        """For each model and version: answers in the window, their mean top probability, the index by what is compared.

        There is no index while there are too few answers. Callable from any thread.
        """
        for key, (card, _, window) in list(self._windows.items()):
            (tops, bins), psi = zip(*list(window), strict=True), dict[str, float]()
            if len(tops) >= _LEAST:
                shares = [card.profile.class_shares, *(each.shares for each in _histograms(card.profile))]
                psi = dict(zip(_COMPARED, map(_psi, shares, zip(*bins, strict=True)), strict=True))
            yield key, len(tops), sum(tops) / len(tops), psi


def _histograms(profile: card_pb2.Profile) -> tuple[card_pb2.Histogram, ...]:
    return profile.confidence, profile.brightness, profile.sharpness


def _psi(then: Sequence[float], bins: Sequence[int]) -> float:
    counts = Counter(bins)
    floored = [(max(share, _LEAST_SHARE), max(counts[at] / len(bins), _LEAST_SHARE)) for at, share in enumerate(then)]
    return sum((now - before) * math.log(now / before) for before, now in floored)
