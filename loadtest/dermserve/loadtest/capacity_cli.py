"""`dermserve-loadtest capacity`: the command, and its search for the highest rate within a threshold."""

import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import psutil

from dermserve.loadtest.capacity import (
    SHARES,
    Capacity,
    Found,
    Law,
    Point,
    Verdict,
    bisect,
    calls_needed,
    explain,
    fit_law,
    judge,
    too_slow_already,
)
from dermserve.loadtest.cli import CALL_OPTIONS, FOLDER, add_options, duration, under_test
from dermserve.loadtest.drive import Generator, Server, more_gateways, run, say
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.recorder import middle_of, quantile
from dermserve.loadtest.report import capacity_table, plot_capacity
from dermserve.loadtest.result import Result
from dermserve.loadtest.scenario import Part, Scenario, ScenarioError, parse_mix, parse_seconds
from dermserve.models.durable import write_durably

_LEAST = 1 / 16
"""Share of the most answers a second: below it, a breached threshold is not caused by the load."""
_MARGIN = 1.25
_ROOM = 1.5
"""Factor on the calls that a verdict needs, as a few of them may be slow."""


@dataclass(frozen=True, kw_only=True)
class _Search:
    base: Scenario  # of every probe, but for its load
    servers: Mapping[int, Server]  # by number of gateway processes
    processes: int  # that generate
    limit: str  # a key of SHARES
    milliseconds: float  # that it must keep within
    confidence: float
    precision: float
    probe: float  # seconds
    probes: int
    callers: tuple[int, ...]

    def find(self, part: Part) -> Capacity:
        """Find the capacity for one model and mode."""
        closed = [self._closed(part, gateways, callers) for gateways in self.servers for callers in self.callers]
        opened: list[Point] = []
        alone = [point for point in closed if point.gateways == 1]
        best = max(alone, key=lambda point: point.answers)
        found, why = Found(), explain(best, cores=psutil.cpu_count() or 1)
        if hopeless := too_slow_already(alone, self.milliseconds):
            why = f"{hopeless}; {why}"
        elif best.answers > 0:
            found = bisect(
                lambda rate: self._judge(part, rate, opened),
                start=max(best.answers / 2, 0.1),
                precision=self.precision,
                least=best.answers * _LEAST,
                most=best.answers * _MARGIN,
            )
        return Capacity(
            model=part.model, mode=part.mode, found=found, open_points=tuple(opened), closed_points=tuple(closed),
            laws=dict(_laws(closed)), why=why,
        )  # fmt: skip

    def _judge(self, part: Part, rate: float, points: list[Point]) -> Verdict:
        """Probe a rate until its verdict is sure. A rate that the generator did not reach is not kept."""
        share = SHARES[self.limit]
        needed = _ROOM * calls_needed(share=share, confidence=self.confidence) / rate / self.probes
        calls = slow = 0
        verdict = Verdict.OPEN
        for _ in range(self.probes):
            result, point = self._run(part, gateways=1, rate=rate, callers=0, seconds=max(self.probe, needed))
            points.append(point)
            latency = result.total.latency
            missed = max(0, result.pace.wanted - result.pace.started)  # came due and were never started
            in_time = sum(count for bucket, count in latency.items() if middle_of(bucket) <= self.milliseconds)
            calls += result.all.calls + missed
            slow += result.all.calls + missed - in_time
            verdict = judge(calls, slow, share=share, confidence=self.confidence)
            measured = quantile(latency, 1 - share)
            say(f"  {rate:.2f}/s: {self.limit} {measured:.0f} ms of {calls} calls, {verdict.value}")
            if verdict is not Verdict.OPEN:
                break
        return verdict

    def _closed(self, part: Part, gateways: int, callers: int) -> Point:
        _, point = self._run(part, gateways=gateways, rate=None, callers=callers, seconds=self.probe)
        say(f"  {callers} callers, {gateways} gateway(s): {point.answers:.2f}/s, p99 {point.p99:.0f} ms")
        return point

    def _run(
        self, part: Part, *, gateways: int, rate: float | None, callers: int, seconds: float
    ) -> tuple[Result, Point]:
        server = self.servers[gateways]
        load = {"rate": rate, "users": callers, "run_time": seconds + self.base.warm_up}
        scenario = self.base.model_copy(update={"mix": (part,), "target": server.target, **load})
        result = run(scenario, server, Generator(processes=self.processes), quiet=True)
        row = result.all
        return result, Point(
            rate=rate, callers=callers, gateways=gateways, answers=row.rate, error_rate=row.error_rate,
            p50=row.p50 or math.nan, p99=row.p99 or math.nan, cores=result.mean_cores(),
        )  # fmt: skip


