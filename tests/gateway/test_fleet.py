"""Load that rises and falls while model servers are scaled by their calls in flight, as in Kubernetes, fails none.

Gateways are real, with the manifests' settings; a model server is a stand-in of four cores on which a view takes fixed
time. Photos are a tenth of 60/s and take ten times 354 ms: as many calls in flight. The autoscaler's times are a
fortieth. Time passes by the ticks of one clock, which a busy machine delays for load, model servers and autoscaler
alike.
"""

import asyncio
import contextlib
import heapq
import itertools
import math
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine

import grpc
import grpc.aio
import numpy as np
import pytest
import yaml

from dermserve.gateway import model_servers
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import classifier_pb2
from tests.gateway.fake_tfserving import CODES, FakeTfServing, Version, floats, images_of
from tests.gateway.gateways import World, ask, running
from tests.k8s.rendering import K8S

PEAK = 60 / 10
VIEW_SECONDS = 0.0354 * 10
CORES = 4
FASTER = 40.0
"""Times that the autoscaler and pods are faster here."""
POD_STARTS, POD_ENDS = 90 / FASTER, 60 / FASTER
UP_EVERY = 180 / FASTER
"""Seconds in which two model servers are added at most."""
RISE, HOLD, FALL = 20.0, 6.0, 8.0
TICK = 0.02

pytestmark = pytest.mark.slow


class Clock:
    """Seconds of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self._numbers = itertools.count()
        self._sleeping: list[tuple[float, int, asyncio.Future[None]]] = []

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.now += TICK
            while self._sleeping and self._sleeping[0][0] <= self.now:
                _, _, woken = heapq.heappop(self._sleeping)
                if not woken.done():
                    woken.set_result(None)

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleeping, (self.now + seconds, next(self._numbers), woken))
        await woken


class Pod(FakeTfServing):
    """A model server of four cores, which takes its time without taking ours."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._cores = asyncio.Semaphore(CORES)

    async def _score(
        self, request: serving_pb2.PredictRequest, version: Version, response: serving_pb2.PredictResponse
    ) -> serving_pb2.PredictResponse:
        tta = request.model_spec.signature_name == "tta"
        views = 10 if tta else len(images_of(request))
        self.in_flight += 1
        try:
            async with self._cores:
                await self._clock.sleep(views * VIEW_SECONDS)
        finally:
            self.in_flight -= 1
        classes = len(CODES[request.model_spec.name])
        if tta:
            response.outputs["view_probabilities"].CopyFrom(floats(np.full((1, views, classes), 1 / classes)))
            views = 1
        response.outputs["probabilities"].CopyFrom(floats(np.full((views, classes), 1 / classes)))
        response.outputs["ood_score"].CopyFrom(floats(np.zeros(views)))
        return response


class Fleet:
    """Model servers behind one name, between the bounds of the manifest's autoscaler."""

    def __init__(self) -> None:
        self.clock = Clock()
        scalers = yaml.safe_load_all((K8S / "base" / "autoscaling.yaml").read_text())
        spec = next(each["spec"] for each in scalers if each["metadata"]["name"] == "modelserver")
        self.least, self.most = spec["minReplicas"], spec["maxReplicas"]
        (metric,) = spec["metrics"]
        self._target = CORES * metric["containerResource"]["target"]["averageUtilization"] / 100
        self.resolved: dict[str, Pod] = {}
        """By the address that the name resolves to."""
        self.sizes: list[int] = []
        self.shrunk = asyncio.Event()
        """Set when it has become as small again as it began."""
        self._hosts = (f"127.0.9.{number}" for number in itertools.count(1))
        self._port = 0
        self._stops: dict[str, contextlib.AsyncExitStack] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def look_up(self, host: str, port: int) -> list[str]:
        return sorted(self.resolved)

    async def start(self) -> str:
        for _ in range(self.least):
            await self._add(0)
        return f"modelserver:{self._port}"

    async def _add(self, seconds: float) -> None:
        await self.clock.sleep(seconds)
        pod, host, stack = Pod(self.clock), next(self._hosts), contextlib.AsyncExitStack()
        address = await stack.enter_async_context(pod.serving(self._port, host=host))
        self._port = int(address.rpartition(":")[2])
        self._stops[host] = stack
        self.resolved[host] = pod

    async def _remove(self, host: str) -> None:
        self.resolved.pop(host)
        await self.clock.sleep(POD_ENDS)  # its preStop
        await self._stops.pop(host).aclose()

    async def scale(self) -> None:
        """Follow the calls in flight, up at most two in a period, down one at a time."""
        size, raised, recent = self.least, 0.0, deque[int](maxlen=8)
        while True:
            await self.clock.sleep(0.1)
            in_flight = sum(pod.in_flight for pod in self.resolved.values())
            recent.append(min(self.most, max(self.least, math.ceil(in_flight / self._target))))
            if recent[-1] > size and self.clock.now > raised + UP_EVERY:
                added, raised = min(2, recent[-1] - size), self.clock.now
                size += added
                for _ in range(added):
                    self._spawn(self._add(POD_STARTS))
            elif max(recent) < size == len(self.resolved) and len(recent) == recent.maxlen:
                size -= 1
                recent.clear()
                self._spawn(self._remove(max(self.resolved)))
            self.sizes.append(len(self.resolved))
            if len(self.resolved) == self.least < max(self.sizes):
                self.shrunk.set()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._tasks)
        for stack in self._stops.values():
            await stack.aclose()


