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
import contextlib
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import click
import grpc
import grpc.aio
import numpy as np
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from benchmarks.serving import json_option, local_stack, store_option
from dermserve.loadtest.sampling import scrape
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
    busy: float = 0.0
    """Cores that this program kept busy meanwhile."""


class Load:
    """Requests for one model, and what became of them."""

    def __init__(self, channel: grpc.aio.Channel, model: str) -> None:
        self._stub = classifier_pb2_grpc.ClassifierStub(channel)  # type: ignore[no-untyped-call]
        self._health = health_pb2_grpc.HealthStub(channel)
        self._request = classifier_pb2.ClassifyRequest(
            model=classifier_pb2.ModelSelector(name=model), image=draw_lesion(), tta=classifier_pb2.TTA_MODE_NONE
        )

    async def closed(self, callers: int, seconds: float) -> Seen:
        """Let callers call again at once for so long."""
        seen, ends = Seen(), time.perf_counter() + seconds

        async def caller() -> None:
            while time.perf_counter() < ends:
                await self._ask(seen)

        with _noting_busy(seen):
            await asyncio.gather(*(caller() for _ in range(callers)))
        return seen

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


@contextlib.contextmanager
def _noting_busy(seen: Seen) -> Iterator[None]:
    spent, start = time.process_time(), time.perf_counter()
    yield
    seen.busy = (time.process_time() - spent) / (time.perf_counter() - start)


def _refusals(metrics: str) -> NDArray[np.float64]:
    """Read the seconds that refusals took in the gateway, and how many there were."""
    found = scrape(f"http://{metrics}/metrics") or {}
    kept = {name: value for (name, labels), value in found.items() if _REFUSED in labels}
    return np.array([kept.get(f"{_DURATION}_{kind}", 0.0) for kind in ("sum", "count")])


async def _measure(address: str, metrics: str, pid: int, model: str, times: float, seconds: float) -> dict[str, float]:
    """Measure the capacity and then the overload: milliseconds, answers a second, shares, bytes."""
    async with grpc.aio.insecure_channel(address) as channel:
        load, cores, gateway = Load(channel, model), os.cpu_count() or 1, psutil.Process(pid)
        await load.closed(cores, _WARM_UP)
        calm = await load.closed(cores, seconds)
        capacity = len(calm.answered) / seconds
        onset, warming = await load.open(capacity * times, _WARM_UP)
        before, started = await asyncio.to_thread(_refusals, metrics), time.perf_counter()
        work, held, healthy = asyncio.create_task(_loaded(load, capacity * times, seconds)), [], []
        while not work.done():
            await asyncio.sleep(_PROBE_EVERY)
            held.append(gateway.memory_info().rss)
            healthy.append(await load.is_serving())
        seen, took = await work, time.perf_counter() - started
        await asyncio.gather(*warming)
    spent, refused = await asyncio.to_thread(_refusals, metrics) - before
    failed = calm.failed + onset.failed + seen.failed
    for text in sorted(set(failed)):
        click.echo(text, err=True)
    goodput, left = len(seen.answered) / took, (cores - seen.busy) / (cores - calm.busy)
    third = max(1, len(held) // 3)
    return {
        "capacity": capacity,
        "goodput": goodput,
        "goodput_share": goodput / (capacity * left),
        **_percentiles("calm", calm.answered),
        **_percentiles("accepted", seen.answered),
        "onset_slowest": max(onset.answered, default=0.0),
        **_percentiles("refusal", seen.refused or [0.0]),
        "refused": len(seen.refused),
        "refusal_in_gateway": spent / refused * 1e3 if refused else 0.0,
        "failed": len(failed),
        "probes": len(healthy),
        "probes_red": healthy.count(False),
        "grown_bytes": statistics.median(held[-third:]) - statistics.median(held[third : 2 * third]),
    }


async def _loaded(load: Load, rate: float, seconds: float) -> Seen:
    busy = Seen()
    with _noting_busy(busy):
        seen, tasks = await load.open(rate, seconds)
        await asyncio.gather(*tasks)
    seen.busy = busy.busy
    return seen


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
        found = asyncio.run(_measure(address, metrics, pid, model, times, seconds))
    missed = faults(found)
    if as_json:
        click.echo(json.dumps({"model": model, **found, "faults": missed}))
    else:
        click.echo("\n".join(f"{name:19} {value:13.2f}" for name, value in found.items()))
        click.echo("\n".join(missed) or "all goals met")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
