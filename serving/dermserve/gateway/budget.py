"""The time left of a request's deadline, and the time that calls are expected to take.

gRPC's asyncio does not propagate deadlines, so each stage checks its budget here.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

Clock: TypeAlias = Callable[[], float]  # monotonic seconds

OVER = 0.05  # seconds: a request that is cancelled with less of its budget left has run out of time
_WEIGHT = 0.2  # weight of the newest answer in the running mean
_SHARE = 0.8  # share of the budget that views may take: many calls take longer than the mean
_HOPELESS = 0.5  # share of the mean time for one view: with less time left, no answer is expected in time
_FADE = 0.98  # factor on the mean after each refusal that it caused, so that slow calls do not cause refusals for ever


class Budget(NamedTuple):
    """Time left of a request's deadline."""

    ends: float  # when the clock shows this, it is over
    clock: Clock

    def left(self) -> float:
        """Return the seconds left; negative after the deadline."""
        return self.ends - self.clock()

    def within(self, seconds: float) -> "Budget":
        """Return a budget of some seconds from now, but no longer than this one."""
        return Budget(min(self.ends, self.clock() + seconds), self.clock)


class Costs:
    """Expected seconds of a call, by model and number of views: running means of what calls took.

    Calls that a deadline cut off only limit the views that fit, until an answer shows that calls are faster: the server
    may have hung.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, dict[int, float]] = {}
        self._cut: dict[str, dict[int, float]] = {}  # the longest that calls had no answer after

    def note(self, model: str, views: int, seconds: float, *, late: bool = False) -> None:
        """Learn from a call that took so many seconds, or that had no answer after them."""
        known, cut = self._seconds.setdefault(model, {}), self._cut.setdefault(model, {})
        if late:
            cut[views] = max(cut.get(views, 0.0), seconds)
            return
        before = known.get(views, seconds)
        known[views] = mean = before + (seconds - before) * _WEIGHT
        for times in (known, cut):  # views that did not fit when calls were slower are asked for no more to show it
            for count in times:
                times[count] = min(times[count], mean * max(1.0, count / views))

    def expect(self, model: str, views: int) -> float:
        """Return the expected seconds, in proportion to the nearest number of views known; 0 when none is."""
        return _estimate(self._seconds.get(model), views)

    def fit(self, model: str, views: int, *, left: float) -> int:
        """Return how many of the views fit into the seconds left; 0 when not even one can."""
        for count in range(views, 0, -1):
            if max(self.expect(model, count), _estimate(self._cut.get(model), count)) <= left * _SHARE:
                return count
        if self.expect(model, 1) * _HOPELESS <= left:
            return 1
        self._seconds[model] = {count: seconds * _FADE for count, seconds in self._seconds[model].items()}
        return 0


def _estimate(known: Mapping[int, float] | None, views: int) -> float:
    if not known:
        return 0.0
    if views in known:
        return known[views]
    nearest = min(known, key=lambda count: abs(count - views))
    return known[nearest] * views / nearest
