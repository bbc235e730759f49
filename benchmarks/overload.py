"""Send ten times more requests than can be answered; measure answers, refusals, health and memory.

    python -m benchmarks.overload --model resnet50 --seconds 30
    python -m benchmarks.overload --times 3

The local stack and the load test (`dermserve.loadtest`) run as processes. First, as many callers as there are cores
call again at once: their answers a second are the capacity, and their latencies those without overload. Then requests
are due at `--times` that rate, each with a deadline (an open loop). Both parts begin with two seconds that are not
counted.
Callers, gateway and model server share the cores. So the time to a refusal is that of the gateway's own metric, and the
goodput is compared with the capacity less the share of the processor that the callers took.

Goals: goodput at least 90 % of that capacity; the p99 of accepted requests at most twice the uncongested one;
refusals in under 10 ms; health green throughout; memory flat. Exit codes: 0 all met, 1 not (the last lines say what).
"""

import contextlib
import os
import pathlib
import statistics
import sys
import threading
from collections.abc import Iterator
from typing import Any

import click
import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from benchmarks.serving import CHANNEL, local_stack, store_option
from dermserve.loadtest.drive import Server, run
from dermserve.loadtest.machine import scrape
from dermserve.loadtest.result import Result
from dermserve.loadtest.scenario import Part, Scenario

_WARM_UP = 2.0
_PROBE_EVERY = 0.2
_DURATION, _REFUSED = "dermserve_gateway_request_duration_seconds", ("code", "RESOURCE_EXHAUSTED")


def measure(server: Server, model: str, *, times: float, seconds: float, processes: int) -> dict[str, float]:
    """Measure the capacity and then the overload: milliseconds, answers a second, shares, megabytes."""
    cores, mix = os.cpu_count() or 1, (Part(model=model),)

    def load(**how: Any) -> Result:
        scenario = Scenario(target=server.target, mix=mix, warm_up=_WARM_UP, run_time=_WARM_UP + seconds, **how)
        return run(scenario, server, processes=processes, quiet=True)

    calm = load(users=cores)
    before = _refusals(server.metrics_url)
    with _probing(server.target) as healthy:
        full = load(rate=calm.all.rate * times)
    spent, refused = _refusals(server.metrics_url) - before
    left = (cores - _callers_cores(full)) / (cores - _callers_cores(calm))
    held = [each["processes"]["gateway"]["resident_mb"] for each in full.data["server"]["samples"]]
    third = max(1, len(held) // 3)
    pace, ends = full.data["pace"], full.all.statuses
    return {
        "capacity": calm.all.rate,
        "calm_p50": calm.all.p50 or 0.0,
        "calm_p99": calm.all.p99 or 0.0,
        "goodput": full.all.rate,
        "goodput_share": full.all.rate / (calm.all.rate * left),
        "accepted_p50": full.all.p50 or 0.0,
        "accepted_p99": full.all.p99 or 0.0,
        "refused": ends.get("RESOURCE_EXHAUSTED", 0),
        "refusal_in_gateway": spent / refused * 1e3 if refused else 0.0,
        "failed": full.all.calls - ends.get("OK", 0) - ends.get("RESOURCE_EXHAUSTED", 0),
        "late_share": 1 - (pace["started"] - pace["late"]) / pace["wanted"],
        "probes": len(healthy),
        "probes_red": healthy.count(False),
        "grown_mb": statistics.median(held[-third:]) - statistics.median(held[third : 2 * third]),
    }


def _callers_cores(result: Result) -> float:
    return sum(use for name, use in result.mean_cores().items() if name.startswith("generator"))


def _refusals(url: str) -> NDArray[np.float64]:
    """Read the seconds that refusals took in the gateway, and how many there were."""
    kept = {name: value for (name, labels), value in (scrape(url) or {}).items() if _REFUSED in labels}
    return np.array([kept.get(f"{_DURATION}_{kind}", 0.0) for kind in ("sum", "count")])


@contextlib.contextmanager
def _probing(address: str) -> Iterator[list[bool]]:
    """Ask for health, again and again, while the block lasts."""
    healthy, ended = list[bool](), threading.Event()

    def probe() -> None:
        with grpc.insecure_channel(address, options=CHANNEL) as channel:
            ask = health_pb2_grpc.HealthStub(channel).Check
            while not ended.wait(_PROBE_EVERY):
                try:
                    status = ask(health_pb2.HealthCheckRequest(), timeout=2).status
                except grpc.RpcError:
                    status = None
                healthy.append(status == health_pb2.HealthCheckResponse.SERVING)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield healthy
    finally:
        ended.set()
        thread.join()


def faults(found: dict[str, float]) -> list[str]:
    """Name the goals that were missed."""
    slower = found["accepted_p99"] / found["calm_p99"]
    checks = {
        f"goodput is {found['goodput_share']:.0%} of the capacity left": found["goodput_share"] >= 0.9,
        f"p99 of accepted is {slower:.1f} times the uncongested": slower <= 2,
        f"refusals take {found['refusal_in_gateway']:.1f} ms in the gateway": found["refusal_in_gateway"] < 10,
        f"{found['failed']} requests ended otherwise": not found["failed"],
        f"{found['probes_red']} of {found['probes']} health probes failed": found["probes"] and not found["probes_red"],
        f"memory grew by {found['grown_mb']:.0f} MB": found["grown_mb"] < 10,
    }
    return [text for text, kept in checks.items() if not kept]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@store_option
@click.option("--model", default="resnet50", show_default=True)
@click.option("--times", type=click.FloatRange(1.5), default=10.0, show_default=True, help="Of the capacity.")
@click.option("--seconds", type=click.FloatRange(2), default=30.0, show_default=True, help="Of each of the two parts.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="That make the load.")
def main(store: pathlib.Path, model: str, times: float, seconds: float, processes: int) -> None:
    """Put several times its capacity on a gateway, and judge the goals."""
    with local_stack(store, [model]) as server:
        found = measure(server, model, times=times, seconds=seconds, processes=processes)
    missed = faults(found)
    click.echo("\n".join(f"{name:19} {value:13.2f}" for name, value in found.items()))
    click.echo("\n".join(missed) or "all goals met")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
