"""When the calls of an open loop are due, and whether they began then."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping

TOLERANCE = 0.02  # a call counts as late when it starts so many seconds after it was due


def share_off(pace: Mapping[str, int]) -> float:
    """Return the share of the calls that were late or never started, of what `Timeline.finish` counts."""
    wanted, started, late = (pace[name] for name in ("wanted", "started", "late"))
    return (wanted - started + late) / wanted if wanted else 0.0


class Timeline:
    """The times at which the calls of one user of an open loop are due, however late the answers are.

    Locust's `constant_throughput` silently drops calls that come due during a slow call, and so hides the latency of
    waiting callers (coordinated omission). Here they stay due, and those that start at `counted_from` or later are
    counted. The first call is due after a share `phase` of an interval, so that users don't call at the same moments.
    """

    def __init__(
        self,
        rate: float,
        *,
        phase: float = 0.0,
        counted_from: float = 0.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._interval = 1 / rate
        self._clock = clock
        self._next = clock() + phase * self._interval
        self._counted_from = counted_from
        self._pace: Counter[str] = Counter()

    def pause(self) -> float:
        """Return the seconds until the next call is due; 0 if it is."""
        return max(0.0, self._next - self._clock())

    def take(self) -> float:
        """Start the next call; return when it was due."""
        due, now = self._next, self._clock()
        self._next += self._interval
        if now >= self._counted_from:
            self._pace.update(started=1, late=now - due > TOLERANCE)
        return due

    def finish(self, at: float = math.inf) -> Counter[str]:
        """Count the calls that came due (`wanted`), were `started`, and of these were `late`; not one due just now.

        Calls due after `at` were not wanted.
        """
        overdue = min(self._clock(), at) - TOLERANCE - self._next
        never = int(overdue / self._interval) + 1 if overdue >= 0 else 0
        self._pace["wanted"] = self._pace["started"] + never
        return self._pace
