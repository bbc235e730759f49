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
        self._windows: dict[tuple[str, int], _Window] = {}

    def note(
        self, model: str, version: int, *, card: card_pb2.Card, probabilities: Sequence[float], measures: Measures
    ) -> None:
        """Record the measures and the answer of a photo's identity view, for a card that has a profile."""
        window = self._windows.get((model, version))
        if window is None or window.card is not card:
            if len(self._windows) >= _VERSIONS:
                del self._windows[next(iter(self._windows))]
            window = self._windows[model, version] = _Window(card)
        window.note(probabilities, measures)

    def read(self) -> Iterator[Reading]:
        """Compare every window; callable from any thread."""
        for (model, version), window in list(self._windows.items()):
            yield Reading(model, version, len(window.bins), window.confidence, window.psi())


class _Window:
    """The bins of a version's latest answers."""

    def __init__(self, card: card_pb2.Card) -> None:
        self.card = card
        self.bins: deque[tuple[int, int, int, int]] = deque()
        self._sum = 0.0
        self._confidences: deque[float] = deque()
        self._counts: tuple[Counter[int], ...] = (Counter(), Counter(), Counter(), Counter())
        histograms = (card.profile.confidence, card.profile.brightness, card.profile.sharpness)
        self._edges = tuple(tuple(histogram.edges) for histogram in histograms)
        self._then = dict(
            zip(
                ("classes", "confidence", "brightness", "sharpness"),
                (tuple(card.profile.class_shares), *(tuple(histogram.shares) for histogram in histograms)),
                strict=True,
            )
        )

    @property
    def confidence(self) -> float:
        return self._sum / max(1, len(self.bins))

    def note(self, probabilities: Sequence[float], measures: Measures) -> None:
        top = max(probabilities)
        values = (top, measures.brightness, measures.sharpness)
        found = (
            probabilities.index(top),
            *(bisect_right(edges, value) for edges, value in zip(self._edges, values, strict=True)),
        )
        self._count((found[0], found[1], found[2], found[3]), top)
        if len(self.bins) > WINDOW:
            self._forget()

    def psi(self) -> dict[str, float]:
        total = len(self.bins)
        if total < _LEAST:
            return {}
        pairs = zip(self._then.items(), self._counts, strict=True)
        return {
            name: _psi(then, [counts[index] / total for index in range(len(then))]) for (name, then), counts in pairs
        }

    def _count(self, found: tuple[int, int, int, int], top: float) -> None:
        self.bins.append(found)
        self._confidences.append(top)
        self._sum += top
        for counts, index in zip(self._counts, found, strict=True):
            counts[index] += 1

    def _forget(self) -> None:
        self._sum -= self._confidences.popleft()
        for counts, index in zip(self._counts, self.bins.popleft(), strict=True):
            counts[index] -= 1


def _psi(then: Sequence[float], now: Sequence[float]) -> float:
    floored = [(max(a, _LEAST_SHARE), max(b, _LEAST_SHARE)) for a, b in zip(then, now, strict=True)]
    return sum((b - a) * math.log(b / a) for a, b in floored)
