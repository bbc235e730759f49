"""Send ten times more requests than can be answered; measure answers, refusals, health and memory.

    python -m benchmarks.overload --model resnet50 --seconds 30

First, as many callers as the gateway has calls in flight call again at once: their answers a second are the capacity,
and their latencies those without overload. Then a process of its own sends requests at ten times that rate, each with a
deadline (an open loop). The first two seconds of both don't count. Latencies are those of `_WATCHED` further requests a
second from this process, as those of the load would include delays of its own event loop (`load_late`). Callers and
servers share the cores: so the time to a refusal is also the gateway's own metric, and the goodput is compared with the
capacity less the callers' share. `faults` has the goals; exit codes: 0 all met, 1 not.
"""

import asyncio
import contextlib
import multiprocessing
import os
import pathlib
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

import click
import grpc
import grpc.aio
import numpy as np
import psutil
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from benchmarks.serving import CHANNEL, closed_loop, gateway_caller, store_option
from dermserve.client._request import preparer
from dermserve.loadtest.drive import local_server
from dermserve.loadtest.machine import scrape
from dermserve.local import DRAWN

_WARM_UP = 2.0
_DEADLINE = 10.0
_PROBE_EVERY = 0.2
_WATCHED = 50.0
_TIMES = 10
_DURATION, _REFUSED = "dermserve_gateway_request_duration_seconds", ("code", "RESOURCE_EXHAUSTED")


@dataclass(slots=True)
class Seen:
    """What callers saw; milliseconds."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    late: list[float] = field(default_factory=list)  # how late each request was sent
    busy_cores: float = 0.0  # that the callers took


async def _send(channel: grpc.aio.Channel, model: str, rate: float, seconds: float) -> Seen:
    """Send requests at a rate, however late the answers are, and wait for the last answer."""
    classify = channel.unary_unary("/dermserve.v1.Classifier/Classify")
    request = preparer(model=model, version=None, label=None, tta="none")((DRAWN / "0.jpg").read_bytes())
    content, seen = request.SerializeToString(), Seen()

    async def ask() -> None:
        started = time.perf_counter()
        try:
            await classify(content, timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                seen.refused.append((time.perf_counter() - started) * 1e3)
            else:
                seen.failed.append(f"{error.code().name}: {error.details()}")
        else:
            seen.answered.append((time.perf_counter() - started) * 1e3)

    begin, busy = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * seconds)):
            wait = begin + number / rate - time.perf_counter()
            seen.late.append(max(0.0, -wait) * 1e3)
            await asyncio.sleep(max(0.0, wait))
            tasks.create_task(ask())
    seen.busy_cores = (time.process_time() - busy) / (time.perf_counter() - begin)
    return seen


def _load(address: str, model: str, rate: float, seconds: float) -> Seen:
    async def run() -> Seen:
        async with grpc.aio.insecure_channel(address, options=CHANNEL) as channel:
            return await _send(channel, model, rate, seconds)

    return uvloop.run(run())


def _refusals(metrics: str) -> NDArray[np.float64]:
    """Read the seconds that refusals took in the gateway, and how many there were."""
    kept = {name: value for (name, labels), value in (scrape(metrics) or {}).items() if _REFUSED in labels}
    return np.array([kept.get(f"{_DURATION}_{kind}", 0.0) for kind in ("sum", "count")])


def _measure(address: str, metrics: str, pid: int, model: str, seconds: float) -> dict[str, float]:
    """Measure the capacity and then the overload: milliseconds, answers a second, shares, bytes."""
    cores, spent, started = os.cpu_count() or 1, time.process_time(), time.perf_counter()
    calls = [gateway_caller(address, model, "none") for _ in range(cores)]
    calm = closed_loop(calls, ((DRAWN / "0.jpg").read_bytes(),), seconds=seconds, warm_up=_WARM_UP)
    calm_busy = (time.process_time() - spent) / (time.perf_counter() - started)
    found = uvloop.run(_overload(address, metrics, psutil.Process(pid), model, calm.answers * _TIMES, seconds))
    left = (cores - found.pop("busy_cores")) / (cores - calm_busy)
    share = found["goodput"] / (calm.answers * left)
    return {"capacity": calm.answers, "calm_p50": calm.p50, "calm_p99": calm.p99, "goodput_share": share, **found}


async def _overload(
    address: str, metrics: str, gateway: psutil.Process, model: str, rate: float, seconds: float
) -> dict[str, float]:
    loop, spawn = asyncio.get_running_loop(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as other:
        onset = await loop.run_in_executor(other, _load, address, model, rate, _WARM_UP)
        async with grpc.aio.insecure_channel(address, options=CHANNEL) as channel:
            before, started = await asyncio.to_thread(_refusals, metrics), time.perf_counter()
            load = loop.run_in_executor(other, _load, address, model, rate, seconds)
            work, held, healthy = asyncio.create_task(_send(channel, model, _WATCHED, seconds)), [], []
            health = health_pb2_grpc.HealthStub(channel)
            while not work.done():
                await asyncio.sleep(_PROBE_EVERY)
                held.append(gateway.memory_info().rss)
                status = None
                with contextlib.suppress(grpc.aio.AioRpcError):
                    status = (await health.Check(health_pb2.HealthCheckRequest(), timeout=2)).status
                healthy.append(status == health_pb2.HealthCheckResponse.SERVING)
            seen, made = work.result(), await load
            took = time.perf_counter() - started
    spent, refused = await asyncio.to_thread(_refusals, metrics) - before
    failed = onset.failed + seen.failed + made.failed
    for text in sorted({*failed}):
        click.echo(text, err=True)
    third = max(1, len(held) // 3)
    return {
        "goodput": (len(seen.answered) + len(made.answered)) / took,
        **_percentiles("accepted", seen.answered or [0.0]),
        **_percentiles("refusal", seen.refused or [0.0]),
        "refused": len(seen.refused) + len(made.refused),
        "refusal_in_gateway": spent / refused * 1e3 if refused else 0.0,
        "load_late_p99": float(np.percentile(made.late, 99)),
        "failed": len(failed),
        "probes": len(healthy),
        "probes_red": healthy.count(False),
        "grown_bytes": statistics.median(held[-third:]) - statistics.median(held[third : 2 * third]),
        "busy_cores": seen.busy_cores + made.busy_cores,
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
@click.option("--seconds", type=click.FloatRange(2), default=30.0, show_default=True, help="Of each of the two parts.")
def main(store: pathlib.Path, model: str, seconds: float) -> None:
    """Put ten times its capacity on a gateway, and judge the goals."""
    with local_server(store, [model]) as server:
        found = _measure(server.target, server.metrics_url, server.pids["gateway"], model, seconds)
    missed = faults(found)
    click.echo("\n".join(f"{name:19} {value:13.2f}" for name, value in found.items()))
    click.echo("\n".join(missed) or "all goals met")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
