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
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import click
import grpc
import grpc.aio
import numpy as np
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.serving import json_option, local_stack, store_option
from dermserve.loadtest.machine import scrape
from dermserve.local.picture import draw_lesion
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc

_WARM_UP = 2.0
_DEADLINE = 10.0
_PROBE_EVERY = 0.2
_MORE_BYTES = 10e6
_DURATION, _REFUSED = "dermserve_gateway_request_duration_seconds", ("code", "RESOURCE_EXHAUSTED")


@dataclasses.dataclass(slots=True)
class Seen:
    """What callers saw; milliseconds."""

    answered: list[float] = dataclasses.field(default_factory=list)
    refused: list[float] = dataclasses.field(default_factory=list)
    failed: list[str] = dataclasses.field(default_factory=list)
    busy: float = 0.0
    """Cores that this program kept busy meanwhile."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The figures; milliseconds, answers a second, bytes."""

    capacity: float
    calm_p50: float
    calm_p99: float
    offered: float
    goodput: float
    left: float
    """Share of the processor that asking left, of what it left before."""
    accepted_p50: float
    accepted_p99: float
    onset: float
    """The slowest answer to a request of the overload's first two seconds."""
    refused: int
    refusal_p50: float
    refusal_p99: float
    refusal_in_gateway: float
    """Mean from arrival in the gateway to its refusal."""
    failed: int
    probes: int
    probes_red: int
    grown: float
    """Of the gateway's memory, from the second third of the overload to the last."""

    @property
    def share(self) -> float:
        """Of the capacity of what asking left of the processor, what came as answers."""
        return self.goodput / (self.capacity * self.left)

    def faults(self) -> list[str]:
        """Name the goals that were missed."""
        checks = {
            f"goodput is {self.share:.0%} of the capacity left": self.share >= 0.9,
            f"p99 of accepted is {self.accepted_p99 / self.calm_p99:.1f} times the uncongested":
                self.accepted_p99 <= 2 * self.calm_p99,
            f"refusals take {self.refusal_in_gateway:.1f} ms in the gateway": self.refusal_in_gateway < 10,
            f"{self.failed} requests ended otherwise": not self.failed,
            f"{self.probes_red} of {self.probes} health probes failed": self.probes > 0 and not self.probes_red,
            f"memory grew by {self.grown / 1e6:.0f} MB": self.grown < _MORE_BYTES,
        }  # fmt: skip
        return [text for text, kept in checks.items() if not kept]


