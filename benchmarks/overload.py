"""Ten times more requests than can be answered: what becomes of answers, refusals, health and memory.

    python -m benchmarks.overload --model resnet50 --seconds 30
    python -m benchmarks.overload --times 3 --json

The local stack runs both servers as processes. First as many callers as the gateway has calls in flight call again at
once: what that gives is the capacity, and its latencies are the uncongested ones. Then requests come at `--times` that
rate, each with a deadline, whatever becomes of those before (an open loop). Both begin with two seconds that are not
counted: what a burst is and what an overload shows only then, and the slowest answer meanwhile is shown by itself.
Latencies under overload are those that callers see; how long a refusal takes is shown both as callers see it and as the
gateway's own metric has it, because caller, gateway and model server share the cores here. What this program takes of
the processor is no fault of the gateway: the goodput is judged by the capacity of what it left.

Goals (issue 4): goodput at least 90 % of that capacity; the p99 of accepted requests at most twice the uncongested one;
refusals in under 10 ms; health green throughout; memory flat. Exit codes: 0 all met, 1 not (the last lines say what).
"""

import asyncio
import json
import os
import pathlib
import statistics
import sys
import time
from dataclasses import dataclass, field

import click
import grpc
import grpc.aio
import numpy as np
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from benchmarks.serving import closed_loop, gateway_caller, json_option, local_stack, store_option
from dermserve.loadtest.machine import scrape
from dermserve.local.picture import draw_lesion
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc

_WARM_UP = 2.0
_DEADLINE = 10.0
_PROBE_EVERY = 0.2
_DURATION, _REFUSED = "dermserve_gateway_request_duration_seconds", ("code", "RESOURCE_EXHAUSTED")


