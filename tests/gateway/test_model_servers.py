"""Several model servers: the load is shared, and one that dies, hangs or comes back loses no request."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import numpy as np
import pytest
from structlog.testing import capture_logs

from dermserve.contract import render_card
from dermserve.gateway import admission, batching, catalog, model_servers
from dermserve.gateway.batching import Batching, Part
from dermserve.gateway.budget import Budget
from dermserve.gateway.catalog import Catalog
from dermserve.gateway.config import Config
from dermserve.gateway.errors import (
    BudgetSpentError,
    ModelServerBusyError,
    ModelServerFailedError,
    ModelServerUnreachableError,
)
from dermserve.gateway.model_servers import ModelServer, ModelServers
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, Target, TfServing
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import classifier_pb2
from tests.gateway import fake_tfserving
from tests.gateway.fake_tfserving import AVAILABLE, FakeTfServing, Version, make_card, pixels_of
from tests.gateway.gateways import NOT_SERVING, SERVING, World, ask, reason_of
from tests.gateway.gateways import running as gateway_before

WORK_SECONDS = 0.02


@contextlib.asynccontextmanager
async def _two(**settings: object) -> AsyncIterator[tuple[FakeTfServing, FakeTfServing, World]]:
    first, second = FakeTfServing(), FakeTfServing()
    async with contextlib.AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(server.serving()) for server in (first, second)]
        world = await stack.enter_async_context(gateway_before(tfs_address=",".join(addresses), **settings))
        yield first, second, world


@pytest.mark.usefixtures("patient")
async def test_requests_are_shared_between_the_addresses():
    async with _two() as (first, second, world):
        for _ in range(10):
            await world.stub.Classify(ask(), timeout=100)
        assert (len(first.predicts), len(second.predicts)) == (5, 5)


@pytest.mark.usefixtures("patient")
async def test_calls_in_flight_are_bounded_for_each_address(entered, monkeypatch):
    release, in_flight, send = asyncio.Event(), list[int](), Batching._send

    def sending(queue: Batching, server: ModelServer, *given: object, **options: object) -> None:
        send(queue, server, *given, **options)
        in_flight.append(server.in_flight)

    async def hold(_: object) -> None:
        if first.in_flight == second.in_flight == 2:
            for _ in range(6):  # as many requests are in the queue or sent
                await entered.acquire()
            release.set()
        await release.wait()

    monkeypatch.setattr(Batching, "_send", sending)
    async with _two(tfs_in_flight=2, queue=100) as (first, second, world):
        first.on_predict = second.on_predict = hold
        await asyncio.gather(*(world.stub.Classify(ask(), timeout=100) for _ in range(30)))
        assert (first.most_in_flight, second.most_in_flight, max(in_flight)) == (2, 2, 2)


@pytest.mark.usefixtures("patient")
async def test_what_one_address_can_not_do_another_is_asked_for():
    async with _two() as (first, second, world):
        first.garbled.add("Predict")
        for _ in range(4):
            assert (await world.stub.Classify(ask(), timeout=100)).classes
        first.garbled.clear()
        for fault in (
            (grpc.StatusCode.INTERNAL, "CUDA_ERROR_ECC_UNCORRECTABLE"),
            (grpc.StatusCode.NOT_FOUND, "Servable not found"),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"),
            (grpc.StatusCode.UNAVAILABLE, "gone"),  # the last, since it ejects the server
        ):
            first.refused.clear()
            first.faults["Predict"] = fault
            for _ in range(4):
                assert (await world.stub.Classify(ask(), timeout=100)).classes
            assert first.refused.is_set()
        for fault, reason in (
            ((grpc.StatusCode.INTERNAL, "oops"), "MODEL_SERVER_FAILED"),
            ((grpc.StatusCode.UNAVAILABLE, "gone"), "MODEL_SERVER_UNREACHABLE"),
        ):
            second.faults["Predict"] = first.faults["Predict"] = fault
            assert reason_of(await world.refusal(ask())) == reason


async def test_a_version_on_one_address_only_is_listed_and_answers():
    async with _two() as (first, _, world):
        first.models["resnet50"][2] = Version(make_card())
        async with asyncio.timeout(100):
            while True:
                shown = await world.stub.GetModel(classifier_pb2.GetModelRequest(name="resnet50"), timeout=100)
                if [version.version for version in shown.model.versions if version.ready] == [2, 1]:
                    break
                await first.looks.get()
        for _ in range(4):
            assert (await world.stub.Classify(ask(version=2), timeout=100)).version == 2


class Server:
    """A fake model server as a process, always on the same port."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.port = 0
        self.host = host
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        command = [sys.executable, fake_tfserving.__file__, str(self.port), str(WORK_SECONDS), self.host]
        self._process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout
        address = (await asyncio.wait_for(self._process.stdout.readline(), 100)).decode().strip()
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
        self._ended: asyncio.Queue[int] = asyncio.Queue()
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._call(caller)) for caller in range(callers)]

    async def _call(self, caller: int) -> None:
        while not self._stop.is_set():
            try:
                await self._world.stub.Classify(ask(), timeout=100)
                self.outcomes["answered"] += 1
            except grpc.aio.AioRpcError as error:
                self.outcomes[f"{error.code().name} {error.details()}"] += 1
            self._ended.put_nowait(caller)

    async def more(self, count: int) -> None:
        """Wait until so many further requests have ended."""
        for _ in range(self._ended.qsize() + count):
            await self._ended.get()

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)


