"""Capacity: the highest rate within a threshold, what more callers bring, and which process is the limit."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dermserve.loadtest.bisect import Found, Verdict, bisect, calls_needed, judge
from dermserve.loadtest.drive import Generator, run
from dermserve.loadtest.local import Server
from dermserve.loadtest.recorder import Histogram
from dermserve.loadtest.result import Result, row_json
from dermserve.loadtest.sampling import mean_cores
from dermserve.loadtest.scenario import Part, Scenario
from dermserve.loadtest.usl import Law, fit_law

SHARES = {"p50": 0.5, "p95": 0.05, "p99": 0.01}
"""Share of the calls that may be slower than the threshold, by its name."""
_FULL = 0.85
_LEAST = 1 / 16
"""Of the most answers a second: what breaks the threshold below is not the load."""
_MARGIN = 1.25
_ROOM = 1.5
"""Times the calls that a verdict needs: a few of them may be slow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """What to find, and how surely."""

    limit: str
    """"p50", "p95" or "p99"."""
    milliseconds: float
    """That it must keep within."""
    confidence: float
    """With which each rate is judged."""
    precision: float
    """Share of the rate to find it to."""
    probe_seconds: float
    """Of one probe, or longer where a low rate asks for it."""
    probes: int
    """At most, of one rate, before it counts as not kept."""
    callers: tuple[int, ...]
    """Of the closed loops."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One run."""

    rate: float | None
    """Calls due a second; None for a closed loop."""
    callers: int
    gateways: int
    answers: float
    """A second."""
    p50: float
    p99: float
    error_rate: float
    cores: dict[str, float]
    """Mean cores busy, by process; "machine" for all, "generator" for ours."""
    kept_rate: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """What was found for one model and mode."""

    model: str
    mode: str
    found: Found
    """By bisection, with one gateway."""
    open_points: tuple[Point, ...]
    closed_points: tuple[Point, ...]
    laws: dict[int, Law]
    """By number of gateway processes."""
    why: str
    """What is the limit, a sentence."""

    @property
    def core_ms(self) -> dict[str, float]:
        """Cores × milliseconds that a photo takes in model servers and gateways, where throughput was highest."""
        best = max(self.closed_points, key=lambda point: point.answers)
        servers = {name: use for name, use in best.cores.items() if name not in {"machine", "generator"}}
        found = {"model_server": 0.0, "gateway": 0.0}
        for name, use in servers.items():
            found["gateway" if name.startswith("gateway") else "model_server"] += use
        return {name: 1000 * use / best.answers for name, use in found.items()} if servers and best.answers else {}

    @property
    def photos_per_core(self) -> float | None:
        """Photos a second for each core that the servers keep busy; None where their processes are not seen."""
        return 1000 / sum(self.core_ms.values()) if self.core_ms and sum(self.core_ms.values()) else None

    def to_json(self) -> dict[str, Any]:
        """Give it as JSON takes it: no infinity, no NaN."""
        costs = {"core_ms": self.core_ms, "photos_per_core": self.photos_per_core}
        return dict(_clean(asdict(self) | costs))


