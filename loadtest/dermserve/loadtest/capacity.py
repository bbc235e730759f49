"""Capacity: the verdict on a rate, the scalability law, and the limit."""

import enum
import json
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import bdtr, bdtrc

SHARES = {"p50": 0.5, "p95": 0.05, "p99": 0.01}
"""Share of the calls that may be slower than the threshold, by its name."""
_FULL = 0.85


class Verdict(enum.Enum):
    """What is known about a rate."""

    KEPT = "kept"
    BROKEN = "broken"
    OPEN = "open"


class _Frozen(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)


class Found(_Frozen):
    """What bisection found: the highest rate that keeps the threshold is between these two."""

    kept: float = 0.0
    """Highest rate that was shown to keep it; 0 if none."""
    broken: float = 0.0
    """Lowest rate above that which breaks it, or was not shown to keep it; infinite if none."""

    def __str__(self) -> str:
        if not self.kept:
            return "none found"
        return f"{self.kept:.2f} to {self.broken:.2f}/s" if self.broken < math.inf else f"{self.kept:.2f}/s or more"


class Law(_Frozen):
    """The universal scalability law: answers a second X(N) = λN / (1 + σ(N - 1) + κN(N - 1)) of N callers.

    After Gunther, "A general theory of computational scalability based on rational functions", 2008.
    """

    rate: float
    """λ: answers a second of a lone caller."""
    contention: float
    """σ: the share that must queue."""
    coherence: float
    """κ: the cost of callers to each other."""
    r_squared: float
    """Share of the variance it explains."""

    def __str__(self) -> str:
        parameters = f"λ {self.rate:.2f}/s, σ {self.contention:.3f}, κ {self.coherence:.5f}"
        return f"{parameters}, R² {self.r_squared:.2f}"

    @property
    def peak(self) -> float:
        """Callers beyond which throughput falls; infinite when it never does."""
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherence) if self.coherence > 1e-9 else math.inf


class Point(_Frozen):
    """One run."""

    rate: float | None
    """Calls due a second; None for a closed loop."""
    callers: int
    gateways: int
    answers: float
    """A second."""
    p50: float
    """Milliseconds, as p99."""
    p99: float
    error_rate: float
    cores: dict[str, float]
    """Mean cores busy, by process; "machine" for all, "generator" for ours."""

    @property
    def server_cores(self) -> dict[str, float]:
        """Mean cores busy of the servers' processes."""
        return {name: use for name, use in self.cores.items() if name not in {"machine", "generator"}}


class Capacity(_Frozen):
    """The capacity for one model and mode."""

    model: str
    mode: str
    found: Found
    """By bisection, with one gateway."""
    open_points: tuple[Point, ...]
    closed_points: tuple[Point, ...]
    laws: dict[int, Law]
    """By number of gateway processes."""
    why: str
    """The limit, as a sentence."""

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def core_ms(self) -> dict[str, float]:
        """Cores × milliseconds that a photo takes in model servers and gateways, where throughput was highest."""
        best = max(self.closed_points, key=lambda point: point.answers)
        if not best.server_cores or not best.answers:
            return {}
        found = {"model_server": 0.0, "gateway": 0.0}
        for name, use in best.server_cores.items():
            found["gateway" if name.startswith("gateway") else "model_server"] += 1000 * use / best.answers
        return found

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def photos_per_core(self) -> float | None:
        """Photos a second for each busy core of the servers; None if their processes can't be seen."""
        return 1000 / sum(self.core_ms.values()) if sum(self.core_ms.values()) else None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without infinity and NaN."""
        return dict(json.loads(self.model_dump_json()))


def judge(calls: int, slow: int, *, share: float, confidence: float) -> Verdict:
    """Judge whether at most `share` of all calls are slow, from a sample, by the binomial test of each side.

    Args:
        calls: number of calls.
        slow: how many of them were beyond the threshold or without an answer.
        share: the allowed share, for example 0.01 for a p99.
        confidence: for example 0.9, for which a p99 needs 230 calls if none is slow.
    """
    if calls and bdtr(slow, calls, share) <= 1 - confidence:  # so few are slow by chance only
        return Verdict.KEPT
    if slow and bdtrc(slow - 1, calls, share) < 1 - confidence:
        return Verdict.BROKEN
    return Verdict.OPEN


def calls_needed(*, share: float, confidence: float) -> int:
    """Count the calls, none of them slow, that show that at most `share` of all calls are slow."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - share))