@pytest.fixture
def one_name(monkeypatch):
    """A list of the IP addresses that the name `pods` has."""
    addresses, resolve = [], model_servers.look_up

    async def look_up(host: str, port: int) -> list[str]:
        if host != "pods":
            return await resolve(host, port)
        if not addresses:
            raise OSError("no such name")
        return list(addresses)

    monkeypatch.setattr(model_servers, "look_up", look_up)
    return addresses


async def _all_back(log: list[dict[str, object]]) -> None:
    """Wait until each model server that was ejected has come back."""
    async with asyncio.timeout(100):
        while True:
            events = Counter(entry["event"] for entry in log)
            if events["model_server_ejected"] == events["model_server_back"]:
                return
            await asyncio.sleep(0.02)


async def _ejected(log: list[dict[str, object]], address: str, *, since: int) -> None:
    """Wait until a model server has been ejected, in a line after the first ones."""
    async with asyncio.timeout(100):
        while True:
            if {"event": "model_server_ejected", "log_level": "warning", "address": address} in log[since:]:
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("names", [1, 2])
async def test_killing_and_freezing_each_server_in_turn_under_load_loses_no_request(names, one_name, monkeypatch):
    monkeypatch.setattr(catalog, "_PATIENCE", 100.0)  # it is ready once both have answered, or were ejected
    monkeypatch.setattr(admission, "_LONG", 1000.0)  # a machine that stalls is no overload here
    servers = [Server("127.0.0.2"), Server("127.0.0.3")]
    first = await servers[0].start()
    servers[1].port = servers[0].port if names == 1 else 0
    addresses = [first, await servers[1].start()]
    one_name += [server.host for server in servers]
    tfs_address = f"pods:{servers[0].port}" if names == 1 else ",".join(addresses)
    try:
        with capture_logs() as log:
            async with gateway_before(tfs_address=tfs_address, tfs_in_flight=2) as world:
                monkeypatch.setattr(catalog, "_PATIENCE", 0.2)
                load = Load(world, callers=6)
                for server, address in zip(servers, addresses, strict=True):
                    await load.more(30)
                    await _all_back(log)
                    before = len(log)
                    await server.kill()
                    await _ejected(log, address, since=before)
                    await load.more(30)
                    await server.start()
                    await _all_back(log)
                    before = len(log)
                    server.send(signal.SIGSTOP)
                    await _ejected(log, address, since=before)
                    await load.more(30)
                    server.send(signal.SIGCONT)
                    await load.more(30)
                    await _all_back(log)
                await load.stop()
        assert set(load.outcomes) == {"answered"}, [entry for entry in log if entry["event"] != "request_answered"]
    finally:
        for server in servers:
            await server.kill()


