"""Several model servers: the load is shared, and one that dies, hangs or comes back loses no request."""

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import numpy as np
import pytest

from dermserve.gateway.backends import Backend, Backends
from dermserve.gateway.batch import Batch, Part
from dermserve.gateway.budget import Budget
from dermserve.gateway.gate import Gate
from dermserve.gateway.tfserving import Target
from dermserve.gateway.tfserving import Scores
from dermserve.v1 import classifier_pb2
from tests.gateway import fake_tfserving
from tests.gateway.fake_tfserving import FakeTfServing, Version, make_card
from tests.gateway.gateways import World, ask, reason_of
from tests.gateway.gateways import running as gateway_before

WORK_SECONDS = 0.02


@contextlib.asynccontextmanager
async def _two(**settings: object) -> AsyncIterator[tuple[FakeTfServing, FakeTfServing, World]]:
    first, second = FakeTfServing(), FakeTfServing()
    async with contextlib.AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(server.serving()) for server in (first, second)]
        world = await stack.enter_async_context(gateway_before(tfs_address=",".join(addresses), **settings))
        yield first, second, world


async def test_requests_are_shared_between_the_addresses():
    async with _two() as (first, second, world):
        for _ in range(10):
            await world.stub.Classify(ask(), timeout=20)
        assert (len(first.predicts), len(second.predicts)) == (5, 5)


async def test_calls_in_flight_are_bounded_for_each_address():
    async with _two(tfs_in_flight=2, queue=100) as (first, second, world):
        first.on_predict = second.on_predict = lambda _: asyncio.sleep(0.02)
        await asyncio.gather(*(world.stub.Classify(ask(), timeout=20) for _ in range(30)))
        assert (first.most_in_flight, second.most_in_flight) == (2, 2)


async def test_what_one_address_can_not_do_another_is_asked_for():
    async with _two() as (first, second, world):
        for fault in (
            (grpc.StatusCode.UNAVAILABLE, "gone"),
            (grpc.StatusCode.NOT_FOUND, "Servable not found"),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"),
        ):
            first.faults["Predict"] = fault
            for _ in range(4):
                assert (await world.stub.Classify(ask(), timeout=20)).classes
        second.faults["Predict"] = first.faults["Predict"] = (grpc.StatusCode.UNAVAILABLE, "gone")
        assert reason_of(await world.refusal(ask())) == "MODEL_SERVER_UNREACHABLE"


async def test_a_version_on_one_address_only_is_listed_and_answers():
    async with _two() as (first, _, world):
        first.models["resnet50"][2] = Version(make_card())
        async with asyncio.timeout(20):
            while True:
                shown = await world.stub.GetModel(classifier_pb2.GetModelRequest(name="resnet50"), timeout=5)
                if [version.version for version in shown.model.versions if version.ready] == [2, 1]:
                    break
                await first.looks.get()
        for _ in range(4):
            assert (await world.stub.Classify(ask(version=2), timeout=20)).version == 2


class Server:
    """A fake model server as a process, always on the same port."""

    def __init__(self) -> None:
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        command = [sys.executable, fake_tfserving.__file__, str(self.port), str(WORK_SECONDS)]
        self._process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout
        address = (await asyncio.wait_for(self._process.stdout.readline(), 20)).decode().strip()
        self.port = int(address.rpartition(":")[2])
        return address

    def send(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    async def kill(self) -> None:
        assert self._process
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class Load:
    """Callers that ask without a pause, and what became of it."""

    def __init__(self, world: World, callers: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._world = world
        self._ended: asyncio.Queue[None] = asyncio.Queue()
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._call()) for _ in range(callers)]

    async def _call(self) -> None:
        while not self._stop.is_set():
            try:
                await self._world.stub.Classify(ask(), timeout=15)
                self.outcomes["answered"] += 1
            except grpc.aio.AioRpcError as error:
                self.outcomes[f"{error.code().name} {error.details()}"] += 1
            self._ended.put_nowait(None)

    async def more(self, count: int) -> None:
        """Wait until so many further requests have ended."""
        for _ in range(self._ended.qsize() + count):
            await self._ended.get()

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_killing_or_freezing_each_server_in_turn_under_load_loses_no_request(fault):
    servers = [Server(), Server()]
    addresses = [await server.start() for server in servers]
    try:
        async with gateway_before(tfs_address=",".join(addresses), tfs_in_flight=2) as world:
            load = Load(world, callers=6)
            await load.more(20)
            for server in servers:
                if fault == "kill":
                    await server.kill()
                    await load.more(30)
                    await server.start()
                else:
                    server.send(signal.SIGSTOP)
                    await load.more(30)
                    server.send(signal.SIGCONT)
                await asyncio.sleep(1.5)  # longer than a look at it and the back-off of its channel take
                await load.more(30)
            await load.stop()
        assert set(load.outcomes) == {"answered"}
    finally:
        for server in servers:
            await server.kill()


async def test_a_place_is_spare_when_it_is_free_or_its_call_is_nearly_done():
    now = 0.0
    gate = Gate(at_once=3, queue=None, clock=lambda: now)
    server = Held()
    backends = Backends([backend := Backend("a", server, gate)], clock=lambda: now)
    assert backends.spare() == 3
    first = await server.ask(backends)
    now = 1.0
    server.release.set()
    await first  # a call takes a second
    server.release.clear()
    calls = [await server.ask(backends) for _ in range(4)]
    assert (backend.gate.passing, backend.gate.waiting) == (3, 1)
    assert backends.spare() == -1
    now = 1.8
    assert backends.spare() == 2
    backend.mark(alive=False)
    assert backends.spare() == 0
    server.release.set()
    await asyncio.gather(*calls)
    backend.mark(alive=True)
    assert (backends.spare(), backend.soon, backend.calls, backend.views) == (3, [], 5, 5)


class Held:
    """A model server that answers when it is let."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def predict(self, _: Target, *, views: np.ndarray, budget: Budget) -> Scores:
        await self.release.wait()
        return Scores(len(views), 1, np.ones((len(views), 1), np.float32), np.zeros(len(views), np.float32))

    async def ask(self, backends: Backends) -> "asyncio.Task[Scores]":
        """Begin a call for one view."""
        part = Part(np.zeros((1, 2, 2, 3), np.uint8), Budget(100, lambda: 0.0))
        task = asyncio.create_task(backends.predict(Target("m"), Batch(part)))
        for _ in range(5):
            await asyncio.sleep(0)
        return task
