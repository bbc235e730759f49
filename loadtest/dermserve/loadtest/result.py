"""The result of a test, computed from what Locust recorded, and thresholds from a TOML file that it keeps or not."""

import itertools
import json
import pathlib
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Annotated, Any, Literal, Self

import numpy as np
import pydantic

from dermserve.loadtest.scenario import TOLERANCE, ScenarioError, first_fault, parse_seconds
from dermserve.models.durable import write_durably

_OFF_PACE = 0.01
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "worst": 1.0}
LIMITS = ("p50", "p95", "p99", "error_rate", "min_rate")
_WHOM = ("method", "model", "mode")


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
    """What was recorded of a test: what the process of Locust wrote, with "scenario", "machine" and "server"."""

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
        self._pace: list[int] = [data["pace"][what] for what in ("wanted", "started", "late")]

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
        shown = [field.name for field in fields(Row) if field.name != "latency"]
        rows = [{name: getattr(row, name) for name in shown} for row in (*self.rows, self.all)]
        write_durably(file, json.dumps({"calls": rows, "slo": slo, "warnings": self.warnings, **self.data}))

    @property
    def kept_rate(self) -> bool:
        """Whether the generator started at least 99 % of the calls when they were due; True for a closed loop."""
        wanted, started, late = self._pace
        return wanted - started + late <= _OFF_PACE * wanted

    @property
    def warnings(self) -> list[str]:
        """Reasons to doubt the numbers, a sentence each."""
        said = list(self.data["worker_faults"])
        if not self.kept_rate:
            wanted, started, late = self._pace
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
        counted = [each for each in self.data["server"]["samples"] if each["second"] >= self.counted_from]
        uses = [{name: use["cores"] for name, use in each["processes"].items()} for each in counted]
        uses = [{**use, "machine": each["machine_cores"]} for use, each in zip(uses, counted, strict=True)]
        return {name: fmean(use[name] for use in uses if name in use) for name in dict.fromkeys(itertools.chain(*uses))}


def summary(result: Result) -> str:
    """Format a line for each kind of call, and one for all; below them the gateway's stages, where they are known."""
    lines = [["", "calls", "answers/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "errors"]]
    for row in (*result.rows, result.all):
        times = ("–" if value is None else f"{value:.0f}" for value in (row.p50, row.p95, row.p99, row.worst))
        lines.append([row.name, str(row.calls), f"{row.rate:.1f}", *times, f"{row.error_rate:.1%}"])
    stages = [[f"{one['model']} {one['stage']}", f"{one['mean_ms']:.2f}"] for one in result.data["server"]["stages"]]
    return table(lines) + (f"\n\n{table([['stage of the gateway', 'mean ms'], *stages])}" if stages else "")


def table(lines: Sequence[Sequence[str]]) -> str:
    """Format a table as text."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    first, *others = widths
    padded = ([cell.rjust(width) for cell, width in zip(line[1:], others, strict=True)] for line in lines)
    return "\n".join("  ".join([line[0].ljust(first), *rest]) for line, rest in zip(lines, padded, strict=True))


def milliseconds(value: Any) -> Any:
    """Read a duration with its unit; anything else is milliseconds and stays as it is. Raises ValueError."""
    return parse_seconds(value) * 1000 if isinstance(value, str) and value[-1:].isalpha() else value


_Latency = Annotated[float | None, pydantic.BeforeValidator(milliseconds), pydantic.Field(ge=0)]
_Mode = Annotated[Literal["", "NONE", "FULL", "ADAPTIVE"], pydantic.BeforeValidator(lambda mode: str(mode).upper())]


class Slo(pydantic.BaseModel):
    """Thresholds for one kind of call; for all calls together where nothing names a kind."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: str = ""
    model: str = ""
    mode: _Mode = ""
    p50: _Latency = None  # milliseconds, as the next two
    p95: _Latency = None
    p99: _Latency = None
    error_rate: float | None = pydantic.Field(None, ge=0, le=1)  # a share
    min_rate: float | None = pydantic.Field(None, ge=0)  # answers a second

    @pydantic.model_validator(mode="after")
    def _has_threshold(self) -> Self:
        if all(getattr(self, name) is None for name in LIMITS):
            raise ValueError(f"no threshold: give one of {', '.join(LIMITS)}")
        return self

    def rows(self, result: Result) -> list[Row]:
        """Return the rows that it is for; one without calls when there is none."""
        whom = [getattr(self, name) for name in _WHOM]
        if not any(whom):
            return [result.all]
        found = []
        for row in result.rows:
            parts = [*row.name.split(" "), "", ""]
            if all(wanted in {"", part} for wanted, part in zip(whom, parts, strict=False)):
                found.append(row)
        return found or [Row(name=" ".join(each or "any" for each in whom))]


class _File(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    slo: list[Slo] = pydantic.Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Finding:
    """One threshold and what was measured."""

    name: str
    limit: str
    allowed: float
    measured: float | None  # None when there were no calls, or, for a latency, no answers
    kept: bool


def read_slos(file: pathlib.Path) -> list[Slo]:
    """Read thresholds, a `[[slo]]` table each. Raises ScenarioError: the file can't be read or understood."""
    try:
        return _File(**tomllib.loads(file.read_text())).slo
    except pydantic.ValidationError as error:
        known = f"[[slo]] tables hold {', '.join((*_WHOM, *LIMITS))}"
        raise ScenarioError(f"{file}: {first_fault(error)}; {known}") from error
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{file}: {error}") from error


def check(result: Result, slos: Sequence[Slo]) -> list[Finding]:
    """Compare a result with thresholds. A threshold on calls of which there were none is breached."""
    findings = []
    for slo in slos:
        for row, limit in itertools.product(slo.rows(result), LIMITS):
            if (allowed := getattr(slo, limit)) is not None:
                measured = getattr(row, "rate" if limit == "min_rate" else limit) if row.calls else None
                kept = measured is not None and (measured >= allowed if limit == "min_rate" else measured <= allowed)
                findings.append(Finding(row.name, limit, allowed, measured, kept))
    return findings


def findings_table(findings: Sequence[Finding]) -> str:
    """Format findings as text."""
    lines = [("", "threshold", "allowed", "measured", "")]
    for each in findings:
        measured = "no calls" if each.measured is None else _shown(each.limit, each.measured)
        allowed = ("≥ " if each.limit == "min_rate" else "≤ ") + _shown(each.limit, each.allowed)
        lines.append((each.name, each.limit, allowed, measured, "kept" if each.kept else "BREACHED"))
    return table(lines)


def _shown(limit: str, value: float) -> str:
    if limit == "error_rate":
        return f"{value:.2%}"
    return f"{value:.2f}/s" if limit == "min_rate" else f"{value:.0f} ms"