def bisect(probe: Callable[[float], Verdict], *, start: float, precision: float, least: float, most: float) -> Found:
    """Find the highest rate that a probe judges as kept: by doubling or halving the rate, then by bisection.

    Args:
        probe: judges a rate; an undecided rate counts as broken.
        start: first rate.
        precision: relative precision of the result.
        least: no lower rate is tried.
        most: no higher rate is tried; reaching it ends the search.
    """
    kept, broken = 0.0, math.inf
    rate = start
    while broken - kept > precision * broken or broken == math.inf:
        if probe(rate) is Verdict.KEPT:
            kept = rate
        else:
            broken = rate
        if kept >= most or (not kept and broken / 2 < least):
            break
        rate = min(kept * 2, most) if broken == math.inf else (kept + broken) / 2 if kept else broken / 2
    return Found(kept=kept, broken=broken)


def fit_law(callers: Sequence[float], rates: Sequence[float]) -> Law:
    """Fit the universal scalability law by least squares.

    Args:
        callers: at least three different numbers.
        rates: answers a second with each.
    """
    counts, seen = np.asarray(callers, float), np.asarray(rates, float)
    start = (float(np.max(seen / counts)), 0.1, 1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # about the covariance, which is not used
        found, _ = curve_fit(throughput, counts, seen, p0=start, bounds=((0, 0, 0), (np.inf, 1, 1)), maxfev=20_000)
    rate, contention, coherence = map(float, found)
    spread = float(((seen - seen.mean()) ** 2).sum())
    missed = float(((seen - throughput(counts, *found)) ** 2).sum())
    r_squared = 1 - missed / spread if spread else 1.0
    return Law(rate=rate, contention=contention, coherence=coherence, r_squared=r_squared)


def throughput(callers: NDArray[np.float64], rate: float, contention: float, coherence: float) -> NDArray[np.float64]:
    """Give the answers a second of so many callers by the law with these parameters."""
    more = callers - 1
    return np.asarray(rate * callers / (1 + contention * more + coherence * callers * more), np.float64)


def too_slow_already(points: Sequence[Point], milliseconds: float) -> str:
    """Return a message if most calls of the fewest callers are slower than the threshold: then no rate can keep it."""
    fewest = min(points, key=lambda point: point.callers)
    if not fewest.p50 > milliseconds:  # also if nothing was answered, so that there is no p50
        return ""
    return f"{fewest.callers} caller(s) already wait {fewest.p50:.0f} ms (p50), so no rate keeps {milliseconds:.0f} ms"


def explain(point: Point, *, cores: int) -> str:
    """Describe the limit at the highest throughput, from how busy each process was.

    Args:
        point: of the highest throughput.
        cores: of this machine.
    """
    servers, generator = point.server_cores, point.cores.get("generator", 0.0)
    machine = point.cores.get("machine", 0.0)
    shares = ", ".join(f"{name} {use:.2f}" for name, use in sorted(servers.items(), key=lambda each: -each[1]))
    shares = f"cores busy: {shares or 'of the servers unknown'}, generator {generator:.2f}"
    if generator > _FULL:
        return f"the load generator is the limit, not the server: give more --processes ({shares})"
    if machine <= _FULL * cores:
        if any(use > _FULL for name, use in servers.items() if name.startswith("gateway")):
            return f"a gateway is the limit: its process has one event loop; run more of them ({shares})"
        return f"no processor is full: waiting is the limit, for a network or for the gateway's bounds ({shares})"
    others = machine - sum(servers.values()) - generator
    if others > 0.25 * cores:
        return f"the machine is full, with {others:.2f} cores taken by programs that are no part of this ({shares})"
    top = max(servers, key=lambda name: servers[name], default="unknown")
    return f"the processor is the limit, and the {top} takes most of it ({shares})"