async def test_new_addresses_of_a_name_get_work_and_those_that_are_gone_are_forgotten(one_name):
    first, second = FakeTfServing(), FakeTfServing()
    async with first.serving(host="127.0.0.2") as address:
        port = int(address.rpartition(":")[2])
        one_name.append("127.0.0.2")
        settings = {"tfs_address": f"pods:{port}", "resolve_seconds": 0.05}
        async with second.serving(port, host="127.0.0.3"), gateway_before(**settings) as world:
            await world.stub.Classify(ask(), timeout=100)
            assert (len(first.predicts), len(second.predicts)) == (1, 0)
            one_name.append("127.0.0.3")
            async with asyncio.timeout(100):
                while not second.predicts:
                    await world.stub.Classify(ask(), timeout=100)
            one_name.remove("127.0.0.2")
            async with asyncio.timeout(100):
                before = -1
                while len(first.predicts) != before:
                    before = len(first.predicts)
                    for _ in range(10):
                        await world.stub.Classify(ask(), timeout=100)
            one_name.clear()  # nobody can say: the last known ones stay
            await asyncio.sleep(0.2)
            assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_a_name_is_resolved_again_after_each_poll_that_failed(one_name):
    before, after = FakeTfServing(), FakeTfServing()
    one_name.append("127.0.0.2")
    async with after.serving(host="127.0.0.3") as address:
        port = int(address.rpartition(":")[2])
        async with contextlib.AsyncExitStack() as stack:
            async with before.serving(port, host="127.0.0.2"):
                settings = {"tfs_address": f"pods:{port}", "resolve_seconds": 600}
                world = await stack.enter_async_context(gateway_before(**settings))
            await asyncio.wait_for(world.until_health(NOT_SERVING), 100)
            await asyncio.sleep(0.2)  # the name still has the address of the one that is gone
            one_name[:] = ["127.0.0.3"]
            await asyncio.wait_for(world.until_health(SERVING), 10)
            assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_a_name_that_no_one_knows_yet_is_found_when_it_comes(one_name, tfs):
    async with tfs.serving(host="127.0.0.2") as address:
        port = address.rpartition(":")[2]
        async with gateway_before(tfs_address=f"pods:{port}", resolve_seconds=0.05, ready=False) as world:
            assert reason_of(await world.refusal(ask())) == "MODEL_SERVER_UNREACHABLE"
            one_name.append("127.0.0.2")
            await asyncio.wait_for(world.until_health(SERVING), 100)
            assert (await world.stub.Classify(ask(), timeout=100)).classes


@pytest.mark.parametrize("host", ["localhost", "[::1]", "127.0.0.1"])
async def test_every_kind_of_address_is_taken(host, tfs):
    bound = "[::1]" if host == "[::1]" else "127.0.0.1"
    if bound == "[::1]" and not socket.has_ipv6:
        pytest.skip("no IPv6")
    async with contextlib.AsyncExitStack() as stack:
        port = (await stack.enter_async_context(tfs.serving(host=bound))).rpartition(":")[2]
        world = await stack.enter_async_context(gateway_before(tfs_address=f"{host}:{port}"))
        assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_a_unix_socket_is_a_model_server_too(tfs, tmp_path):
    async with tfs.serving_at(f"unix:{tmp_path}/tfs") as address, gateway_before(tfs_address=address) as world:
        assert (await world.stub.Classify(ask(), timeout=100)).classes


class Held:
    """A model server that answers, or fails, when it is let; it keeps the order in which models came."""

    def __init__(self, order: list[str]) -> None:
        self.release = asyncio.Semaphore(0)
        self.fault: Exception | None = None
        self.seconds: list[float] = []
        """The timeout of each call."""
        self._order = order

    async def predict(self, target: Target, images: np.ndarray, *, tta: bool, seconds: float) -> Scores:
        self._order.append(target.model)
        self.seconds.append(seconds)
        await self.release.acquire()
        if self.fault:
            raise self.fault
        return Scores(1, [[1.0]] * len(images), [0.0] * len(images))


