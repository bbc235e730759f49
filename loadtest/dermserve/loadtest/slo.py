"""Thresholds from a TOML file, and whether a result keeps them."""

import pathlib
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import pydantic

from dermserve.loadtest.result import Result, Row, table
from dermserve.loadtest.scenario import ScenarioError, first_fault, parse_seconds

LIMITS = ("p50", "p95", "p99", "error_rate", "min_rate")
_WHOM = ("method", "model", "mode")


def milliseconds(value: Any) -> Any:
    """Read a duration with its unit; anything else is milliseconds and stays as it is. Raises ValueError."""
    return parse_seconds(value) * 1000 if isinstance(value, str) and value[-1:].isalpha() else value


_Latency = Annotated[float | None, pydantic.BeforeValidator(milliseconds), pydantic.Field(ge=0)]
_Mode = Annotated[Literal["", "NONE", "FULL", "ADAPTIVE"], pydantic.BeforeValidator(lambda mode: str(mode).upper())]


class Slo(pydantic.BaseModel):
    """Thresholds for one kind of call; for all calls together where nothing names a kind."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

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
        found = [row for row in result.rows if _fits(whom, row.name)]
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
    """Read thresholds: a `[[slo]]` table each, with model, mode and method to narrow it down.

    Raises:
        ScenarioError: the file can't be read or understood; the message says where.
    """
    try:
        return _File(**tomllib.loads(file.read_text())).slo
    except pydantic.ValidationError as error:
        known = f"[[slo]] tables hold {', '.join((*_WHOM, *LIMITS))}"
        raise ScenarioError(f"{file}: {first_fault(error)}; {known}") from error
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{file}: {error}") from error


def check(result: Result, slos: Sequence[Slo]) -> list[Finding]:
    """Compare a result with thresholds. A threshold on calls of which there were none is breached."""
    return [finding for slo in slos for row in slo.rows(result) for finding in _compare(row, slo)]


def _fits(whom: Sequence[str], name: str) -> bool:
    parts = [*name.split(" "), "", ""]
    return all(wanted in {"", part} for wanted, part in zip(whom, parts, strict=False))


def _compare(row: Row, slo: Slo) -> Iterator[Finding]:
    for limit in LIMITS:
        if (allowed := getattr(slo, limit)) is None:
            continue
        measured = getattr(row, "rate" if limit == "min_rate" else limit) if row.calls else None
        kept = measured is not None and (measured >= allowed if limit == "min_rate" else measured <= allowed)
        yield Finding(row.name, limit, allowed, measured, kept)


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