class Load:
    """Requests for one model, and what became of them."""

    def __init__(self, address: str, model: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub = classifier_pb2_grpc.ClassifierStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._request = classifier_pb2.ClassifyRequest(
            model=classifier_pb2.ModelSelector(name=model), image=draw_lesion(), tta=classifier_pb2.TTA_MODE_NONE
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def closed(self, callers: int, seconds: float) -> Seen:
        """Let callers call again at once for so long, after a warm-up."""
        begin = time.perf_counter() + _WARM_UP
        seen, ends = Seen(), begin + seconds

        async def caller() -> None:
            while time.perf_counter() < ends:
                await self._ask(seen if time.perf_counter() >= begin else Seen(), due=time.perf_counter())

        await _noting_busy(seen, asyncio.gather(*(caller() for _ in range(callers))))
        return seen

    async def open(self, rate: float, seconds: float, *, onset: Seen, begin: Callable[[], None]) -> Seen:
        """Send requests at a rate, whatever becomes of them; `begin` is called after a warm-up of the same."""
        seen = Seen()
        warming = await self._send(onset, rate, _WARM_UP)
        await asyncio.to_thread(begin)
        await _noting_busy(seen, self._finish(seen, rate, seconds))
        await asyncio.gather(*warming)
        return seen

    async def _finish(self, seen: Seen, rate: float, seconds: float) -> None:
        await asyncio.gather(*await self._send(seen, rate, seconds))

    async def _send(self, seen: Seen, rate: float, seconds: float) -> list["asyncio.Task[None]"]:
        tasks, begin = [], time.perf_counter()
        for number in range(int(rate * seconds)):
            due = begin + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(self._ask(seen, due=time.perf_counter())))
        return tasks

    async def _ask(self, seen: Seen, *, due: float) -> None:
        try:
            await self._stub.Classify(self._request, timeout=_DEADLINE)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                seen.refused.append((time.perf_counter() - due) * 1e3)
            else:
                seen.failed.append(f"{error.code().name}: {error.details()}")
        else:
            seen.answered.append((time.perf_counter() - due) * 1e3)

    async def probe(self, work: Coroutine[Any, Any, Seen], memory: Callable[[], int]) -> tuple[Seen, list[int], int]:
        """Ask for health while some work lasts; gives what came of it, memory at each probe, and how many failed."""
        task, held, red = asyncio.create_task(work), [], 0
        while not task.done():
            await asyncio.sleep(_PROBE_EVERY)
            held.append(memory())
            try:
                answer = await self._health.Check(health_pb2.HealthCheckRequest(), timeout=2)
                red += answer.status != health_pb2.HealthCheckResponse.SERVING
            except grpc.aio.AioRpcError:
                red += 1
        return await task, held, red


async def _noting_busy(seen: Seen, work: Awaitable[Any]) -> None:
    spent, start = time.process_time(), time.perf_counter()
    await work
    seen.busy = (time.process_time() - spent) / (time.perf_counter() - start)


def _refusals(metrics: str) -> tuple[float, float]:
    """Read the seconds that refusals took in the gateway, and how many there were."""
    found = scrape(f"http://{metrics}/metrics") or {}
    spent, count = (
        sum(value for (name, labels), value in found.items() if name == f"{_DURATION}_{kind}" and _REFUSED in labels)
        for kind in ("sum", "count")
    )
    return spent, count


async def _measure(
    address: str,
    model: str,
    *,
    callers: int,
    times: float,
    seconds: float,
    refusals: Callable[[], tuple[float, float]],
    memory: Callable[[], int],
) -> Outcome:
    load = Load(address, model)
    calm = await load.closed(callers, seconds)
    capacity = len(calm.answered) / seconds
    onset, before = Seen(), (0.0, 0.0)

    def begin() -> None:
        nonlocal before, started
        before, started = refusals(), time.perf_counter()

    started = 0.0
    seen, held, red = await load.probe(load.open(capacity * times, seconds, onset=onset, begin=begin), memory)
    took = time.perf_counter() - started
    await load.close()
    spent, count = (now - then for now, then in zip(refusals(), before, strict=True))
    for text in sorted(set(calm.failed + onset.failed + seen.failed)):
        click.echo(text, err=True)
    calm_p50, calm_p99 = np.percentile(calm.answered, [50, 99])
    p50, p99 = np.percentile(seen.answered, [50, 99])
    refused = np.percentile(seen.refused or [0.0], [50, 99])
    third, cores = max(1, len(held) // 3), os.cpu_count() or 1
    return Outcome(
        capacity=capacity, calm_p50=calm_p50, calm_p99=calm_p99, offered=capacity * times,
        goodput=len(seen.answered) / took, left=(cores - seen.busy) / (cores - calm.busy),
        accepted_p50=p50, accepted_p99=p99, onset=max(onset.answered, default=0.0),
        refused=len(seen.refused), refusal_p50=refused[0], refusal_p99=refused[1],
        refusal_in_gateway=spent / count * 1e3 if count else 0.0, failed=len(onset.failed + seen.failed),
        probes=len(held), probes_red=red,
        grown=statistics.median(held[-third:]) - statistics.median(held[third : 2 * third]),
    )  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@store_option
@click.option("--model", default="resnet50", show_default=True)
@click.option("--times", type=click.FloatRange(1.5), default=10.0, show_default=True, help="Of the capacity.")
@click.option("--seconds", type=click.FloatRange(2), default=30.0, show_default=True, help="Of each of the two parts.")
@json_option
def main(store: pathlib.Path, model: str, times: float, seconds: float, as_json: bool) -> None:
    """Put a gateway under several times the load it can carry, and judge what becomes of it."""
    with local_stack(store, [model]) as (stack, metrics):
        gateway = psutil.Process(stack.pids["gateway"])
        outcome = asyncio.run(
            _measure(
                stack.gateway_address, model, callers=os.cpu_count() or 1, times=times, seconds=seconds,
                refusals=lambda: _refusals(metrics), memory=lambda: gateway.memory_info().rss,
            )
        )  # fmt: skip
    faults, figures = outcome.faults(), {**dataclasses.asdict(outcome), "share": outcome.share}
    if as_json:
        click.echo(json.dumps({"model": model, **figures, "faults": faults}))
    else:
        click.echo("\n".join(f"{name:19} {value:10.2f}" for name, value in figures.items()))
        click.echo("\n".join(faults) or "all goals met")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