class Calls:
    """Calls to model servers at addresses that a test chooses, by a clock that it sets."""

    def __init__(self, *names: str, slots: int = 1, longest: float = 0) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.held: dict[str, Held] = {}
        self.servers = ModelServers(names, connect=self._connect, slots=slots)
        self.batching = Batching(self.servers, longest=longest, clock=lambda: self.now)

    def _connect(self, target: str, _: str) -> Held:
        self.held[target] = Held(self.order)
        return self.held[target]

    async def start(self, model: str, views: int = 1) -> "asyncio.Task[Scores]":
        part = Part(np.zeros((views, 2, 2, 3), np.uint8), Budget(1000, lambda: self.now))
        task = asyncio.create_task(self.batching.predict(Target(model), part))
        await _settled()
        return task

    async def end(self, times: int = 1) -> None:
        for _ in range(times):
            for held in self.held.values():
                held.release.release()
            await _settled()


async def _settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_calls_wait_in_the_order_of_their_cost_and_the_dear_ones_are_not_overtaken_for_ever():
    calls = Calls("127.0.0.1:1")
    await calls.servers.resolve()
    calls.batching.costs.note("dear", 1, 1.0)
    calls.batching.costs.note("cheap", 1, 0.01)
    tasks = [await calls.start("dear"), await calls.start("dear"), await calls.start("cheap")]
    calls.now = 3.9  # within four times the dear one's second
    tasks.append(await calls.start("cheap"))
    calls.now = 4.1
    tasks.append(await calls.start("cheap"))
    assert (calls.order, calls.batching.waiting) == (["dear"], 4)
    await calls.end(5)
    assert calls.order == ["dear", "cheap", "cheap", "dear", "cheap"]
    await asyncio.gather(*tasks)
    assert (calls.batching.waiting, calls.servers.all[0].in_flight) == (0, 0)


async def test_a_call_that_is_given_up_while_it_waits_leaves_no_slot_behind():
    calls = Calls("127.0.0.1:1")
    await calls.servers.resolve()
    first, second, third = [await calls.start("m") for _ in range(3)]
    second.cancel()
    await _settled()
    await calls.end()
    third.cancel()  # its slot has come
    await asyncio.gather(second, third, return_exceptions=True)
    assert (calls.servers.all[0].in_flight, calls.batching.waiting) == (0, 0)
    assert (await first).views == 1


@pytest.mark.usefixtures("patient")
async def test_calls_near_their_end_are_counted_and_the_bound_follows_the_servers_that_answer():
    calls = Calls("127.0.0.1:1", "127.0.0.1:2", slots=2)
    await calls.servers.resolve()
    assert calls.servers.slots == 4
    calls.batching.costs.note("m", 1, 1.0)
    tasks = [await calls.start("m") for _ in range(3)]
    assert calls.batching.free_capacity("m") == 1
    calls.now = 0.7
    assert calls.batching.free_capacity("m") == 4
    calls.servers.all[0].alive = False
    assert calls.servers.slots == 2
    calls.held["ipv4:127.0.0.1:1"].release.release()
    await calls.end(3)
    await asyncio.gather(*tasks)
    assert (calls.batching.free_capacity("m"), sum(server.calls for server in calls.servers.all)) == (2, 3)


