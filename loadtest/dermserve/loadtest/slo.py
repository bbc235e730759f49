"""Thresholds from a TOML file, and whether a result keeps them."""

import math
import pathlib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dermserve.loadtest.errors import ScenarioError
from dermserve.loadtest.result import Result, Row
from dermserve.loadtest.scenario import MODES, parse_seconds

_LATENCIES = ("p50", "p95", "p99")
_LIMITS = (*_LATENCIES, "error_rate", "min_rate")
_WHOM = ("method", "model", "mode")


@dataclass(frozen=True, kw_only=True, slots=True)
class Slo:
    """Thresholds for one kind of call; for all calls together where nothing names a kind."""

    method: str = ""
    model: str = ""
    mode: str = ""
    limits: Mapping[str, float]
    """By "p50", "p95", "p99" (milliseconds), "error_rate" (share) and "min_rate" (answers a second)."""

    def concerns(self, row: Row) -> bool:
        """Tell whether a row is of this kind."""
        return all(getattr(self, field) in {"", getattr(row, field)} for field in _WHOM)


@dataclass(frozen=True, slots=True)
class Finding:
    """One threshold and what was measured."""

    name: str
    limit: str
    allowed: float
    measured: float
    kept: bool


def read_slos(file: pathlib.Path) -> list[Slo]:
    """Read thresholds: a `[[slo]]` table each, with model, mode and method to narrow it down.

    Raises:
        ScenarioError: the file can't be read or understood; the message says where.
    """
    try:
        content = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{file}: {error}") from error
    tables = content.get("slo", [])
    if set(content) - {"slo"} or not tables or not isinstance(tables, list):
        raise ScenarioError(f"{file} must hold [[slo]] tables and nothing else")
    return [_read(table, where=f"{file}, [[slo]] {index}") for index, table in enumerate(tables, 1)]


def check(result: Result, slos: Sequence[Slo]) -> list[Finding]:
    """Compare a result with thresholds; a kind of which there were no calls keeps none of its own."""
    return [finding for slo in slos for row in _rows(result, slo) for finding in _compare(row, slo)]


def findings_table(findings: Iterable[Finding]) -> str:
    """Lay findings out as text."""
    lines = [f"{'SLO':44}{'':12}{'allowed':>12}{'measured':>12}"]
    for each in findings:
        measured = "no calls" if math.isnan(each.measured) else _shown(each.limit, each.measured)
        allowed = ("≥ " if each.limit == "min_rate" else "≤ ") + _shown(each.limit, each.allowed)
        verdict = "kept" if each.kept else "BREACHED"
        lines.append(f"{each.name:44}{each.limit:12}{allowed:>12}{measured:>12}  {verdict}")
    return "\n".join(lines)


def _read(table: Mapping[str, Any], *, where: str) -> Slo:
    if unknown := sorted(set(table) - {*_WHOM, *_LIMITS}):
        raise ScenarioError(f"{where}: {', '.join(unknown)} is not known; there are {', '.join((*_WHOM, *_LIMITS))}")
    limits = {name: _limit(name, table[name], where=f"{where}, {name}") for name in _LIMITS if name in table}
    if not limits:
        raise ScenarioError(f"{where} has no threshold: give one of {', '.join(_LIMITS)}")
    whom = {name: str(table.get(name, "")) for name in _WHOM}
    whom["mode"] = whom["mode"].upper()
    if whom["mode"] not in {"", *MODES}:
        raise ScenarioError(f"{where}: mode is one of {', '.join(MODES)}")
    return Slo(limits=limits, **whom)


def _limit(name: str, value: Any, *, where: str) -> float:
    if name not in _LIMITS:
        raise ScenarioError(f"{where}: there is no threshold {name!r}; there are {', '.join(_LIMITS)}")
    try:
        if name in _LATENCIES:
            number = float(value) if isinstance(value, int | float) else parse_seconds(value) * 1000
        else:
            number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (number >= 0 and (name != "error_rate" or number <= 1)):
        raise ScenarioError(f'{where}: write latencies as "500ms" or milliseconds, error_rate as a share from 0 to 1')
    return number


def _rows(result: Result, slo: Slo) -> list[Row]:
    if not (slo.method or slo.model or slo.mode):
        return [result.all]
    nothing = Row(
        method=slo.method or "any", model=slo.model or "any", mode=slo.mode or "any", calls=0, rate=math.nan,
        p50=math.nan, p95=math.nan, p99=math.nan, worst=math.nan, error_rate=math.nan, statuses={}, stages={},
    )  # fmt: skip
    return [row for row in result.rows if slo.concerns(row)] or [nothing]


def _compare(row: Row, slo: Slo) -> Iterable[Finding]:
    for limit, allowed in slo.limits.items():
        if limit == "min_rate":
            yield Finding(row.name, limit, allowed, row.rate, kept=row.rate >= allowed)
        else:
            measured = getattr(row, limit) if row.calls else math.nan
            yield Finding(row.name, limit, allowed, measured, kept=measured <= allowed)  # False for NaN


def _shown(limit: str, value: float) -> str:
    if limit == "error_rate":
        return f"{value:.2%}"
    return f"{value:.2f}/s" if limit == "min_rate" else f"{value:.0f} ms"
