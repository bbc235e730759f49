"""`dermserve-loadtest capacity`: the highest rate within a threshold, the scalability law, and the limit."""

import json
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import click
import matplotlib.style
import numpy as np
import psutil
from matplotlib.figure import Figure
from scipy.optimize import lsq_linear
from scipy.special import bdtr, bdtrc

from dermserve.loadtest.drive import Server, check_server, run, say
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.report import STYLE
from dermserve.loadtest.result import Slo, table
from dermserve.loadtest.run import CALL_OPTIONS, FOLDER, duration, under_test
from dermserve.loadtest.scenario import Part, Scenario, ScenarioError
from dermserve.models.durable import write_durably
from dermserve.models.options import Number, add_options

SHARES = {"p50": 0.5, "p95": 0.05, "p99": 0.01}  # share of the calls that may be slower than the threshold, by its name
CONFIDENCE = 0.9  # of a verdict on a rate; a p99 takes 230 calls if none is slow
_FULL = 0.85  # share of a core from which a process is full
_LEAST = 1 / 16  # share of the most answers a second: below it, a breached threshold is not caused by the load
_MARGIN = 1.25
_ROOM = 1.5  # factor on the calls that a verdict needs, as a few of them may be slow


@dataclass(frozen=True, slots=True)
class Law:
    """The universal scalability law: answers a second X(N) = λN / (1 + σ(N - 1) + κN(N - 1)) of N callers.

    After Gunther, "A general theory of computational scalability based on rational functions", 2008.
    """

    rate: float  # λ: answers a second of a lone caller
    contention: float  # σ: the share that must queue
    coherence: float  # κ: the cost of callers to each other

    def __str__(self) -> str:
        return f"λ {self.rate:.2f}/s, σ {self.contention:.3f}, κ {self.coherence:.5f}"

    @property
    def peak(self) -> float:
        """Callers beyond which throughput falls; infinite when it never does."""
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherence) if self.coherence > 1e-9 else math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One run."""

    rate: float | None  # calls due a second; None for a closed loop
    callers: int
    gateways: int
    answers: float  # a second
    p50: float | None  # milliseconds, as p99; None without answers
    p99: float | None
    calls: int  # those that came due and were never started included
    slow: int  # calls that were not answered within the threshold
    cores: dict[str, float]  # mean cores busy, by process; "machine" for all, "generator" for ours

    @property
    def server_cores(self) -> dict[str, float]:
        """Mean cores busy of the servers' processes."""
        return {name: use for name, use in self.cores.items() if name not in {"machine", "generator"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Capacity:
    """The capacity for one model and mode."""

    model: str
    mode: str
    kept: float  # highest rate that was shown to keep the threshold, by bisection, with one gateway; 0 if none
    broken: float  # lowest rate above that which breaks it, or was not shown to keep it; infinite if none
    open_points: tuple[Point, ...]
    closed_points: tuple[Point, ...]
    laws: dict[int, Law]  # by number of gateway processes
    why: str  # the limit, as a sentence

    @property
    def rates(self) -> str:
        """The highest rate that keeps the threshold."""
        if not self.kept:
            return "none found"
        return f"{self.kept:.2f} to {self.broken:.2f}/s" if self.broken < math.inf else f"{self.kept:.2f}/s or more"

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

    @property
    def photos_per_core(self) -> float | None:
        """Photos a second for each busy core of the servers; None if their processes can't be seen."""
        return 1000 / sum(self.core_ms.values()) if sum(self.core_ms.values()) else None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without infinity."""
        costs = {"core_ms": self.core_ms, "photos_per_core": self.photos_per_core}
        return {**asdict(self), **costs, "broken": self.broken if self.broken < math.inf else None}


def judge(calls: int, slow: int, *, share: float) -> bool | None:
    """Judge whether at most `share` of all calls are slow, from a sample, by the binomial test of each side.

    Returns None while the sample does not show either with CONFIDENCE. Calls without an answer are slow.
    """
    if calls and bdtr(slow, calls, share) <= 1 - CONFIDENCE:  # so few are slow by chance only
        return True
    return False if slow and bdtrc(slow - 1, calls, share) < 1 - CONFIDENCE else None


def calls_needed(*, share: float) -> int:
    """Count the calls, none of them slow, that show that at most `share` of all calls are slow."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(1 - share))


def bisect(
    keeps: Callable[[float], bool], *, start: float, precision: float, least: float, most: float
) -> tuple[float, float]:
    """Find the highest rate that is kept, from `start` by doubling or halving, then by bisection, in `least` to `most`.

    Returns it, 0 if none, and the lowest that is not kept, infinite if none; they differ by a share of `precision`.
    """
    kept, broken = 0.0, math.inf
    rate = start
    while broken - kept > precision * broken or broken == math.inf:
        if keeps(rate):
            kept = rate
        else:
            broken = rate
        if kept >= most or (not kept and broken / 2 < least):
            break
        rate = min(kept * 2, most) if broken == math.inf else (kept + broken) / 2 if kept else broken / 2
    return kept, broken


def fit_laws(points: Sequence[Point]) -> dict[int, Law]:
    """Fit the universal scalability law by least squares, for each number of gateways with at least three points."""
    laws = {}
    for gateways in sorted({point.gateways for point in points}):
        having = {p.callers: p.answers for p in points if p.gateways == gateways and p.answers > 0}
        if len(having) < 3:
            continue
        counts, seen = np.array(list(having), float), np.array(list(having.values()))
        # N / X(N) is linear in 1/λ, σ/λ and κ/λ; weighted so that the errors of X are what is least.
        terms, weights = np.stack([counts**0, counts - 1, counts * (counts - 1)], axis=1), seen**2 / counts
        lone, *others = lsq_linear(terms * weights[:, None], counts / seen * weights, bounds=(1e-12, np.inf)).x.tolist()
        laws[gateways] = Law(1 / lone, *(each / lone for each in others))
    return laws


def explain(point: Point, *, cores: int, processes: int = 1) -> str:
    """Describe the limit at the point of the highest throughput, from how busy each process was."""
    servers, machine = point.server_cores, point.cores.get("machine", 0.0)
    generator = point.cores.get("generator", 0.0)
    shares = ", ".join(f"{name} {use:.2f}" for name, use in sorted(servers.items(), key=lambda each: -each[1]))
    shares = f"cores busy: {shares or 'of the servers unknown'}, generator {generator:.2f}"
    if generator > _FULL * processes:
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


@dataclass(frozen=True, kw_only=True)
class _Search:
    base: Scenario  # of every probe, but for its load
    server: Server
    gateways: int  # most of them
    processes: int  # that generate
    share: float  # of the calls that may be slower than the threshold
    threshold: float  # milliseconds that it must keep within
    precision: float
    seconds: float  # of a probe
    probes: int
    callers: Sequence[int]

    def find(self, part: Part) -> Capacity:
        """Find the capacity for one model and mode."""
        closed, opened = list[Point](), list[Point]()
        for gateways in range(1, self.gateways + 1):
            for callers in self.callers:
                point = self._run(part, self.seconds, gateways=gateways, users=callers)
                p99 = "no answer" if point.p99 is None else f"p99 {point.p99:.0f} ms"
                say(f"  {callers} callers, {gateways} gateway(s): {point.answers:.2f}/s, {p99}")
                closed.append(point)
        alone = [point for point in closed if point.gateways == 1]
        best = max(alone, key=lambda point: point.answers)
        (kept, broken), why = (0.0, math.inf), explain(best, cores=psutil.cpu_count() or 1, processes=self.processes)
        fewest = min(alone, key=lambda point: point.callers)
        if fewest.p50 is not None and fewest.p50 > self.threshold:  # then no rate can keep it
            wait = f"{fewest.callers} caller(s) already wait {fewest.p50:.0f} ms (p50)"
            why = f"{wait}, so no rate keeps {self.threshold:.0f} ms; {why}"
        elif best.answers > 0:
            least, most = best.answers * _LEAST, best.answers * _MARGIN
            bounds = {"start": max(best.answers / 2, 0.1), "least": least, "most": most}
            kept, broken = bisect(lambda rate: self._keeps(part, rate, opened), precision=self.precision, **bounds)
        return Capacity(
            model=part.model, mode=part.mode, kept=kept, broken=broken, open_points=tuple(opened),
            closed_points=tuple(closed), laws=fit_laws(closed), why=why,
        )  # fmt: skip

    def _keeps(self, part: Part, rate: float, points: list[Point]) -> bool:
        needed = _ROOM * calls_needed(share=self.share) / rate / self.probes
        calls = slow = 0
        for _ in range(self.probes):
            point = self._run(part, max(self.seconds, needed), rate=rate)
            points.append(point)
            calls, slow = calls + point.calls, slow + point.slow
            kept = judge(calls, slow, share=self.share)
            verdict = {True: "kept", False: "broken", None: "open"}[kept]
            say(f"  {rate:.2f}/s: {slow} of {calls} calls over {self.threshold:.0f} ms, {verdict}")
            if kept is not None:
                return kept
        return False

    def _run(
        self, part: Part, seconds: float, *, gateways: int = 1, rate: float | None = None, users: int = 0
    ) -> Point:
        target = self.server.target if gateways == 1 else f"ipv4:{','.join(self.server.gateways[:gateways])}"
        load = {"rate": rate, "users": users, "run_time": seconds + self.base.warm_up}
        scenario = self.base.model_copy(update={"mix": (part,), "target": target, **load})
        result = run(scenario, self.server, processes=self.processes, quiet=True)
        row, pace = result.all, result.data["pace"]
        if not row.latency:
            check_server(scenario, self.server)
        calls = row.calls + max(0, pace["wanted"] - pace["started"])
        in_time = sum(count for ms, count in row.latency.items() if ms <= self.threshold)
        return Point(
            rate=rate, callers=users, gateways=gateways, answers=row.rate, p50=row.p50, p99=row.p99, calls=calls,
            slow=calls - in_time, cores=result.mean_cores(),
        )  # fmt: skip


@click.command()
@CALL_OPTIONS
@add_options(
    click.option("--slo", default="p99=500ms", help="Threshold to keep: p50, p95 or p99."),
    click.option("--precision", type=Number(0.01, 0.5), default=0.05, help="Relative precision of the rate."),
    click.option(
        "--probe", type=duration, default="20s",
        help="Length of one probe; longer where a rate is so low that all its probes would not suffice to judge it.",
    ),
    click.option(
        "--probes", type=click.IntRange(1), default=6,
        help="Most probes of one rate, before it counts as not kept.",
    ),
    click.option("--callers", default="1,2,4,8,16,32", help="Numbers of callers for the closed loops."),
    click.option(
        "--gateways", type=click.IntRange(1, 16), default=1,
        help="With --local: measure the law for 1 to N gateway processes.",
    ),
    click.option("--out", type=FOLDER, default="build/capacity", help="For capacity.json and capacity.png."),
)  # fmt: skip
def capacity(
    slo: str, precision: float, probe: float, probes: int, callers: str, gateways: int, processes: int,
    out: pathlib.Path, **options: Any,
) -> None:  # fmt: skip
    """Find the highest rate that keeps a threshold, for each model and mode.

    For each: closed loops of 1 to N callers, to which the universal scalability law is fitted, then open loops at
    rates found by bisection. Prints which process is the limit.
    """
    limit, threshold = read_threshold(slo)
    if not re.fullmatch(r"[1-9]\d{0,9}(,[1-9]\d{0,9})*", callers):
        raise ScenarioError(f"{callers!r} are not numbers of callers: write for example 1,2,4,8")
    if gateways > 1 and not options["local"]:
        raise ScenarioError("--gateways needs --local, which can start them")
    out.mkdir(parents=True, exist_ok=True)
    counts = sorted({int(count) for count in callers.split(",")})
    options |= {"users": counts[-1], "rate": 1.0, "run_time": probe + options["warm_up"]}
    machine, found = describe_machine(), list[Capacity]()
    with under_test({**options, "gateways": gateways}) as (base, server):
        search = _Search(
            base=base, server=server, gateways=gateways, processes=processes, share=SHARES[limit], threshold=threshold,
            precision=precision, seconds=probe, probes=probes, callers=counts,
        )  # fmt: skip
        for part in base.mix:  # write the results so far after each
            say(f"{part.model} {part.mode}")
            found.append(search.find(part))
            content = {"machine": machine, "capacity": [each.to_json() for each in found]}
            write_durably(out / "capacity.json", json.dumps(content, indent=1))
            _plot(found, limit, threshold, out / "capacity.png")
    click.echo(_table(found, slo))
    say(f"plot: {out / 'capacity.png'}")


def read_threshold(text: str) -> tuple[str, float]:
    """Read a threshold such as p99=500ms; return its name and milliseconds. Raises ScenarioError."""
    limit, _, value = text.partition("=")
    try:
        SHARES[limit]
        return limit, float(getattr(Slo.model_validate({limit: value}), limit))
    except (KeyError, ValueError) as error:
        wanted = f"write for example p99=500ms; there are {', '.join(SHARES)}"
        raise ScenarioError(f"{text!r} is not a threshold: {wanted}") from error


def _table(found: Sequence[Capacity], slo: str) -> str:
    lines, notes = [("", f"rate with {slo}", "most answers/s", "callers at peak", "photos/s a core")], []
    for each in found:
        law, best = each.laws.get(1), max(point.answers for point in each.closed_points)
        peak = f"{law.peak:.0f}" if law and law.peak < 10_000 else "–"
        a_core = f"{each.photos_per_core:.2f}" if each.photos_per_core else "–"
        lines.append((f"{each.model} {each.mode}", each.rates, f"{best:.2f}", peak, a_core))
        costs = [f"{name.replace('_', ' ')} {ms:.3g} core-ms a photo" for name, ms in each.core_ms.items()]
        laws = [f"{gateways} gateway(s): {law}" for gateways, law in each.laws.items()]
        notes.append("; ".join([f"{each.model} {each.mode}: {each.why}", *costs, *laws]))
    return "\n".join([table(lines), "", *notes])


def _plot(found: Sequence[Capacity], limit: str, threshold: float, file: pathlib.Path) -> None:
    with matplotlib.style.context(STYLE):
        figure = Figure(figsize=(7, 3.2 * len(found)), layout="constrained")
        for each, (axes,) in zip(found, figure.subplots(len(found), 1, squeeze=False), strict=True):
            axes.axhline(threshold, color="#c1121f", lw=1, label=f"{limit} threshold")
            closed = [point for point in each.closed_points if point.gateways == 1]
            for label, style, points in (("closed loop", "o-", closed), ("open loop", "x", each.open_points)):
                # NumPy makes NaN of a missing latency, which is not drawn
                answers, p50, p99 = np.array([(p.answers, p.p50, p.p99) for p in points], float).reshape(-1, 3).T
                axes.plot(answers, p99, style, label=f"{label}, p99")
                axes.plot(answers, p50, style, alpha=0.5, label=f"{label}, p50")
            if each.kept:
                axes.axvline(each.kept, color="#2a6f97", lw=1, label="highest rate within it")
            axes.set(title=f"{each.model} {each.mode}", xlabel="answers a second", ylabel="milliseconds", yscale="log")
            axes.legend(fontsize=7)
        figure.savefig(file, dpi=110)