@pytest.fixture
def late_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server is late when it does not answer at once."""
    monkeypatch.setattr(batching, "_LATE", 0.0)
    monkeypatch.setattr(batching, "_LATE_TIMES", 0.0)


async def _asking_both() -> tuple[Calls, Held, Held, "asyncio.Task[Scores]"]:
    """Let a request be sent to one of two servers, and to the other when the first one is late."""
    calls = Calls("127.0.0.1:1", "127.0.0.1:2", slots=2)
    await calls.servers.resolve()
    task = await calls.start("m")
    first, second = calls.held.values()
    assert (len(first.seconds), len(second.seconds)) == (1, 1)
    assert min(first.seconds + second.seconds) > 999  # each has what is left of the budget
    return calls, first, second, task


@pytest.mark.usefixtures("late_at_once")
@pytest.mark.parametrize("late_one_answers", [True, False])
async def test_of_a_late_server_and_another_the_first_answer_counts(late_one_answers):
    calls, first, second, task = await _asking_both()
    assert [server.alive for server in calls.servers.all] == [True, True]
    (first if late_one_answers else second).release.release()
    assert (await asyncio.wait_for(task, 100)).views == 1
    await _settled()
    assert [server.alive for server in calls.servers.all] == [late_one_answers, True]
    assert [(server.in_flight, server.retried) for server in calls.servers.all] == [(0, 1), (0, 0)]


@pytest.mark.usefixtures("late_at_once")
async def test_a_server_that_answers_polls_but_no_calls_is_tried_again_ever_more_seldom(monkeypatch):
    monkeypatch.setattr(model_servers, "_SHUNNED", 1000.0)
    monkeypatch.setattr(model_servers, "_MOST_SHUNNED", 3000.0)
    calls, first, second, task = await _asking_both()
    server, loop = calls.servers.all[0], asyncio.get_running_loop()
    for seconds in (1000, 2000, 3000, 3000):
        second.release.release()
        await asyncio.wait_for(task, 100)
        await _settled()
        assert server.shunned_until - loop.time() == pytest.approx(seconds, abs=100)
        calls.servers.note_look(server, None)
        assert not server.alive
        server.shunned_until = loop.time()
        calls.servers.note_look(server, None)
        assert server.alive
        task = await calls.start("m")
    first.release.release()
    await asyncio.wait_for(task, 100)
    assert (server.alive, server.late) == (True, 0)


@pytest.mark.usefixtures("late_at_once")
@pytest.mark.parametrize("fault", [ModelServerUnreachableError, ModelServerFailedError, ServableNotFoundError])
async def test_a_late_server_may_answer_after_the_other_one_has_failed(fault):
    _, first, second, task = await _asking_both()
    second.fault = fault()
    second.release.release()
    await _settled()
    assert not task.done()
    first.release.release()
    assert (await asyncio.wait_for(task, 100)).views == 1


@pytest.mark.usefixtures("late_at_once")
@pytest.mark.parametrize("late_one", ["answers", "fails"])
async def test_a_late_server_is_waited_for_while_the_other_one_is_full_and_is_tried_again(late_one, monkeypatch):
    monkeypatch.setattr(batching, "_BACK_OFF", 1e-9)
    calls, first, second, task = await _asking_both()
    second.fault = ModelServerBusyError()
    async with asyncio.timeout(100):
        while len(second.seconds) < 4:
            second.release.release()
            await asyncio.sleep(0)
    assert (len(first.seconds), calls.servers.all[0].in_flight) == (1, 1)
    if late_one == "fails":
        first.fault, second.fault = ModelServerUnreachableError(), None
        second.release.release()
    first.release.release()
    assert (await asyncio.wait_for(task, 100)).views == 1
    asked = len(second.seconds)
    await asyncio.sleep(0.01)
    assert [server.in_flight for server in calls.servers.all] == [0, 0]
    assert (len(first.seconds), len(second.seconds)) == (1, asked)


@pytest.mark.usefixtures("late_at_once")
@pytest.mark.parametrize("refuses", [0, 1])
async def test_a_server_that_hangs_and_one_that_refuses_are_unavailable_at_the_end_of_the_budget(refuses):
    _, *both, task = await _asking_both()
    both[refuses].fault, both[1 - refuses].fault = ModelServerUnreachableError(), BudgetSpentError("waiting")
    both[refuses].release.release()
    await _settled()
    assert not task.done()
    both[1 - refuses].release.release()
    with pytest.raises(ModelServerUnreachableError):
        await asyncio.wait_for(task, 100)


@pytest.mark.usefixtures("late_at_once")
async def test_a_sole_server_that_is_slow_is_waited_for_and_not_ejected():
    calls = Calls("127.0.0.1:1")
    await calls.servers.resolve()
    first, second = await calls.start("m"), await calls.start("m")
    await calls.end(2)
    assert (await first).views == (await second).views == 1
    calls.held["ipv4:127.0.0.1:1"].fault = BudgetSpentError("waiting")
    late = await calls.start("m")
    await calls.end()
    with pytest.raises(BudgetSpentError):
        await late
    assert calls.servers.all[0].alive


@pytest.mark.usefixtures("late_at_once")
async def test_a_request_that_waits_for_a_slot_of_another_server_is_answered_by_the_late_one():
    calls = Calls("127.0.0.1:1", "127.0.0.1:2")
    await calls.servers.resolve()
    tasks = await asyncio.gather(calls.start("m"), calls.start("m"))
    first, second = calls.held.values()
    assert (len(first.seconds), len(second.seconds), calls.batching.waiting) == (1, 1, 2)
    first.release.release()
    assert (await asyncio.wait_for(tasks[0], 100)).views == 1
    second.release.release()
    assert (await asyncio.wait_for(tasks[1], 100)).views == 1
    await _settled()
    assert (calls.batching.waiting, [server.in_flight for server in calls.servers.all]) == (0, [0, 0])


@pytest.mark.usefixtures("late_at_once")
async def test_a_request_whose_server_is_late_waits_for_no_fuller_batch():
    calls = Calls("127.0.0.1:1", "127.0.0.1:2", longest=1000)
    await calls.servers.resolve()
    calls.batching.costs.note("m", 1, 1.0)
    await calls.start("m")
    assert [len(held.seconds) for held in calls.held.values()] == [1, 1]


@pytest.mark.usefixtures("patient")
async def test_calls_of_a_server_that_was_ejected_hold_up_nobody():
    calls = Calls("127.0.0.1:1", "127.0.0.1:2", longest=1000)
    await calls.servers.resolve()
    calls.batching.costs.note("m", 1, 1.0)
    await calls.start("m")
    calls.servers.mark(calls.servers.all[0], alive=False)
    assert calls.batching.free_capacity("other") == 1
    await calls.start("m")
    assert [len(held.seconds) for held in calls.held.values()] == [1, 1]


@pytest.mark.usefixtures("patient")
async def test_a_server_that_refuses_a_call_is_ejected_before_any_poll():
    calls = Calls("127.0.0.1:1", "127.0.0.1:2")
    await calls.servers.resolve()
    task = await calls.start("m")
    (refusing,) = (held for held in calls.held.values() if held.seconds)
    refusing.fault = ModelServerUnreachableError()
    await calls.end()
    assert (await task).views == 1
    assert sorted(server.alive for server in calls.servers.all) == [False, True]
    for _ in range(2):
        await asyncio.gather(await calls.start("m"), calls.end())
    assert len(refusing.seconds) == 1


async def test_while_no_server_answers_their_slots_are_those_of_all():
    calls = Calls("127.0.0.1:1", "127.0.0.1:2", slots=2)
    await calls.servers.resolve()
    for server in calls.servers.all:
        calls.servers.mark(server, alive=False)
    assert (calls.servers.slots, calls.batching.free_capacity("m")) == (4, 4)


async def test_one_that_is_frozen_and_one_that_is_slow_answer_once_the_slow_one_does(monkeypatch):
    monkeypatch.setattr(batching, "_LATE", 0.01)
    async with _two(poll_seconds=600) as (frozen, slow, world):
        for _ in range(3):  # whichever is called first, and when both were late before
            both_have_it = asyncio.Event()

            async def freeze(_: object, both_have_it: asyncio.Event = both_have_it) -> None:
                both_have_it.set()
                await asyncio.Event().wait()

            async def work(_: object, both_have_it: asyncio.Event = both_have_it) -> None:
                await both_have_it.wait()

            frozen.on_predict, slow.on_predict = freeze, work
            assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_without_any_address_there_is_nobody_to_wait_for():
    calls = Calls()
    await calls.servers.resolve()
    with pytest.raises(ModelServerUnreachableError):
        await (await calls.start("m"))


async def test_a_cheap_request_does_not_wait_for_all_views_of_a_dear_one(running, tfs, costs, entered):
    costs.note("resnet50", 1, 0.03)
    costs.note("mobilenet_v3_small", 1, 0.001)
    costs.note = lambda *_, **__: None  # whatever calls take here
    arrived = asyncio.Event()

    async def work(_: object) -> None:
        arrived.set()
        for _ in range(2):  # both are in the queue or sent
            await entered.acquire()
        tfs.on_predict = None

    async with running(tfs_in_flight=1) as world:
        tfs.on_predict = work
        dear = world.stub.Classify(ask(tta=classifier_pb2.TTA_MODE_FULL), timeout=100)
        await asyncio.wait_for(arrived.wait(), 100)
        assert (await world.stub.Classify(ask(model="mobilenet_v3_small"), timeout=100)).classes
        answer = await dear
    asked = [(request.model_spec.name, len(pixels_of(request))) for request in tfs.predicts]
    assert asked == [("resnet50", 5), ("mobilenet_v3_small", 1), ("resnet50", 5)]
    assert answer.views_used == 10


async def test_a_call_on_a_channel_that_was_just_closed_counts_as_unreachable_and_is_retried_elsewhere():
    wire = TfServing("ipv4:127.0.0.1:1", host="localhost", tls=None, interceptors=())
    await wire.close(None)
    with pytest.raises(ModelServerUnreachableError):
        await wire.versions("resnet50", seconds=5)
    with pytest.raises(ModelServerUnreachableError):
        await wire.predict(Target("resnet50"), np.zeros((1, 2, 2, 3), np.uint8), tta=False, seconds=5)


class Told:
    """A model server that says which versions it has, once it is let."""

    def __init__(self, *versions: int) -> None:
        self.let = asyncio.Event()
        self.over = asyncio.Event()
        """Set when the time of a poll is."""
        self.versions_had = versions
        self.asked = 0

    async def versions(self, _: str, *, seconds: float) -> list[serving_pb2.ModelVersionStatus]:
        self.asked += 1
        ends = [asyncio.ensure_future(event.wait()) for event in (self.let, self.over)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if not self.let.is_set():
            raise BudgetSpentError("waiting for the model server")
        return [serving_pb2.ModelVersionStatus(version=number, state=AVAILABLE) for number in self.versions_had]

    async def describe(self, model: str, *, version: int, seconds: float) -> bytes:
        await self.let.wait()
        return render_card(make_card(model)).encode()

    async def labelled(self, model: str, *, label: str, seconds: float) -> int:
        await asyncio.wait_for(self.let.wait(), seconds)
        return self.versions_had[0]


async def _catalog(*wires: Told) -> Catalog:
    found = dict(zip(("ipv4:127.0.0.1:1", "ipv4:127.0.0.1:2"), wires, strict=False))
    names = [target.removeprefix("ipv4:") for target in found]
    servers = ModelServers(names, connect=lambda target, _: found[target], slots=1)
    await servers.resolve()
    return Catalog(servers, Config(models=["resnet50"], poll_timeout_seconds=600))


def _numbers(catalog: Catalog) -> list[int]:
    return [version.number for version in catalog.models["resnet50"].versions]


@pytest.mark.parametrize("frozen_before", [True, False])
async def test_a_frozen_address_delays_no_poll_of_the_others_and_counts_when_it_answers(frozen_before, monkeypatch):
    monkeypatch.setattr(catalog, "_PATIENCE", 100.0)
    frozen, sound = Told(1, 2), Told(2)
    sound.let.set()
    polled = await _catalog(frozen, sound)
    if not frozen_before:
        frozen.let.set()
        await polled.poll()
        assert _numbers(polled) == [2, 1]
        frozen.let.clear()
    monkeypatch.setattr(catalog, "_PATIENCE", 0.02)
    asked = sound.asked
    async with asyncio.timeout(100):  # no poll of the frozen one ends
        for number in (3, 4, 5):
            sound.versions_had = (number,)
            while number not in _numbers(polled):  # a busy machine answers after the next poll has begun
                await polled.poll()
            assert polled.ready
    assert sound.asked - asked >= 3
    assert frozen.asked == (1 if frozen_before else 2)
    frozen.let.set()
    monkeypatch.setattr(catalog, "_PATIENCE", 100.0)
    await polled.poll()
    assert _numbers(polled) == [5, 2, 1]


async def test_what_a_frozen_address_had_is_forgotten_when_it_was_late_three_times(patient):
    frozen, sound = Told(1), Told(2)
    frozen.let.set()
    sound.let.set()
    polled = await _catalog(frozen, sound)
    await polled.poll()
    frozen.let.clear()
    frozen.over.set()
    for _ in range(2):
        await polled.poll()
        assert _numbers(polled) == [2, 1]
    await polled.poll()
    assert _numbers(polled) == [2]
    sound.let.clear()
    sound.over.set()
    for number in range(3):
        await polled.poll()
        assert polled.models["resnet50"].reachable == (number < 2)


async def test_a_poll_waits_for_one_answer_at_least(monkeypatch):
    monkeypatch.setattr(catalog, "_PATIENCE", 0.0)
    slow = Told(1)
    polled = await _catalog(slow)
    polling = asyncio.create_task(polled.poll())
    await asyncio.sleep(0.05)
    assert not polling.done()
    slow.let.set()
    await polling
    assert polled.ready


async def test_a_sole_server_that_is_late_three_times_in_a_row_counts_as_gone():
    alone = Told(1)
    alone.let.set()
    catalog = await _catalog(alone)
    await catalog.poll()
    alone.let.clear()
    alone.over.set()
    for _ in range(3):
        assert catalog.models["resnet50"].reachable
        assert catalog._servers.all[0].alive
        await catalog.poll()
    assert not catalog.models["resnet50"].reachable
    assert not catalog._servers.all[0].alive


async def test_one_of_two_servers_is_ejected_when_it_is_late_once(patient):
    first, second = Told(1), Told(1)
    first.over.set()
    second.let.set()
    catalog = await _catalog(first, second)
    await catalog.poll()
    assert [server.alive for server in catalog._servers.all] == [False, True]


async def test_a_name_that_is_given_twice_is_one_server():
    servers = ModelServers(["127.0.0.1:1", "127.0.0.1:1"], connect=lambda *_: None, slots=3)
    await servers.resolve()
    assert ([server.address for server in servers.all], servers.slots) == (["127.0.0.1:1"], 3)


async def test_a_name_whose_lookup_hangs_costs_the_others_nothing_and_one_thread(monkeypatch):
    monkeypatch.setattr(model_servers, "_LOOKUP_SECONDS", 0.01)
    lookups, answers = [], asyncio.Event()

    async def lookup(host: str, _: int) -> list[str]:
        lookups.append(host)
        if host == "hangs":
            await answers.wait()
        return ["10.0.0.1" if host == "hangs" else "10.0.0.2"]

    monkeypatch.setattr(model_servers, "look_up", lookup)
    servers = ModelServers(["hangs:1", "answers:1"], connect=lambda *_: None, slots=1)
    for _ in range(3):
        await servers.resolve()
    assert [server.address for server in servers.all] == ["10.0.0.2:1"]
    assert lookups.count("hangs") == 1
    answers.set()
    monkeypatch.setattr(model_servers, "_LOOKUP_SECONDS", 100)
    await servers.resolve()
    assert {server.address for server in servers.all} == {"10.0.0.1:1", "10.0.0.2:1"}


async def test_a_name_that_can_be_none_costs_the_others_nothing():
    servers = ModelServers(["a..b:1", f"{'x' * 64}:1", "127.0.0.1:2"], connect=lambda *_: None, slots=1)
    await servers.resolve()
    assert [server.address for server in servers.all] == ["127.0.0.1:2"]


class Closed:
    """A connection that is closed when its address is gone."""

    async def close(self, grace: float | None) -> None:
        pass


async def test_names_are_resolved_again_when_a_server_failed(one_name):
    one_name.append("10.0.0.1")
    servers = ModelServers(["pods:1"], connect=lambda *_: None, slots=1)
    await servers.resolve()
    one_name[:] = ["10.0.0.2"]
    servers.mark(servers.all[0], alive=True)  # it did not fail
    await _settled()
    assert [server.address for server in servers.all] == ["10.0.0.1:1"]
    servers.all[0].wire = Closed()
    servers.mark(servers.all[0], alive=False)
    await _settled()
    assert [server.address for server in servers.all] == ["10.0.0.2:1"]
