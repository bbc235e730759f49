"""What is the asyncio client's own: it never blocks its loop, and what is cancelled ends."""

import asyncio
import inspect
import os
import threading

import pytest

from dermserve.client import AsyncClient, Client, NotFound, Unavailable, UnreadablePhoto
from tests.client.fake_gateway import answer


def test_it_offers_what_the_synchronous_client_offers():
    def surface(client_class):
        methods = inspect.getmembers(client_class, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in methods if name[0] != "_"}

    assert surface(AsyncClient) == surface(Client)
    assert inspect.signature(AsyncClient) == inspect.signature(Client)


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


def test_errors_are_those_of_the_synchronous_client(target):
    async def ask(call, address=target):
        async with AsyncClient(address, attempts=1) as client:
            await call(client)

    with pytest.raises(NotFound, match="there are: resnet50"):
        asyncio.run(ask(lambda client: client.model("vgg")))
    with pytest.raises(UnreadablePhoto, match=r"no-such\.jpg"):
        asyncio.run(ask(lambda client: client.classify("no-such.jpg", model="m")))
    with pytest.raises(Unavailable, match="no gateway answers"):
        asyncio.run(ask(lambda client: client.classify(b"1", model="m"), "127.0.0.1:1"))
    with pytest.raises(ValueError, match="deadline"):
        asyncio.run(ask(lambda client: client.classify("no-such.jpg", model="m", deadline=0)))


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
            await asyncio.to_thread(arrived.wait, 100)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(gateway.cancelled.wait, 100)

    asyncio.run(ask())


def test_the_loop_s_end_does_not_wait_for_a_file_whose_reading_hangs(target, tmp_path):
    path = tmp_path / "hangs.jpg"
    os.mkfifo(path)
    released = threading.Timer(60, lambda: path.open("wb").close())
    released.start()

    async def ask():
        async with AsyncClient(target) as client, asyncio.timeout(0.1):
            await client.classify(path, model="m")

    with pytest.raises(TimeoutError):
        asyncio.run(ask())
    assert released.is_alive()
    released.cancel()
    path.open("wb").close()