class Prober:
    """Runs probes of one model and mode against servers, by their number of gateways.

    Args:
        base: scenario of every probe, but for its load.
        servers: by number of gateway processes.
        processes: that generate.
        cores: of this machine.
        say: takes a line of progress.
    """

    def __init__(
        self, base: Scenario, servers: dict[int, Server], *, processes: int, cores: int, say: Callable[[str], None]
    ) -> None:
        self._base = base
        self._servers = servers
        self._generator = Generator(processes=processes)
        self._cores = cores
        self._say = say

    def find(self, part: Part, aim: Aim) -> Capacity:
        """Find one capacity."""
        closed = [
            self._point(part, aim, gateways=gateways, callers=callers)
            for gateways in self._servers
            for callers in aim.callers
        ]
        laws = dict(self._laws(closed))
        opened: list[Point] = []
        alone = [point for point in closed if point.gateways == 1]
        best = max(alone, key=lambda point: point.answers)
        found, why = Found(0.0, 0.0), explain(best, cores=self._cores)
        if hopeless := _hopeless(alone, aim):
            why = f"{hopeless}; {why}"
        elif best.answers > 0:
            found = bisect(
                lambda rate: self._judge(part, aim, rate, opened),
                start=max(best.answers / 2, 0.1),
                precision=aim.precision,
                least=best.answers * _LEAST,
                most=best.answers * _MARGIN,
            )
        return Capacity(
            model=part.model,
            mode=part.mode,
            found=found,
            open_points=tuple(opened),
            closed_points=tuple(closed),
            laws=laws,
            why=why,
        )

    def _laws(self, points: Sequence[Point]) -> Iterator[tuple[int, Law]]:
        for gateways in self._servers:
            having = [point for point in points if point.gateways == gateways and point.answers > 0]
            if len({point.callers for point in having}) >= 3:
                yield gateways, fit_law([point.callers for point in having], [point.answers for point in having])

    def _judge(self, part: Part, aim: Aim, rate: float, points: list[Point]) -> Verdict:
        """Probe a rate until its verdict is sure; a rate the generator did not keep is not kept."""
        calls = slow = 0
        for _ in range(aim.probes):
            result = self._run(replace(self._base, mix=(part,), rate=rate, users=0, run_time=self._time(aim, rate)), 1)
            points.append(_point(result, rate=rate, callers=0, gateways=1))
            since = math.floor(result.counted_from)
            latency = Histogram.merged(cell.latency for (second, *_), cell in result.cells if second >= since)
            answered = result.all
            failed = max(0, answered.calls - latency.total)
            missed = max(0, result.pace.wanted - result.pace.started)  # came due and were never started
            calls += answered.calls + missed
            slow += latency.over(aim.milliseconds) + failed + missed
            verdict = judge(calls, min(slow, calls), share=SHARES[aim.limit], confidence=aim.confidence)
            self._say(f"  {rate:.2f}/s: {aim.limit} {_quantile(latency, aim):.0f} ms of {calls} calls, {verdict.value}")
            if verdict is not Verdict.OPEN:
                return verdict
        return Verdict.OPEN

    def _point(self, part: Part, aim: Aim, *, gateways: int, callers: int) -> Point:
        scenario = replace(self._base, mix=(part,), rate=None, users=callers, run_time=self._time(aim))
        point = _point(self._run(scenario, gateways), rate=None, callers=callers, gateways=gateways)
        self._say(f"  {callers} callers, {gateways} gateway(s): {point.answers:.2f}/s, p99 {point.p99:.0f} ms")
        return point

    def _time(self, aim: Aim, rate: float = math.inf) -> float:
        """Give the seconds of a probe: longer where a low rate would leave too few calls to judge it."""
        needed = _ROOM * calls_needed(share=SHARES[aim.limit], confidence=aim.confidence) / rate / aim.probes
        return max(aim.probe_seconds, needed) + self._base.warm_up

    def _run(self, scenario: Scenario, gateways: int) -> Result:
        server = self._servers[gateways]
        return run(replace(scenario, target=server.target), server, self._generator, say=lambda line: None)


def _hopeless(points: Sequence[Point], aim: Aim) -> str:
    """Say so where the fewest callers' calls mostly are slower than the threshold: no rate will keep it then."""
    fewest = min(points, key=lambda point: point.callers)
    if not fewest.p50 > aim.milliseconds:  # nor where nothing was answered, so that there is no p50
        return ""
    return (
        f"{fewest.callers} caller(s) already wait {fewest.p50:.0f} ms (p50), so no rate keeps {aim.milliseconds:.0f} ms"
    )


def explain(point: Point, *, cores: int) -> str:
    """Say what is the limit where throughput was highest, from how busy each process was.

    Args:
        point: of the highest throughput.
        cores: of this machine.
    """
    servers = {name: use for name, use in point.cores.items() if name not in {"machine", "generator"}}
    shares = ", ".join(f"{name} {use:.2f}" for name, use in sorted(servers.items(), key=lambda each: -each[1]))
    shares = f"cores busy: {shares or 'of the servers unknown'}, generator {point.cores.get('generator', 0):.2f}"
    if point.cores.get("generator", 0) > _FULL:
        return f"the load generator is the limit, not the server: give more --processes ({shares})"
    gateways = {name: use for name, use in servers.items() if name.startswith("gateway")}
    if gateways and max(gateways.values()) > _FULL and point.cores.get("machine", 0) < _FULL * cores:
        return f"a gateway is the limit: its process has one event loop; run more of them ({shares})"
    if point.cores.get("machine", 0) > _FULL * cores:
        known = sum(servers.values()) + point.cores.get("generator", 0)
        others = point.cores["machine"] - known
        if others > 0.25 * cores:
            return f"the machine is full, with {others:.2f} cores taken by programs that are no part of this ({shares})"
        top = max(servers, key=lambda name: servers[name]) if servers else "unknown"
        return f"the processor is the limit, and the {top} takes most of it ({shares})"
    return f"no processor is full: waiting is the limit, for a network or for the gateway's bounds ({shares})"


def _point(result: Result, *, rate: float | None, callers: int, gateways: int) -> Point:
    cores = mean_cores(result.data["server"]["samples"], since=result.counted_from)
    cores["generator"] = max((cpu for cpu, _ in result.generators.values()), default=0.0)
    row = row_json(result.all)
    return Point(
        rate=rate,
        callers=callers,
        gateways=gateways,
        answers=row["rate"],
        p50=row["p50"] or math.nan,
        p99=row["p99"] or math.nan,
        error_rate=row["error_rate"],
        cores=cores,
        kept_rate=result.kept_rate,
    )


def _quantile(latency: Histogram, aim: Aim) -> float:
    return latency.quantile(1 - SHARES[aim.limit])


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