@dataclass(slots=True)
class Seen:
    """What callers saw; milliseconds."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class Load:
    """Requests for one model, and what became of them."""

    def __init__(self, channel: grpc.aio.Channel, model: str) -> None:
        self._stub = classifier_pb2_grpc.ClassifierStub(channel)  # type: ignore[no-untyped-call]
        self._health = health_pb2_grpc.HealthStub(channel)
        self._request = classifier_pb2.ClassifyRequest(
            model=classifier_pb2.ModelSelector(name=model), image=draw_lesion(), tta=classifier_pb2.TTA_MODE_NONE
        )

    async def open(self, rate: float, seconds: float) -> tuple[Seen, list["asyncio.Task[None]"]]:
        """Send requests at a rate, whatever becomes of them; those in flight at the end are given, too."""
        seen, tasks, begin = Seen(), [], time.perf_counter()
        for number in range(int(rate * seconds)):
            if (wait := begin + number / rate - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._ask(seen)))
        return seen, tasks

    async def _ask(self, seen: Seen) -> None:
        started = time.perf_counter()
        try:
            await self._stub.Classify(self._request, timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                seen.refused.append((time.perf_counter() - started) * 1e3)
            else:
                seen.failed.append(f"{error.code().name}: {error.details()}")
        else:
            seen.answered.append((time.perf_counter() - started) * 1e3)

    async def is_serving(self) -> bool:
        """Ask for health."""
        try:
            answer = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _refusals(metrics: str) -> NDArray[np.float64]:
    """Read the seconds that refusals took in the gateway, and how many there were."""
    found = scrape(f"http://{metrics}/metrics") or {}
    kept = {name: value for (name, labels), value in found.items() if _REFUSED in labels}
    return np.array([kept.get(f"{_DURATION}_{kind}", 0.0) for kind in ("sum", "count")])


def _measure(address: str, metrics: str, pid: int, model: str, times: float, seconds: float) -> dict[str, float]:
    """Measure the capacity and then the overload: milliseconds, answers a second, shares, bytes."""
    cores, spent, started = os.cpu_count() or 1, time.process_time(), time.perf_counter()
    calls = [gateway_caller(address, model, "none") for _ in range(cores)]
    calm = closed_loop(calls, (draw_lesion(),), seconds=seconds, warm_up=_WARM_UP)
    calm_busy = (time.process_time() - spent) / (time.perf_counter() - started)
    found = asyncio.run(_overload(address, metrics, psutil.Process(pid), model, calm.answers * times, seconds))
    left = (cores - found.pop("busy_cores")) / (cores - calm_busy)
    share = found["goodput"] / (calm.answers * left)
    return {"capacity": calm.answers, "calm_p50": calm.p50, "calm_p99": calm.p99, "goodput_share": share, **found}


async def _overload(
    address: str, metrics: str, gateway: psutil.Process, model: str, rate: float, seconds: float
) -> dict[str, float]:
    async with grpc.aio.insecure_channel(address) as channel:
        load = Load(channel, model)
        onset, warming = await load.open(rate, _WARM_UP)
        before, started, busy = await asyncio.to_thread(_refusals, metrics), time.perf_counter(), time.process_time()
        work, held, healthy = asyncio.create_task(load.open(rate, seconds)), [], []
        while not work.done() or not all(task.done() for task in work.result()[1]):
            await asyncio.sleep(_PROBE_EVERY)
            held.append(gateway.memory_info().rss)
            healthy.append(await load.is_serving())
        seen, took, busy = work.result()[0], time.perf_counter() - started, time.process_time() - busy
        await asyncio.gather(*warming)
    spent, refused = await asyncio.to_thread(_refusals, metrics) - before
    for text in sorted({*onset.failed, *seen.failed}):
        click.echo(text, err=True)
    third = max(1, len(held) // 3)
    return {
        "goodput": len(seen.answered) / took,
        **_percentiles("accepted", seen.answered),
        "onset_slowest": max(onset.answered, default=0.0),
        **_percentiles("refusal", seen.refused or [0.0]),
        "refused": len(seen.refused),
        "refusal_in_gateway": spent / refused * 1e3 if refused else 0.0,
        "failed": len(onset.failed + seen.failed),
        "probes": len(healthy),
        "probes_red": healthy.count(False),
        "grown_bytes": statistics.median(held[-third:]) - statistics.median(held[third : 2 * third]),
        "busy_cores": busy / took,
    }


def _percentiles(what: str, times: list[float]) -> dict[str, float]:
    return {f"{what}_p{at}": float(np.percentile(times, at)) for at in (50, 99)}


def faults(found: dict[str, float]) -> list[str]:
    """Name the goals that were missed."""
    slower = found["accepted_p99"] / found["calm_p99"]
    checks = {
        f"goodput is {found['goodput_share']:.0%} of the capacity left": found["goodput_share"] >= 0.9,
        f"p99 of accepted is {slower:.1f} times the uncongested": slower <= 2,
        f"refusals take {found['refusal_in_gateway']:.1f} ms in the gateway": found["refusal_in_gateway"] < 10,
        f"{found['failed']} requests ended otherwise": not found["failed"],
        f"{found['probes_red']} of {found['probes']} health probes failed": found["probes"] and not found["probes_red"],
        f"memory grew by {found['grown_bytes'] / 1e6:.0f} MB": found["grown_bytes"] < 10e6,
    }
    return [text for text, kept in checks.items() if not kept]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@store_option
@click.option("--model", default="resnet50", show_default=True)
@click.option("--times", type=click.FloatRange(1.5), default=10.0, show_default=True, help="Of the capacity.")
@click.option("--seconds", type=click.FloatRange(2), default=30.0, show_default=True, help="Of each of the two parts.")
@json_option
def main(store: pathlib.Path, model: str, times: float, seconds: float, as_json: bool) -> None:
    """Put a gateway under several times the load it can carry, and judge what becomes of it."""
    with local_stack(store, [model]) as (stack, metrics):
        address, pid = stack.gateway_address, stack.pids["gateway"]
        found = _measure(address, metrics, pid, model, times, seconds)
    missed = faults(found)
    if as_json:
        click.echo(json.dumps({"model": model, **found, "faults": missed}))
    else:
        click.echo("\n".join(f"{name:19} {value:13.2f}" for name, value in found.items()))
        click.echo("\n".join(missed) or "all goals met")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
