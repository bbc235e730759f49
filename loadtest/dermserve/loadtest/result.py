"""The result of a test: what Locust recorded, and the numbers computed from it."""

import json
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from dermserve.loadtest.pace import TOLERANCE, share_off
from dermserve.models.durable import write_durably

_OFF_PACE = 0.01
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "worst": 1.0}


@dataclass(frozen=True, kw_only=True)
class Row:
    """All calls of one kind after the warm-up; latencies in milliseconds, of calls that got an answer."""

    name: str  # method, model and mode
    calls: int = 0
    rate: float = 0.0  # answers a second
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    worst: float | None = None
    error_rate: float = 0.0  # share of the calls that got no answer
    statuses: Mapping[str, int] = field(default_factory=dict)  # calls by the name of their status
    latency: Mapping[float, int] = field(default_factory=dict)  # answers by milliseconds, which have three digits


class Result:
    """What was recorded of a test.

    Args:
        data: what the process of Locust wrote, with "scenario", "machine" and "server".
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        self.counted_from: float = data["started"] + data["scenario"]["warm_up"]
        """Unix time at which the warm-up was over."""
        self.seconds = max(data["ended"] - self.counted_from, 1e-9)
        """How long the test ran after its warm-up."""
        names = sorted({each["name"] for each in data["stats"]})
        self.rows = [self._row(name, [name]) for name in names]
        """A row for each kind of call."""
        self.all = self._row("all", names)
        """All calls in one row."""

    def _row(self, title: str, names: Sequence[str]) -> Row:
        entries = [each for each in self.data["stats"] if each["name"] in names]
        latency, statuses = Counter[float](), Counter[str]()
        for entry in entries:
            latency.update({float(ms): count for ms, count in entry["response_times"].items()})
        for error in self.data["errors"]:
            if error["name"] in names:
                statuses[error["error"].partition(":")[0]] += error["occurrences"]
        calls, failed = (sum(each[what] for each in entries) for what in ("num_requests", "num_failures"))
        found: dict[str, Any] = {}
        if latency:
            shares = list(_QUANTILES.values())
            at = np.quantile(list(latency), shares, method="inverted_cdf", weights=list(latency.values()))
            found = dict(zip(_QUANTILES, at.tolist(), strict=True))
        return Row(
            name=title, calls=calls, rate=(calls - failed) / self.seconds, error_rate=failed / calls if calls else 0.0,
            statuses=Counter(OK=calls - failed) + statuses, latency=latency, **found,
        )  # fmt: skip

    def write(self, file: pathlib.Path, *, slo: Sequence[Mapping[str, Any]]) -> None:
        """Write all of it, with the findings of thresholds, whole or not at all."""
        rows = [
            {name: value for name, value in vars(row).items() if name != "latency"} for row in (*self.rows, self.all)
        ]
        write_durably(file, json.dumps({"calls": rows, "slo": slo, "warnings": self.warnings, **self.data}))

    @property
    def kept_rate(self) -> bool:
        """Whether the generator started at least 99 % of the calls when they were due; True for a closed loop."""
        return share_off(self.data["pace"]) <= _OFF_PACE

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the numbers, a sentence each."""
        said = list(self.data["worker_faults"])
        if not self.kept_rate:
            wanted, started, late = (self.data["pace"][name] for name in ("wanted", "started", "late"))
            said.append(
                f"the rate was not kept: of {wanted} calls that came due, {wanted - started} were never started and "
                f"{late} started more than {TOLERANCE * 1000:.0f} ms late; latencies count from when calls were due. "
                "The users were all waiting for answers (give more --users, or less --rate), or the generator is too "
                "busy (give more --processes)"
            )
        if self.data["generator_busy"]:
            said.append(
                "a generating process was busy with over 90 % of one core, and what it waited is in the latencies: "
                "give more --processes or run it elsewhere"
            )
        return said

    def mean_cores(self) -> dict[str, float]:
        """Return mean busy cores of each process, and of the whole "machine"."""
        seen: dict[str, list[float]] = {}
        for sample in self.data["server"]["samples"]:
            if sample["second"] >= self.counted_from:
                seen.setdefault("machine", []).append(sample["machine_cores"])
                for name, use in sample["processes"].items():
                    seen.setdefault(name, []).append(use["cores"])
        return {name: fmean(values) for name, values in seen.items()}


def summary(result: Result) -> str:
    """Format a line for each kind of call, and one for all; below them the gateway's stages, where they are known."""
    lines = [["", "calls", "answers/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors"]]
    for row in (*result.rows, result.all):
        times = ("–" if value is None else f"{value:.0f}" for value in (row.p50, row.p95, row.p99, row.worst))
        lines.append([row.name, str(row.calls), f"{row.rate:.1f}", *times, f"{row.error_rate:.1%}"])
    stages = [
        [f"{each['model']} {each['stage']}", f"{each['mean_ms']:.2f}"] for each in result.data["server"]["stages"]
    ]
    return table(lines) + (f"\n\n{table([['stage of the gateway', 'mean ms'], *stages])}" if stages else "")


def table(lines: Sequence[Sequence[str]]) -> str:
    """Format a table as text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *cells[1:]]) for line, cells in zip(lines, padded, strict=True)
    )
