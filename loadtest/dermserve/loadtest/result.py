"""The result of a test: what was recorded, and the numbers made of it."""

import csv
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from dermserve.loadtest.errors import ScenarioError
from dermserve.loadtest.pacing import TOLERANCE, Pace
from dermserve.loadtest.recorder import Cell, read_cells
from dermserve.models.store import write_durably

SCHEMA = 1
_OFF_PACE = 0.01
_BUSY = 0.9
_LAGGING = 50.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """All calls of one kind, the warm-up's left out. Latencies in milliseconds, of calls that got an answer."""

    method: str
    model: str
    mode: str
    calls: int
    rate: float
    """Answers a second."""
    p50: float
    p95: float
    p99: float
    worst: float
    error_rate: float
    """Share of the calls that got no answer."""
    statuses: Mapping[str, int]
    """Calls by the name of their status."""
    stages: Mapping[str, float]
    """Mean milliseconds in each of the gateway's stages, as its answers say."""

    @property
    def name(self) -> str:
        """What lists call it."""
        return " ".join(part for part in (self.method, self.model, self.mode) if part) or "all"


class Result:
    """What a test recorded.

    Args:
        data: the content of a result file.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        """The content of a result file."""

    @classmethod
    def read(cls, file: pathlib.Path) -> Self:
        """Read a result file.

        Raises:
            ScenarioError: it is none.
        """
        try:
            data = json.loads(file.read_text())
            if data["schema"] != SCHEMA:
                raise ScenarioError(f"{file} was written by another dermserve-loadtest: run the test again")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ScenarioError(f"{file} is no result of dermserve-loadtest: {error}") from error
        return cls(data)

    def write(self, file: pathlib.Path) -> None:
        """Write a result file, whole or not at all."""
        summary = {"summary": [row_json(row) for row in (*self.rows, self.all)], "warnings": self.warnings}
        write_durably(file, json.dumps({**self.data, **summary}, indent=1))

    @property
    def counted_from(self) -> float:
        """Unix time at which the warm-up was over."""
        return float(self.data["started"]) + float(self.data["scenario"].get("warm_up", 0))

    @property
    def seconds(self) -> float:
        """How long the test ran after its warm-up."""
        return max(float(self.data["ended"]) - self.counted_from, 1e-9)

    @cached_property
    def cells(self) -> list[tuple[tuple[int, str, str, str], Cell]]:
        """Each second's calls by (second, method, model, mode), the warm-up's included."""
        return list(read_cells(self.data["cells"]))

    @cached_property
    def rows(self) -> list[Row]:
        """A row for each kind of call."""
        kinds: dict[tuple[str, str, str], list[Cell]] = {}
        for (second, *kind), cell in self.cells:
            if second >= math.floor(self.counted_from):
                kinds.setdefault((kind[0], kind[1], kind[2]), []).append(cell)
        return [self._row(kind, cells) for kind, cells in sorted(kinds.items())]

    @cached_property
    def all(self) -> Row:
        """All calls in one row."""
        cells = (cell for (second, *_), cell in self.cells if second >= math.floor(self.counted_from))
        return self._row(("", "", ""), cells)

    def _row(self, kind: tuple[str, str, str], cells: Iterable[Cell]) -> Row:
        whole = Cell()
        for cell in cells:
            whole.merge(cell)
        calls, answers = whole.statuses.total(), whole.latency.total
        method, model, mode = kind
        return Row(
            method=method,
            model=model,
            mode=mode,
            calls=calls,
            rate=answers / self.seconds,
            p50=whole.latency.quantile(0.5),
            p95=whole.latency.quantile(0.95),
            p99=whole.latency.quantile(0.99),
            worst=whole.latency.quantile(1),
            error_rate=1 - answers / calls if calls else 0.0,
            statuses=dict(whole.statuses),
            stages={stage: spent / answers for stage, spent in whole.stages.items()} if answers else {},
        )

    @property
    def pace(self) -> Pace:
        """How the open loop went; all zero for a closed one."""
        return Pace(**self.data["pace"])

    @property
    def kept_rate(self) -> bool:
        """Whether the generator started at least 99 % of the calls when they were due; True for a closed loop."""
        return self.pace.off <= _OFF_PACE

    @property
    def worker_faults(self) -> list[str]:
        """Give what went wrong with workers, a sentence each."""
        return list(self.data["worker_faults"])

    @property
    def warnings(self) -> list[str]:
        """What makes the numbers doubtful, a sentence each."""
        said = self.worker_faults
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

    @property
    def generators(self) -> dict[str, tuple[float, float]]:
        """Mean share of one core and median of each second's worst event loop lag (ms), by generating process."""
        seen: dict[str, list[Mapping[str, float]]] = {}
        for note in self.data["generators"]:
            if note["second"] >= self.counted_from:
                seen.setdefault(note["name"], []).append(note)
        return {
            name: (
                sum(note["cpu"] for note in notes) / len(notes),
                sorted(note["lag_ms"] for note in notes)[len(notes) // 2],
            )
            for name, notes in seen.items()
        }


def row_json(row: Row) -> dict[str, Any]:
    """Give a row as JSON takes it: no NaN."""
    fields = {name: getattr(row, name) for name in Row.__slots__}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}


def write_csv(result: Result, file: pathlib.Path) -> None:
    """Write a row for each kind of call, and one for all."""
    columns = ("method", "model", "mode", "calls", "rate", "p50", "p95", "p99", "worst", "error_rate")
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row_json(row), "method": row.method or "all"} for row in (*result.rows, result.all))


def table(rows: Iterable[Row]) -> str:
    """Lay rows out as text."""
    head = ("calls", "answers/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors")
    lines = [f"{'':44}" + "".join(f"{title:>10}" for title in head)]
    for row in rows:
        times = (f"{value:.0f}" if not math.isnan(value) else "–" for value in (row.p50, row.p95, row.p99, row.worst))
        cells = (str(row.calls), f"{row.rate:.1f}", *times, f"{row.error_rate:.1%}")
        lines.append(f"{row.name:44}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)
