"""What photos take in memory before and after they are in progress."""

import asyncio
import collections
import contextlib
import gc

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dermserve.gateway import admission
from dermserve.gateway.classify import PhotoRequest
from dermserve.gateway.errors import OverloadedError
from dermserve.v1 import classifier_pb2
from tests.gateway.gateways import PHOTO, ask, reason_of

TOO_MUCH = 10**15


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> collections.deque[int]:
    """What the next looks at the memory find; 0 when empty."""
    found: collections.deque[int] = collections.deque()
    monkeypatch.setattr(admission, "resident_bytes", lambda: found.popleft() if found else 0)
    return found


def _item(item_id: str) -> classifier_pb2.ClassifyStreamRequest:
    return classifier_pb2.ClassifyStreamRequest(id=item_id, request=ask())


async def test_the_newest_half_of_what_takes_too_much_memory_is_refused(running, looks):
    async with running() as world:
        older, newer = world.stub.ClassifyStream(timeout=100), world.stub.ClassifyStream(timeout=100)
        for stream in (older, newer):
            await stream.write(_item("read before"))
            assert (await stream.read()).response.classes
        looks.extend([TOO_MUCH, TOO_MUCH])  # before memory is given back to the system, and after
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await newer.read()
        assert (refused.value.code(), reason_of(refused.value)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        await older.write(_item("read later"))
        assert (await older.read()).response.classes
        looks.extend([TOO_MUCH] * 2)
        with pytest.raises(grpc.aio.AioRpcError):
            await older.read()
        assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_what_is_being_refused_is_not_refused_again(looks):
    receiving = admission.Receiving(0)
    looks.extend([TOO_MUCH] * 4)
    refused = asyncio.create_task(receiving.receive(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    receiving._bound()
    await asyncio.sleep(0)
    assert not refused.done()
    receiving._bound()
    with pytest.raises(OverloadedError):
        await refused


async def test_memory_that_is_given_back_refuses_nobody(running, looks):
    async with running() as world:
        stream = world.stub.ClassifyStream(timeout=100)
        await stream.write(_item("one"))
        assert (await stream.read()).response.classes
        looks.extend([TOO_MUCH, 0] * 3)
        for _ in range(1000):
            if not looks:
                break
            await asyncio.sleep(0.01)
        assert not looks
        await stream.write(_item("two"))
        assert (await stream.read()).response.classes


async def test_a_call_without_a_message_is_one_without_a_model(running):
    async with running() as world:
        call = world.channel.stream_unary("/dermserve.v1.Classifier/Classify")(timeout=100)
        await call.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert reason_of(refused.value) == "MODEL_REQUIRED"


async def test_a_large_request_without_a_photo_is_refused(running):
    async with running() as world:
        health = health_pb2_grpc.HealthStub(world.channel)
        name = "x" * 100_000
        for call in (
            health.Check(health_pb2.HealthCheckRequest(service=name), timeout=100),
            health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=100).read(),
            world.stub.GetModel(classifier_pb2.GetModelRequest(name=name), timeout=100),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert reason_of(refused.value) == "MALFORMED_REQUEST"


LARGE = PHOTO + bytes(100_000)
REQUESTS = {
    "answered": ask(LARGE),
    "no photo": ask(b"broken"),
    "no model": ask(LARGE, model="x"),
    "no version": ask(LARGE, version=99),
    "no label": ask(LARGE, label="x"),
    "failed": ask(LARGE),
    "late": ask(LARGE),
    "cancelled": ask(LARGE),
}


@pytest.mark.parametrize("by", ["Classify", "ClassifyStream"])
@pytest.mark.parametrize("end", REQUESTS)
async def test_a_photo_is_freed_without_a_collection_however_its_request_ends(running, tfs, end, by):
    arrived = asyncio.Event()

    async def predict(_: object) -> None:
        arrived.set()
        if end == "failed":
            raise RuntimeError
        if end in {"late", "cancelled"}:
            await asyncio.sleep(100)

    async with running(default_deadline_seconds=0.5 if end == "late" else 100) as world:
        tfs.on_predict = predict
        gc.collect()
        gc.disable()
        try:
            if by == "Classify":
                call = world.stub.Classify(REQUESTS[end], timeout=None if end == "late" else 100)
            else:
                items = [classifier_pb2.ClassifyStreamRequest(id="one", request=REQUESTS[end])]
                call = world.stub.ClassifyStream(iter(items), timeout=100)
            ending = asyncio.create_task(_end(call))
            if end == "cancelled":
                await arrived.wait()
                call.cancel()
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
                await ending
            for _ in range(100):
                if not (left := _photos()):
                    break
                await asyncio.sleep(0.01)
            assert not left
        finally:
            gc.enable()


async def _end(call: grpc.aio.Call) -> None:
    if isinstance(call, grpc.aio.UnaryUnaryCall):
        await call
    else:
        assert [answer async for answer in call]


def _photos() -> int:
    return sum(isinstance(each, PhotoRequest) for each in gc.get_objects())
