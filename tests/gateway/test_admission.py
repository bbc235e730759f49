"""Overload: a bounded number is worked on, a bounded number waits in order, the rest is told when to try again."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs

from dermserve.gateway import admission
from dermserve.gateway.admission import HeldBytes, Place, Queue
from dermserve.gateway.budget import Budget, Costs
from dermserve.gateway.errors import OverloadedError
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc
from tests.gateway.gateways import SERVING, World, ask, reason_of, status_of


def _budget(seconds: float = 1000.0) -> Budget:
    return Budget(time.monotonic() + seconds, time.monotonic)


def Gate(*, most=0, in_overload=0, free=lambda: -1000, clock):  # noqa: N802
    """A queue in front of so much free capacity; without any, one request is in progress."""
    return Queue(most, in_overload, free_capacity=free, held=HeldBytes(10**9), clock=clock)


@contextlib.asynccontextmanager
async def entered(gate: Queue, size: int, budget: Budget) -> AsyncIterator[Place]:
    place = gate.enter(size, budget)
    try:
        await place.wait()
        yield place
    finally:
        gate.leave(place)


class Passage:
    """A task that passes a gate and stays until it is told to go."""

    def __init__(
        self, gate: Queue, order: list[str] | None = None, name: str = "", budget: Budget | None = None
    ) -> None:
        self.inside, self.leave = asyncio.Event(), asyncio.Event()
        self._order, self._name = order, name
        self.task = asyncio.create_task(self._pass(gate, budget or _budget()))

    async def _pass(self, gate: Queue, budget: Budget) -> None:
        async with entered(gate, 0, budget):
            if self._order is not None:
                self._order.append(self._name)
            self.inside.set()
            await self.leave.wait()


async def _settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_queue_is_first_come_first_served():
    gate, order = Gate(most=100, clock=time.monotonic), []
    passages = []
    for name in "abcd":
        passages.append(Passage(gate, order, name))
        await _settled()
    for passage in passages:
        await asyncio.wait_for(passage.inside.wait(), 100)
        assert gate.working == 1
        passage.leave.set()
    await asyncio.gather(*(passage.task for passage in passages))
    assert order == list("abcd")
    assert (gate.working, gate.waiting) == (0, 0)


async def test_beyond_the_queue_is_refused_at_once_with_a_time_to_retry():
    gate = Gate(most=1, in_overload=1, clock=time.monotonic)
    first, second = Passage(gate), Passage(gate)
    await _settled()
    with pytest.raises(OverloadedError) as refused:
        gate.enter(0, _budget())  # before there is anything to await
    assert refused.value.retry_after > 0
    for passage in (first, second):
        passage.leave.set()
        await passage.task
    async with entered(gate, 0, _budget()):
        pass


async def _refused(gate: Queue) -> OverloadedError:
    with pytest.raises(OverloadedError) as refused:
        async with entered(gate, 0, _budget()):
            pass
    return refused.value


async def test_a_burst_may_wait_until_one_has_to_be_refused_and_then_the_queue_is_short_for_a_while():
    now = 0.0
    gate = Gate(most=4, in_overload=1, clock=lambda: now)
    passages = [Passage(gate) for _ in range(5)]
    await _settled()
    assert (gate.working, gate.waiting) == (1, 4)
    await _refused(gate)
    assert (gate.working, gate.waiting) == (1, 1)
    for late in passages[2:]:
        with pytest.raises(OverloadedError) as sent_away:
            await late.task
        assert sent_away.value.retry_after > 0
    now = 0.9
    await _refused(gate)
    now = 1.5  # a second after the first refusal, but not after the last
    await _refused(gate)
    now = 2.6
    more = [Passage(gate) for _ in range(3)]
    await _settled()
    assert (gate.working, gate.waiting) == (1, 4)
    for passage in (*passages[:2], *more):
        await asyncio.wait_for(passage.inside.wait(), 100)
        passage.leave.set()
        await passage.task
    assert (gate.working, gate.waiting) == (0, 0)


async def test_a_burst_that_is_cut_leaves_no_place_behind_however_its_callers_leave():
    gate = Gate(most=3, clock=time.monotonic)
    first, *waiting = [Passage(gate) for _ in range(4)]
    await _settled()
    await _refused(gate)
    for passage in waiting:  # sent away and cancelled in the same moment
        passage.task.cancel()
    await asyncio.gather(*(passage.task for passage in waiting), return_exceptions=True)
    assert (gate.working, gate.waiting) == (1, 0)
    first.leave.set()
    await first.task
    assert gate.working == 0


async def test_a_burst_is_no_more_than_can_be_answered_in_three_seconds():
    now = 0.0
    gate = Gate(most=64, free=lambda: 0, clock=lambda: now)
    async with entered(gate, 0, Budget(100, lambda: now)):
        now = 1.5  # two in one and a half seconds: four in three
    passages = [Passage(gate, budget=Budget(100, lambda: now)) for _ in range(6)]
    await _settled()
    assert (gate.working, gate.waiting) == (2, 4)
    await _refused(gate)
    assert (gate.working, gate.waiting) == (2, 0)
    for passage in passages:
        passage.leave.set()
    await asyncio.gather(*(passage.task for passage in passages), return_exceptions=True)
    assert gate.working == 0


async def test_what_is_prepared_follows_the_free_capacity_and_two_more_but_under_overload():
    now, free = 0.0, 1
    gate = Gate(most=1, free=lambda: free, clock=lambda: now)
    passages = [Passage(gate) for _ in range(4)]
    await _settled()
    assert (gate.working, gate.waiting) == (3, 1)
    await _refused(gate)  # from now on only for the free capacity
    for passage in passages[:2]:
        passage.leave.set()
        await passage.task
    assert (gate.working, gate.is_free) == (1, False)
    await _refused(gate)
    free = 2
    passages.append(Passage(gate))
    await _settled()
    assert (gate.working, gate.is_free) == (2, False)
    free = -5  # more wait for slots than there are
    assert not gate.is_free
    free, now = 0, 1.1
    assert not gate.is_free  # two are prepared
    passages[2].leave.set()
    await passages[2].task
    assert gate.is_free  # the overload is over
    for passage in passages:
        passage.leave.set()
    await asyncio.gather(*(passage.task for passage in passages), return_exceptions=True)
    assert gate.working == 0


async def test_requests_that_the_model_servers_have_leave_room_for_others_to_be_prepared():
    free = 0
    gate = Gate(free=lambda: free, clock=time.monotonic)
    async with entered(gate, 0, _budget()) as first, entered(gate, 0, _budget()) as second:
        assert not gate.is_free
        first.prepared()
        first.prepared()  # each stage may say so
        assert gate.is_free
        second.prepared()
    assert (gate.working, gate.is_free) == (0, True)


async def test_a_request_that_takes_long_to_prepare_can_let_those_that_wait_pass():
    gate = Gate(most=1, free=lambda: -1, clock=time.monotonic)
    async with entered(gate, 0, _budget()) as first:
        passage = Passage(gate)
        await _settled()
        assert (gate.working, gate.waiting) == (1, 1)
        gate.set_aside(first)
        await asyncio.wait_for(passage.inside.wait(), 100)
        passage.leave.set()
        await passage.task
    assert (gate.working, gate.is_free) == (0, True)


async def test_a_model_gets_on_whatever_others_keep_the_model_servers_at():
    gate = Gate(free=lambda: -100, clock=time.monotonic)
    async with entered(gate, 0, _budget()):
        assert not gate.is_free
    assert gate.is_free


async def test_photos_held_are_bounded_by_their_bytes_however_they_leave():
    held = HeldBytes(10)
    gate = Queue(5, 5, free_capacity=lambda: -100, held=held, clock=time.monotonic)
    async with entered(gate, 6, _budget()):
        waiting = asyncio.create_task(_pass(entered(gate, 4, _budget())))
        await _settled()
        assert (held.held, gate.waiting) == (10, 1)
        with pytest.raises(OverloadedError):
            gate.enter(1, _budget())
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert held.held == 6
    assert held.held == 0
    async with entered(gate, 11, _budget()):
        assert held.held == 11


async def _pass(admitted):
    async with admitted:
        pass


async def test_after_an_overload_those_who_wait_pass_before_those_who_come():
    now, order = 0.0, []
    gate = Gate(most=1, in_overload=1, free=lambda: 1, clock=lambda: now)
    passages = [Passage(gate, order, name) for name in "abcd"]
    await _settled()
    await _refused(gate)
    passages[0].leave.set()
    await passages[0].task
    await _settled()
    assert (gate.working, gate.waiting, gate.is_free) == (2, 1, False)
    now = 1.1
    passages.append(Passage(gate, order, "e"))
    await _settled()
    assert (gate.working, gate.waiting) == (3, 1)
    for passage in passages:
        passage.leave.set()
    await asyncio.gather(*(passage.task for passage in passages))
    assert order == list("abcde")
    assert gate.working == 0


async def test_who_gives_up_waiting_gives_its_place_to_the_next():
    gate = Gate(most=100, clock=time.monotonic)
    first = Passage(gate)
    await first.inside.wait()
    impatient = Passage(gate)
    cancelled, last = Passage(gate), Passage(gate)
    await _settled()
    cancelled.task.cancel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(impatient.task, 0.05)
    assert gate.waiting == 1
    first.leave.set()
    await asyncio.wait_for(last.inside.wait(), 100)
    last.leave.set()
    await last.task
    assert gate.working == 0


async def test_a_turn_that_comes_in_the_moment_its_owner_is_cancelled_is_not_lost():
    gate = Gate(most=100, clock=time.monotonic)
    first, second, third = Passage(gate), Passage(gate), Passage(gate)
    await _settled()
    first.leave.set()
    await first.task  # the turn of the second is set, but it has not run yet
    second.task.cancel()
    await asyncio.wait_for(third.inside.wait(), 100)
    third.leave.set()
    await asyncio.gather(first.task, second.task, third.task, return_exceptions=True)
    assert gate.working == 0


async def test_a_wait_longer_than_the_budget_is_refused_on_arrival():
    now = 0.0
    gate = Gate(most=100, clock=lambda: now)
    async with entered(gate, 0, Budget(100, lambda: now)):
        now = 10.0
    holder = Passage(gate, budget=Budget(1000, lambda: now))
    await holder.inside.wait()
    with pytest.raises(OverloadedError) as refused:
        async with entered(gate, 0, Budget(19, lambda: now)):
            pass
    assert refused.value.retry_after == pytest.approx(10)
    holder.leave.set()
    await holder.task


async def test_grpc_cancels_no_call_of_a_flood_before_the_gateway_sees_it(running):
    async with running() as world:
        check = health_pb2_grpc.HealthStub(world.channel).Check
        calls = [check(health_pb2.HealthCheckRequest(), timeout=200) for _ in range(2500)]
        assert {answer.status for answer in await asyncio.gather(*calls)} == {SERVING}


async def test_ten_times_too_many_requests_are_answered_or_refused_and_health_stays_green(running, tfs):
    full, release = asyncio.Event(), asyncio.Event()

    async def hold(_: object) -> None:
        if tfs.in_flight == 2:
            full.set()
        await release.wait()

    async with running(tfs_in_flight=2, queue=20) as world:
        tfs.on_predict = hold
        calls = [world.stub.Classify(ask(), timeout=100) for _ in range(80)]
        gathering = asyncio.gather(*calls, return_exceptions=True)
        assert await world.health() == SERVING
        listed = await world.stub.ListModels(classifier_pb2.ListModelsRequest(), timeout=100)
        assert listed.models
        await asyncio.wait([asyncio.ensure_future(call.code()) for call in calls], return_when=asyncio.FIRST_COMPLETED)
        await full.wait()
        release.set()
        results = await gathering
        refused = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        answered = [result for result in results if not isinstance(result, Exception)]
        assert len(answered) >= 2  # those that the model server had
        assert refused
        assert len(refused) + len(answered) == 80
        for error in refused:
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
            retry = error_details_pb2.RetryInfo()
            assert status_of(error).details[1].Unpack(retry)
            assert retry.retry_delay.ToTimedelta().total_seconds() > 0
        assert tfs.most_in_flight == 2
        assert (await world.stub.Classify(ask(), timeout=100)).classes


FEW = {"tfs_in_flight": 1, "batch_seconds": 0, "queue": 0}


async def _fill(world: World, arrived: asyncio.Event) -> "asyncio.Future[list[classifier_pb2.ClassifyResponse]]":
    """Send as many requests as are admitted."""
    first = world.stub.Classify(ask(), timeout=100)
    await asyncio.wait_for(arrived.wait(), 100)
    working = asyncio.gather(first, *(world.stub.Classify(ask(), timeout=100) for _ in range(3)))
    assert await world.health() == SERVING  # comes after them on the same connection
    return working


@contextlib.asynccontextmanager
async def _full(running, tfs, release: asyncio.Event | None = None) -> AsyncIterator[World]:
    """Run a gateway that works on all it can: one call, which counts as about to end, and three more requests."""
    arrived, release = asyncio.Event(), release or asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await release.wait()

    async with running(**FEW) as world:
        tfs.on_predict = hold
        working = await _fill(world, arrived)
        yield world
        release.set()
        assert all(answer.classes for answer in await working)


async def test_of_the_lines_of_an_overload_one_a_second_is_written_and_none_of_other_refusals_is_left_out(running, tfs):
    async with _full(running, tfs) as world:
        with capture_logs() as log:
            started = time.monotonic()
            for _ in range(10):
                assert reason_of(await world.refusal(ask())) == "OVERLOADED"
            for _ in range(2):
                assert reason_of(await world.refusal(ask(model="nobody"))) == "MODEL_NOT_FOUND"
            took = time.monotonic() - started
    lines = [entry for entry in log if entry.get("reason") == "OVERLOADED"]
    assert 1 <= len(lines) <= 1 + took
    assert [entry.get("reason") for entry in log].count("MODEL_NOT_FOUND") == 2


async def test_a_grpc_client_that_retries_comes_back_when_it_was_told_to(running, tfs, monkeypatch):
    monkeypatch.setattr(admission, "_LEAST_RETRY", 1.0)  # five attempts are enough for a busy machine
    policy = {"maxAttempts": 5, "initialBackoff": "1000s", "maxBackoff": "1000s", "backoffMultiplier": 1}
    policy["retryableStatusCodes"] = ["RESOURCE_EXHAUSTED"]
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await release.wait()

    options = [("grpc.service_config", config), ("grpc.use_local_subchannel_pool", 1)]
    async with running(**FEW) as world:
        tfs.on_predict = hold
        working = await _fill(world, arrived)
        async with grpc.aio.insecure_channel(world.gateway.address, options=options) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            with capture_logs() as log:
                again = asyncio.ensure_future(stub.Classify(ask(), timeout=100))
                while not log:  # noqa: ASYNC110  # the log has no event to wait for
                    await asyncio.sleep(0)
                release.set()
                await working
                assert (await again).classes  # long before the policy's own 1000 s
                large = stub.Classify(ask(bytes(20_000_001)), timeout=100)
                with pytest.raises(grpc.aio.AioRpcError):
                    await large
    reasons = [entry.get("reason") for entry in log]
    assert "OVERLOADED" in reasons
    assert reasons.count("IMAGE_TOO_LARGE") == 1


async def test_a_full_queue_of_one_model_is_no_queue_of_another(running, tfs):
    release = asyncio.Event()
    async with _full(running, tfs, release) as world:
        assert reason_of(await world.refusal(ask())) == "OVERLOADED"
        other = asyncio.ensure_future(world.stub.Classify(ask(model="mobilenet_v3_small"), timeout=100))
        assert await world.health() == SERVING  # comes after it on the same connection
        release.set()
        assert (await other).classes


async def test_an_overload_refuses_new_photos_of_streams_and_keeps_those_that_wait(running, tfs):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await release.wait()

    async with running(tfs_in_flight=1, batch_seconds=0, stream_queue=2, stream_at_once=8) as world:
        tfs.on_predict = hold
        stream = world.stub.ClassifyStream(timeout=100)
        for number in range(8):
            await stream.write(classifier_pb2.ClassifyStreamRequest(id=str(number), request=ask()))
            await asyncio.wait_for(arrived.wait(), 100)
        refused = [await stream.read() for _ in range(2)]  # four are in progress, and two wait
        assert [(answer.id, reason_of(answer.error)) for answer in refused] == [
            ("6", "OVERLOADED"),
            ("7", "OVERLOADED"),
        ]
        release.set()
        answered = [await stream.read() for _ in range(6)]
        assert {answer.id for answer in answered if answer.response.classes} == set("012345")


async def test_a_cancelled_request_frees_its_place(running, tfs):
    arrived = asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with running(**FEW) as world:
        tfs.on_predict = hold
        working = await _fill(world, arrived)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        tfs.on_predict = None
        answer = None
        while answer is None:  # the cancellation travels on its own: refused until it has arrived
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await world.stub.Classify(ask(), timeout=100)


async def test_a_full_model_server_is_asked_again_within_the_budget(running, tfs):
    async with running() as world:
        tfs.faults["Predict"] = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        asking = asyncio.ensure_future(world.stub.Classify(ask(), timeout=100))
        await asyncio.wait_for(tfs.refused.wait(), 100)
        del tfs.faults["Predict"]
        assert (await asking).classes


def test_costs_fit_as_many_views_as_the_time_left_allows():
    costs = Costs()
    assert costs.fit("m", 10, left=0.001) == 10  # nothing known: try
    costs.note("m", 10, 1.0)
    assert costs.fit("m", 10, left=2.0) == 10
    assert costs.fit("m", 10, left=0.5) == 4
    assert costs.fit("m", 10, left=0.06) == 1
    assert costs.fit("m", 10, left=0.01) == 0
    assert costs.expect("other", 1) == 0.0


def test_a_refusal_fades_what_it_was_based_on():
    costs = Costs()
    costs.note("m", 1, 10.0)
    refusals = 0
    while not costs.fit("m", 1, left=1.0):
        refusals += 1
    assert 10 < refusals < 200


def test_an_answer_that_did_not_come_teaches_at_least_how_long_it_was_waited_for():
    costs = Costs()
    costs.note("m", 2, 0.1)
    costs.note("m", 2, 2.0, late=True)
    assert (costs.fit("m", 2, left=2.0), costs.fit("m", 2, left=3.0)) == (1, 2)
