"""Record a test: counts of calls by second and kind, and how an open loop kept its rate.

Locust's own statistics round latencies to two digits and have no seconds, statuses or stages of the gateway.
"""

import json
import math
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pydantic

from dermserve.loadtest.calls import Call
from dermserve.models.durable import write_durably

TOLERANCE = 0.02
"""A call counts as late when it starts so many seconds after it was due."""
_STEP = math.log(1.01)
_LEAST = 0.01


def bucket_of(milliseconds: float) -> int:
    """Return the bucket of a latency. Buckets are 1 % wide, so quantiles are exact to half a percent."""
    return round(math.log(max(milliseconds, _LEAST)) / _STEP)


def middle_of(bucket: int) -> float:
    """Return the latency in milliseconds at the middle of a bucket."""
    return math.exp(bucket * _STEP)


def quantile(latency: Mapping[int, int], share: float) -> float:
    """Return the milliseconds within which a share of the calls ended; NaN without calls."""
    left = math.ceil(share * sum(latency.values()))
    for bucket in sorted(latency):
        left -= latency[bucket]
        if left <= 0:
            return middle_of(bucket)
    return math.nan


@dataclass
class Cell:
    """The calls of one kind that ended in one second."""

    second: int = 0
    """Unix time."""
    method: str = ""
    model: str = ""
    mode: str = ""
    latency: Counter[int] = field(default_factory=Counter)
    """Calls that got an answer, by bucket."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Calls by the name of their status."""
    stages: dict[str, float] = field(default_factory=dict)
    """Milliseconds, summed over the answers."""

    @property
    def kind(self) -> tuple[str, str, str]:
        """Method, model and mode."""
        return self.method, self.model, self.mode

    def merge(self, other: "Cell") -> None:
        """Add another's counts to these."""
        self.latency.update(other.latency)
        self.statuses.update(other.statuses)
        for stage, spent in other.stages.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + spent


_CELLS = pydantic.TypeAdapter(list[Cell])


@dataclass(slots=True)
class Pace:
    """How an open loop kept its rate."""

    wanted: int = 0
    """Calls that came due."""
    started: int = 0
    """Calls that were started."""
    late: int = 0
    """Started calls that were more than TOLERANCE late."""
    worst: float = 0.0
    """The largest lateness in seconds."""

    def add(self, other: "Pace") -> None:
        """Add another's counts to these."""
        self.wanted += other.wanted
        self.started += other.started
        self.late += other.late
        self.worst = max(self.worst, other.worst)

    @property
    def off(self) -> float:
        """Share of the calls that were late or never started."""
        return (self.wanted - self.started + self.late) / self.wanted if self.wanted else 0.0


class Timeline:
    """The times at which the calls of one user of an open loop are due, however late the answers are.

    Locust's `constant_throughput` silently drops calls that come due during a slow call, and so hides the latency of
    waiting callers (coordinated omission). Here they stay due, and lateness is counted.

    Args:
        rate: calls a second.
        phase: share of an interval before the first call, so that users don't call at the same moments.
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
        """Return the seconds until the next call is due; 0 if it is."""
        return max(0.0, self._next - self._clock())

    def take(self) -> float:
        """Start the next call; return when it was due."""
        due = self._next
        self._next += self._interval
        if due >= self._begin - self._interval / 2:
            lateness = max(0.0, self._clock() - due)
            self._pace.add(Pace(started=1, late=int(lateness > TOLERANCE), worst=lateness))
        return due

    def finish(self) -> Pace:
        """Count the calls that came due, also those never started, except one that is due just now."""
        overdue = self._clock() - TOLERANCE - self._begin
        came_due = int(overdue / self._interval) + 1 if overdue >= 0 else 0
        self._pace.wanted = max(self._pace.started, came_due)
        return self._pace


class Recorder:
    """Counts calls. Workers empty it into messages, which the master adds to its own."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything; a test starts now."""
        self.started = time.time()
        self.ended = 0.0
        self.faults: list[str] = []
        """Failures of workers, with which the test has failed."""
        self.pace = Pace()
        self._empty()

    def _empty(self) -> None:
        self._cells: dict[tuple[int, tuple[str, str, str]], Cell] = {}
        self._generators: list[dict[str, Any]] = []
        self._messages: Counter[str] = Counter()

    def note(self, call: Call) -> None:
        """Count one call."""
        counts = Cell(int(time.time()), call.method, call.model, call.mode, statuses=Counter({call.status: 1}))
        if call.status == "OK":
            counts.latency[bucket_of(call.milliseconds)] += 1
            counts.stages.update(call.stages)
        self._add(counts)
        if call.message and len(self._messages) < 100:
            self._messages[f"{call.status}: {call.message}"[:300]] += 1

    def note_generator(self, name: str, *, cpu: float, lag: float) -> None:
        """Record one second of a generating process: its share of one core, and its event loop's lag in ms."""
        self._generators.append({"second": int(time.time()), "name": name, "cpu": cpu, "lag_ms": lag})

    def drain(self) -> dict[str, Any]:
        """Empty it into a message."""
        message = self._contents()
        self.pace = Pace()
        self._empty()
        return message

    def absorb(self, message: dict[str, Any]) -> None:
        """Add another recorder's message."""
        for cell in _CELLS.validate_python(message["cells"]):
            self._add(cell)
        self.pace.add(Pace(**message["pace"]))
        self._generators.extend(message["generators"])
        self._messages.update(message["messages"])

    def since(self, second: float) -> Cell:
        """Combine all calls that ended in this second or later."""
        whole = Cell()
        for cell in self._cells.values():
            if cell.second >= second:
                whole.merge(cell)
        return whole

    def write(self, file: pathlib.Path) -> None:
        """Write everything, whole or not at all."""
        times = {"started": self.started, "ended": self.ended or time.time()}
        write_durably(file, json.dumps({**times, "worker_faults": self.faults, **self._contents()}))

    def _add(self, counts: Cell) -> None:
        key = counts.second, counts.kind
        if key in self._cells:
            self._cells[key].merge(counts)
        else:
            self._cells[key] = counts

    def _contents(self) -> dict[str, Any]:
        cells = [vars(cell) for _, cell in sorted(self._cells.items())]
        return {"cells": cells, "pace": asdict(self.pace), "generators": self._generators, "messages": self._messages}
