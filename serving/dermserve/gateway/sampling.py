"""Log lines of which there may be thousands a second: one a second is written, and says how many were not."""

from dermserve.gateway.budget import Clock

_EVERY = 1.0
"""Seconds."""


class Sampler:
    """Chooses the lines."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = -float("inf")
        self._skipped = 0

    def sample(self) -> int | None:
        """Return how many lines were left out since the one before, or None when this one is to be left out, too."""
        now = self._clock()
        if now < self._next:
            self._skipped += 1
            return None
        self._next = now + _EVERY
        skipped, self._skipped = self._skipped, 0
        return skipped
