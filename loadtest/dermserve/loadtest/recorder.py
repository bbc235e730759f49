"""What is kept of every call: a second's counts for each kind, in each generating process, gathered by the master."""

import json
import math
import pathlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from dermserve.loadtest.calls import Call
from dermserve.loadtest.pacing import Pace
from dermserve.models.store import write_durably

Key = tuple[int, str, str, str]
_STEP = math.log(1.01)
_LEAST = 0.01


class Histogram:
    """Counts of latencies in milliseconds; quantiles are right to half a percent.

    Args:
        counts: by bucket, as `counts` gives them; JSON's text keys will do.
    """

    def __init__(self, counts: Mapping[int, int] | Mapping[str, int] | None = None) -> None:
        self.counts: Counter[int] = Counter({int(bucket): count for bucket, count in (counts or {}).items()})
        """By bucket."""

    def add(self, milliseconds: float) -> None:
        """Count one."""
        self.counts[bucket_of(milliseconds)] += 1

    @property
    def total(self) -> int:
        """How many were counted."""
        return self.counts.total()

    def quantile(self, share: float) -> float:
        """Give the latency in milliseconds that `share` of the calls kept within; NaN when there are none."""
        left = math.ceil(share * self.total)
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return middle_of(bucket)
        return math.nan

    def over(self, milliseconds: float) -> int:
        """Count the calls that took longer."""
        return sum(count for bucket, count in self.counts.items() if middle_of(bucket) > milliseconds)

    @classmethod
    def merged(cls, histograms: Iterable[Self]) -> Self:
        """Put histograms together."""
        whole = cls()
        for histogram in histograms:
            whole.counts.update(histogram.counts)
        return whole


def bucket_of(milliseconds: float) -> int:
    """Give the bucket of a latency."""
    return round(math.log(max(milliseconds, _LEAST)) / _STEP)


def middle_of(bucket: int) -> float:
    """Give the latency in milliseconds in a bucket's middle."""
    return math.exp(bucket * _STEP)


@dataclass(slots=True)
class Cell:
    """The calls of one kind that ended in one second."""

    latency: Histogram = field(default_factory=Histogram)
    """Of those that got an answer."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Calls by the name of their status."""
    stages: Counter[str] = field(default_factory=Counter)
    """Milliseconds, summed over the answers."""

    def add(self, call: Call) -> None:
        """Count one call."""
        self.statuses[call.status] += 1
        if call.status == "OK":
            self.latency.add(call.milliseconds)
            self.stages.update(call.stages)

    def merge(self, other: "Cell") -> None:
        """Put another's counts to these."""
        self.latency.counts.update(other.latency.counts)
        self.statuses.update(other.statuses)
        self.stages.update(other.stages)


class Recorder:
    """Counts calls; can be emptied into a message and filled from one."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything; a test starts now."""
        self._cells: dict[Key, Cell] = {}
        self._pace = Pace()
        self._generators: list[dict[str, Any]] = []
        self._messages: Counter[str] = Counter()
        self._faults: list[str] = []
        self.started = time.time()
        self.ended: float | None = None

    def note(self, call: Call) -> None:
        """Count one call."""
        key = (int(time.time()), call.method, call.model, call.mode)
        self._cells.setdefault(key, Cell()).add(call)
        if call.message and len(self._messages) < 100:
            self._messages[f"{call.status}: {call.message}"[:300]] += 1

    def note_pace(self, pace: Pace) -> None:
        """Add how one user's open loop went."""
        self._pace.add(pace)

    def note_generator(self, name: str, *, cpu: float, lag: float) -> None:
        """Note one second of a generating process: its share of one core, and how late its event loop was in ms."""
        self._generators.append({"second": int(time.time()), "name": name, "cpu": cpu, "lag_ms": lag})

    def note_fault(self, fault: str) -> None:
        """Add what went wrong with a worker, by which the test has failed."""
        self._faults.append(fault)

    def drain(self) -> dict[str, Any]:
        """Empty it into a message."""
        message = self._contents()
        started = self.started
        self.clear()
        self.started = started
        return message

    def absorb(self, message: dict[str, Any]) -> None:
        """Take in another's message."""
        for key, cell in read_cells(message["cells"]):
            self._cells.setdefault(key, Cell()).merge(cell)
        self._pace.add(Pace(**message["pace"]))
        self._generators.extend(message["generators"])
        self._messages.update(message["messages"])

    def since(self, second: int) -> Cell:
        """Put together all calls that ended in a second or later."""
        whole = Cell()
        for key, cell in self._cells.items():
            if key[0] >= second:
                whole.merge(cell)
        return whole

    def write(self, file: pathlib.Path) -> None:
        """Write everything, whole or not at all."""
        content = {"started": self.started, "ended": self.ended or time.time(), **self._contents()}
        write_durably(file, json.dumps(content))

    def _contents(self) -> dict[str, Any]:
        return {
            "cells": [_written(key, cell) for key, cell in sorted(self._cells.items())],
            "pace": asdict(self._pace),
            "generators": self._generators,
            "messages": dict(self._messages),
            "worker_faults": self._faults,
        }


def _written(key: Key, cell: Cell) -> dict[str, Any]:
    second, method, model, mode = key
    return {
        "second": second,
        "method": method,
        "model": model,
        "mode": mode,
        "latency": {str(bucket): count for bucket, count in cell.latency.counts.items()},
        "statuses": dict(cell.statuses),
        "stages": dict(cell.stages),
    }


def read_cells(written: Iterable[dict[str, Any]]) -> Iterable[tuple[Key, Cell]]:
    """Read what a recorder wrote of its calls."""
    for each in written:
        cell = Cell(
            latency=Histogram(each["latency"]),
            statuses=Counter(each["statuses"]),
            stages=Counter(each["stages"]),
        )
        yield (each["second"], each["method"], each["model"], each["mode"]), cell
