"""Wall time of each stage of a request, and its span."""

import contextlib
from collections.abc import Iterator, Mapping

from dermserve.gateway.budget import Clock
from dermserve.gateway.tracing import Tracing
from dermserve.v1 import classifier_pb2


class Watch:
    """Adds up the milliseconds of named stages, from the moment it is made."""

    def __init__(self, clock: Clock, *, tracing: Tracing) -> None:
        self._clock = clock
        self._tracing = tracing
        self._start = clock()
        self._spent: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block as (part of) a stage."""
        start = self._clock()
        try:
            with self._tracing.span(name):
                yield
        finally:
            self.move(name, (self._clock() - start) * 1e3)

    def move(self, to: str, milliseconds: float, *, out_of: str | None = None) -> None:
        """Book time to a stage, and out of the one it was measured in."""
        self._spent[to] = self._spent.get(to, 0.0) + milliseconds
        if out_of is not None:
            self._spent[out_of] = max(0.0, self._spent.get(out_of, 0.0) - milliseconds)

    @property
    def spent(self) -> Mapping[str, float]:
        """Milliseconds by stage."""
        return self._spent

    def timings(self) -> classifier_pb2.Timings:
        """Return what was measured until now."""
        return classifier_pb2.Timings(
            decode_ms=self._spent.get("decode", 0.0),
            plan_ms=self._spent.get("plan", 0.0),
            predict_ms=self._spent.get("predict", 0.0),
            reduce_ms=self._spent.get("reduce", 0.0),
            total_ms=(self._clock() - self._start) * 1e3,
        )
