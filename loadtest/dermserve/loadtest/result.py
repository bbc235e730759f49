"""The result of a test: the recorded data, and the numbers computed from them."""

import csv
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import fmean, median_high
from typing import Any, Self

import pydantic

from dermserve.loadtest.recorder import TOLERANCE, Cell, Pace, quantile
from dermserve.loadtest.scenario import ScenarioError, first_fault
from dermserve.models.durable import write_durably

_OFF_PACE = 0.01
_BUSY = 0.9
_LAGGING = 50.0
_COLUMNS = ("method", "model", "mode", "calls", "rate", "p50", "p95", "p99", "worst", "error_rate")


@dataclass(frozen=True, kw_only=True)
class Row:
    """All calls of one kind after the warm-up; latencies in milliseconds, of calls that got an answer."""

    method: str = ""
    model: str = ""
    mode: str = ""
    calls: int = 0
    rate: float = 0.0
    """Answers a second."""
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    worst: float | None = None
    error_rate: float = 0.0
    """Share of the calls that got no answer."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Calls by the name of their status."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Mean milliseconds in each of the gateway's stages, as its answers say."""

    @property
    def name(self) -> str:
        """Its name in lists."""
        return " ".join(part for part in (self.method, self.model, self.mode) if part) or "all"


class _Scenario(pydantic.BaseModel):
    target: str
    warm_up: float


class _Note(pydantic.BaseModel):
    second: float
    name: str
    cpu: float
    lag_ms: float


class _Use(pydantic.BaseModel):
    cores: float
    resident_mb: float


class _Sample(pydantic.BaseModel):
    second: float
    machine_cores: float
    processes: dict[str, _Use]


class _Stage(pydantic.BaseModel):
    stage: str
    model: str = ""
    mean_ms: float


class _Server(pydantic.BaseModel):
    samples: list[_Sample]
    stages: list[_Stage]


class _File(pydantic.BaseModel):
    """What a result file must have."""

    started: pydantic.FiniteFloat
    ended: pydantic.FiniteFloat
    cells: list[Cell]
    scenario: _Scenario
    machine: dict[str, Any]
    messages: dict[str, int]
    pace: Pace
    worker_faults: list[str]
    generators: list[_Note]
    server: _Server


