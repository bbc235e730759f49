"""An open loop's timetable: when calls are due, whatever the answers do.

Locust's `constant_throughput` waits less after a slow call, but once a call takes longer than its slot, the slots
after it are silently lost, and with them the latencies that waiting callers would have seen (coordinated omission).
Here slots stay due: a call that starts late is timed from when it was due, and lateness is counted.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

TOLERANCE = 0.02
"""Seconds a call may start after it was due without counting as late."""


@dataclass(slots=True)
class Pace:
    """How an open loop went."""

    wanted: int = 0
    """Calls that came due."""
    started: int = 0
    """Calls that were started."""
    late: int = 0
    """Those of them that started more than TOLERANCE after they were due."""
    worst: float = 0.0
    """Seconds of the latest."""

    def add(self, other: "Pace") -> None:
        """Put another's counts to these."""
        self.wanted += other.wanted
        self.started += other.started
        self.late += other.late
        self.worst = max(self.worst, other.worst)

    @property
    def off(self) -> float:
        """Share of the calls that were late or never started."""
        return (self.wanted - self.started + self.late) / self.wanted if self.wanted else 0.0


class Timeline:
    """The due times of one user.

    Args:
        rate: calls a second.
        phase: share of an interval before the first, so that users don't call in step.
        warm_up: seconds from now on in which lateness doesn't count.
        clock: seconds.
    """

    def __init__(
        self, rate: float, *, phase: float = 0.0, warm_up: float = 0.0, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._interval = 1 / rate
        self._clock = clock
        now = clock()
        self._next = now + phase * self._interval
        skipped = max(0, math.ceil((now + warm_up - self._next) / self._interval))
        self._begin = self._next + skipped * self._interval
        self._pace = Pace()

    def pause(self) -> float:
        """Give the seconds until the next call is due; 0 when it is already."""
        return max(0.0, self._next - self._clock())

    def take(self) -> float:
        """Start the next call; return when it was due."""
        due = self._next
        lateness = max(0.0, self._clock() - due)
        self._next += self._interval
        if due < self._begin - self._interval / 2:
            return due
        self._pace.started += 1
        self._pace.late += lateness > TOLERANCE
        self._pace.worst = max(self._pace.worst, lateness)
        return due

    def finish(self) -> Pace:
        """Close the books: calls that came due and were never started count, but for the one that is due just now."""
        overdue = self._clock() - TOLERANCE - self._begin
        came_due = int(overdue / self._interval) + 1 if overdue >= 0 else 0
        self._pace.wanted = max(self._pace.started, came_due)
        return self._pace