def _arrivals() -> list[float]:
    """When each photo comes, in seconds: evenly at a rate that rises from a twentieth of the peak to it, and falls."""
    found, now = [], 0.0
    while now < RISE + HOLD + FALL:
        share = min(1.0, max(0.05, now / RISE), max(0.05, (RISE + HOLD + FALL - now) / FALL))
        now += 1 / (PEAK * share)
        found.append(now)
    return found


async def _load(worlds: list[World], clock: Clock) -> tuple[Counter[str], list[float]]:
    outcomes, seconds = Counter[str](), list[float]()

    async def call(number: int, due: float) -> None:
        await clock.sleep(due)
        begun = clock.now
        try:
            await worlds[number % len(worlds)].stub.Classify(ask(tta=classifier_pb2.TTA_MODE_FULL), timeout=200)
            outcomes["OK"] += 1
            seconds.append(clock.now - begun)
        except grpc.aio.AioRpcError as error:
            outcomes[f"{error.code().name}: {error.details()}"] += 1

    await asyncio.gather(*(call(number, due) for number, due in enumerate(_arrivals())))
    return outcomes, sorted(seconds)


@contextlib.asynccontextmanager
async def _fleet(monkeypatch: pytest.MonkeyPatch, **settings: object) -> AsyncIterator[tuple[Fleet, list[World]]]:
    fleet = Fleet()
    monkeypatch.setattr(model_servers, "look_up", fleet.look_up)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(asyncio.create_task(fleet.clock.run()).cancel)
        stack.push_async_callback(fleet.close)
        name = await fleet.start()
        worlds = [
            await stack.enter_async_context(running(tfs_address=name, resolve_seconds=0.125, **settings))
            for _ in range(2)
        ]
        scaling = asyncio.create_task(fleet.scale())
        yield fleet, worlds
        scaling.cancel()


def test_load_that_rises_to_sixty_a_second_and_falls_is_answered_whole_while_model_servers_follow(monkeypatch):
    asyncio.run(_rise_and_fall(monkeypatch))


async def _rise_and_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    env = dict(line.split("=", 1) for line in (K8S / "base" / "gateway.env").read_text().splitlines() if "=" in line)
    in_flight = int(env["DERMSERVE_TFS_IN_FLIGHT"])
    async with _fleet(monkeypatch, tfs_in_flight=in_flight, decoders=1) as (fleet, worlds):
        outcomes, seconds = await _load(worlds, fleet.clock)
        median, late = (seconds[int(len(seconds) * share)] for share in (0.5, 0.99))
        sys.stdout.write(
            f"{outcomes}, p50 {median:.2f} s, p99 {late:.2f} s, at most {max(fleet.sizes)} model servers\n"
        )
        await asyncio.wait_for(fleet.shrunk.wait(), 250)
    assert set(outcomes) == {"OK"}, outcomes
    assert max(fleet.sizes) > 6, "more cores than two model servers have were busy"