class Result:
    """The recorded data of a test."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        """The content of a result file."""
        file = _File.model_validate(data)
        self.cells = file.cells
        """Each second's calls of each kind, the warm-up's included."""
        self.pace = file.pace
        """How the open loop kept its rate; all zero for a closed loop."""
        self.worker_faults = file.worker_faults
        """Failures of workers, a sentence each."""
        self.counted_from = file.started + file.scenario.warm_up
        """Unix time at which the warm-up was over."""
        self.ended = file.ended
        """Unix time at which the test ended; the process of the web UI continues."""
        self.seconds = max(self.ended - self.counted_from, 1e-9)
        """How long the test ran after its warm-up."""

    @classmethod
    def read(cls, file: pathlib.Path) -> Self:
        """Read a result file.

        Raises:
            ScenarioError: it is not a result file.
        """
        try:
            return cls(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            why = first_fault(error) if isinstance(error, pydantic.ValidationError) else error
            raise ScenarioError(f"{file} is not a result of dermserve-loadtest: {why}") from error

    def write(self, file: pathlib.Path) -> None:
        """Write a result file, whole or not at all."""
        summary = {"summary": [asdict(row) for row in (*self.rows, self.all)], "warnings": self.warnings}
        write_durably(file, json.dumps({**self.data, **summary}, indent=1))

    @cached_property
    def kinds(self) -> dict[tuple[str, str, str], Cell]:
        """All counted calls of each kind."""
        kinds: dict[tuple[str, str, str], Cell] = {}
        for cell in self.cells:
            if cell.second >= math.floor(self.counted_from):
                kinds.setdefault(cell.kind, Cell(0, *cell.kind)).merge(cell)
        return dict(sorted(kinds.items()))

    @cached_property
    def rows(self) -> list[Row]:
        """A row for each kind of call."""
        return [self._row(cell) for cell in self.kinds.values()]

    @cached_property
    def total(self) -> Cell:
        """All counted calls."""
        whole = Cell()
        for cell in self.kinds.values():
            whole.merge(cell)
        return whole

    @cached_property
    def all(self) -> Row:
        """All calls in one row."""
        return self._row(self.total)

    def _row(self, cell: Cell) -> Row:
        calls, answers = cell.statuses.total(), cell.latency.total()
        quantiles = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "worst": 1.0} if answers else {}
        return Row(
            method=cell.method, model=cell.model, mode=cell.mode, calls=calls, rate=answers / self.seconds,
            error_rate=1 - answers / calls if calls else 0.0, statuses=dict(cell.statuses),
            stages={stage: spent / answers for stage, spent in cell.stages.items()},
            **{name: quantile(cell.latency, share) for name, share in quantiles.items()},
        )  # fmt: skip

    @property
    def kept_rate(self) -> bool:
        """Whether the generator started at least 99 % of the calls when they were due; True for a closed loop."""
        return self.pace.off <= _OFF_PACE

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the numbers, a sentence each."""
        said = list(self.worker_faults)
        pace = self.pace
        if not self.kept_rate:
            said.append(
                f"the rate was not kept: of {pace.wanted} calls that came due, {pace.wanted - pace.started} were never "
                f"started and {pace.late} started more than {TOLERANCE * 1000:.0f} ms late, the latest by "
                f"{pace.worst:.2f} s; latencies count from when calls were due. The users were all waiting for answers "
                "(give more --users, or less --rate), or the generator is too busy (give more --processes)"
            )
        for name, (cpu, lag) in self.generators.items():
            if cpu > _BUSY or lag > _LAGGING:
                said.append(
                    f"the generator {name} was busy: {cpu:.0%} of one core, its event loop up to {lag:.0f} ms late in "
                    "the usual second, which is in the latencies; give more --processes or run it elsewhere"
                )
        return said

    @cached_property
    def generators(self) -> dict[str, tuple[float, float]]:
        """Mean share of one core and median of each second's worst event loop lag (ms), by generating process."""
        seen: dict[str, list[Mapping[str, float]]] = {}
        for note in self.data["generators"]:
            if self.counted_from <= note["second"] <= self.ended:
                seen.setdefault(note["name"], []).append(note)
        return {
            name: (fmean(note["cpu"] for note in notes), median_high(note["lag_ms"] for note in notes))
            for name, notes in seen.items()
        }

    def mean_cores(self) -> dict[str, float]:
        """Return mean busy cores: of each server process, of the whole "machine", and of our busiest "generator"."""
        seen: dict[str, list[float]] = {}
        for sample in self.data["server"]["samples"]:
            if sample["second"] >= self.counted_from:
                seen.setdefault("machine", []).append(sample["machine_cores"])
                for name, use in sample["processes"].items():
                    seen.setdefault(name, []).append(use["cores"])
        generator = max((cpu for cpu, _ in self.generators.values()), default=0.0)
        return {name: fmean(values) for name, values in seen.items()} | {"generator": generator}


def write_csv(result: Result, file: pathlib.Path) -> None:
    """Write a row for each kind of call, and one for all."""
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**asdict(row), "method": row.method or "all"} for row in (*result.rows, result.all))


def table(rows: Iterable[Row]) -> str:
    """Format rows as text."""
    head = ("calls", "answers/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors")
    lines = [f"{'':44}" + "".join(f"{title:>10}" for title in head)]
    for row in rows:
        times = ("–" if value is None else f"{value:.0f}" for value in (row.p50, row.p95, row.p99, row.worst))
        cells = (str(row.calls), f"{row.rate:.1f}", *times, f"{row.error_rate:.1%}")
        lines.append(f"{row.name:44}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)