@click.command()
@CALL_OPTIONS
@add_options(
    click.option("--slo", default="p99=500ms", show_default=True, help="Threshold to keep: p50, p95 or p99."),
    click.option(
        "--confidence", type=click.FloatRange(0.5, 0.999), default=0.9, show_default=True,
        help="Confidence of a verdict on a rate; a p99 at 0.9 takes at least 230 calls.",
    ),
    click.option(
        "--precision", type=click.FloatRange(0.01, 0.5), default=0.05, show_default=True,
        help="Relative precision of the rate.",
    ),
    click.option(
        "--probe", type=duration, default="20s", show_default=True,
        help="Length of one probe; longer where a rate is so low that all its probes would not suffice to judge it.",
    ),
    click.option(
        "--probes", type=click.IntRange(1), default=6, show_default=True,
        help="Most probes of one rate, before it counts as not kept.",
    ),
    click.option(
        "--callers", default="1,2,4,8,16,32", show_default=True, help="Numbers of callers for the closed loops."
    ),
    click.option(
        "--gateways", type=click.IntRange(1, 16), default=1, show_default=True,
        help="With --local: measure the law for 1 to N gateway processes.",
    ),
    click.option("--warm-up", type=duration, default="3s", show_default=True, help="Start of each probe, not counted."),
    click.option(
        "--out", type=FOLDER, default="build/capacity", show_default=True, help="For capacity.json and capacity.png."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
)  # fmt: skip
def capacity(
    slo: str, confidence: float, precision: float, probe: float, probes: int, callers: str, gateways: int,
    processes: int, out: pathlib.Path, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Find the highest rate that keeps a threshold, for each model and mode.

    For each: closed loops of 1 to N callers, to which the universal scalability law is fitted, then open loops at
    rates found by bisection. Prints which process is the limit.
    """
    if any(part.stream for part in parse_mix(options["mix"])):
        raise ScenarioError("capacity is found for single calls: leave streams out of --mix")
    if gateways > 1 and not options["local"]:
        raise ScenarioError("--gateways needs --local, which can start them")
    limit, milliseconds = _threshold(slo)
    counts = _counts(callers)
    options |= {"users": 1, "run_time": probe + options["warm_up"]}
    machine = describe_machine()
    found = []
    with under_test(options) as (base, alone):
        models = sorted({part.model for part in base.mix})
        with more_gateways(alone, models=models, most=gateways) as servers:
            search = _Search(
                base=base, servers=servers, processes=processes, limit=limit, milliseconds=milliseconds,
                confidence=confidence, precision=precision, probe=probe, probes=probes, callers=counts,
            )  # fmt: skip
            for part in base.mix:  # write the results so far after each
                say(f"{part.model} {part.mode}")
                found.append(search.find(part))
                out.mkdir(parents=True, exist_ok=True)
                content = {"machine": machine, "capacity": [each.to_json() for each in found]}
                write_durably(out / "capacity.json", json.dumps(content, indent=1))
                plot_capacity(found, out / "capacity.png", limit=limit, milliseconds=milliseconds)
    click.echo(json.dumps([each.to_json() for each in found]) if as_json else capacity_table(found, slo))
    say(f"plot: {out / 'capacity.png'}")


def _threshold(text: str) -> tuple[str, float]:
    limit, _, value = text.partition("=")
    try:
        if limit in SHARES:
            return limit, parse_seconds(value) * 1000
    except ValueError as error:
        raise ScenarioError(str(error)) from error
    raise ScenarioError(f"{text!r} is not a threshold: write for example p99=500ms; there are {', '.join(SHARES)}")


def _counts(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise ScenarioError(f"{text!r} are not numbers of callers: write for example 1,2,4,8")
    return tuple(sorted({int(part) for part in text.split(",")}))


def _laws(points: Sequence[Point]) -> Iterator[tuple[int, Law]]:
    for gateways in sorted({point.gateways for point in points}):
        having = {p.callers: p.answers for p in points if p.gateways == gateways and p.answers > 0}
        if len(having) >= 3:
            yield gateways, fit_law(list(having), list(having.values()))
