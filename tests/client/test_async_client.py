"""The asyncio client keeps the same promises."""

import asyncio
import inspect
import threading

import pytest
from google.rpc import code_pb2

from dermserve.client import (
    AsyncClient,
    Client,
    NotFound,
    Overloaded,
    Retry,
    Unavailable,
    UnreadablePhoto,
)
from tests.client.fake_gateway import abort, answer, rich_status

ONCE = Retry(max_attempts=1)


def test_it_offers_what_the_synchronous_client_offers():
    def surface(client_class):
        methods = inspect.getmembers(client_class, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in methods if name[0] != "_"}

    assert surface(AsyncClient) == surface(Client)
    assert inspect.signature(AsyncClient.__init__).parameters.keys() == inspect.signature(Client).parameters.keys() | {
        "self"
    }


def test_calls_give_the_same_values_as_the_synchronous_client(target):
    async def ask():
        async with AsyncClient(target) as client:
            return (
                await client.classify(b"1", model="resnet50", tta="full"),
                await client.models(),
                await client.model("resnet50"),
            )

    with Client(target) as client:
        expected = client.classify(b"1", model="resnet50", tta="full"), client.models(), client.model("resnet50")
    assert asyncio.run(ask()) == expected


def test_many_calls_run_at_once(gateway, target):
    together = threading.Barrier(4, timeout=30)

    def meet(request, context):
        together.wait()
        return answer(request)

    gateway.classify = meet

    async def ask():
        async with AsyncClient(target) as client:
            return await asyncio.gather(*(client.classify(b"1", model="m") for _ in range(4)))

    assert len(asyncio.run(ask())) == 4


def test_errors_are_the_same(gateway, target):
    async def ask(call):
        async with AsyncClient(target, retry=ONCE) as client:
            await call(client)

    with pytest.raises(NotFound, match="there are: resnet50"):
        asyncio.run(ask(lambda client: client.model("vgg")))
    with pytest.raises(UnreadablePhoto, match=r"no-such\.jpg"):
        asyncio.run(ask(lambda client: client.classify("no-such.jpg", model="m")))
    status = rich_status(code_pb2.RESOURCE_EXHAUSTED, "busy", reason="OVERLOADED", retry_after=1.5, request_id="r-9")
    gateway.classify = lambda request, context: abort(context, status)
    with pytest.raises(Overloaded) as caught:
        asyncio.run(ask(lambda client: client.classify(b"1", model="m")))
    assert (caught.value.retry_after, caught.value.reason, caught.value.request_id) == (1.5, "OVERLOADED", "r-9")


def test_no_server_is_unavailable():
    async def ask():
        async with AsyncClient("127.0.0.1:1", retry=ONCE) as client:
            await client.classify(b"1", model="m")

    with pytest.raises(Unavailable, match="no gateway answers"):
        asyncio.run(ask())


def test_cancelling_a_call_cancels_it_in_the_gateway(gateway, target):
    arrived = threading.Event()

    def held(request, context):
        context.add_callback(gateway.cancelled.set)
        arrived.set()
        gateway.cancelled.wait(30)
        return answer(request)

    gateway.classify = held

    async def ask():
        async with AsyncClient(target) as client:
            call = asyncio.create_task(client.classify(b"1", model="m"))
            await asyncio.to_thread(arrived.wait, 30)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(gateway.cancelled.wait, 10)

    asyncio.run(ask())


async def _slowly(photos):
    for photo in photos:
        await asyncio.sleep(0)
        yield photo


def test_photos_may_come_from_an_asynchronous_iterable(target):
    async def ask():
        async with AsyncClient(target) as client:
            photos = _slowly([(f"id {n}", f"{n}".encode()) for n in range(20)])
            return [answer async for answer in client.classify_many(photos, model="m")]

    answers = asyncio.run(ask())
    assert {answer.id: answer.result().request_id for answer in answers} == {f"id {n}": f"r-{n}" for n in range(20)}


def test_leaving_early_cancels_the_stream(gateway, target):
    async def ask():
        async with AsyncClient(target) as client:
            answers = client.classify_many([b"1"] * 100, model="m")
            await anext(answers)
            await answers.aclose()
            assert await asyncio.to_thread(gateway.cancelled.wait, 10)

    asyncio.run(ask())
