"""What is the asyncio client's own: it never blocks its loop, and what is cancelled or left ends."""

import asyncio
import inspect
import threading

import pytest

from dermserve.client import AsyncClient, Client, NotFound, Retry, Unavailable, UnreadablePhoto
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
        async with AsyncClient(address, retry=Retry(max_attempts=1)) as client:
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
            await asyncio.to_thread(arrived.wait, 30)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(gateway.cancelled.wait, 10)

    asyncio.run(ask())


class Producer:
    """An asynchronous generator of photos, which waits for the answer to each before it gives the next."""

    def __init__(self, count):
        self.count = count
        self.answered = asyncio.Event()
        self.closed = False

    async def photos(self):
        try:
            for n in range(self.count):
                self.answered.clear()
                yield f"id {n}", f"{n}".encode()
                await asyncio.wait_for(self.answered.wait(), 20)
            raise OSError("camera gone")
        finally:
            self.closed = True


def test_photos_may_come_from_an_asynchronous_iterable(target):
    answers = {}

    async def ask():
        producer = Producer(5)
        async with AsyncClient(target) as client:
            async for found in client.classify_many(producer.photos(), model="m"):
                answers[found.id] = found.result().request_id
                producer.answered.set()

    with pytest.raises(OSError, match="camera gone"):
        asyncio.run(ask())
    assert answers == {f"id {n}": f"r-{n}" for n in range(5)}


@pytest.mark.parametrize("waiting", [True, False])
def test_leaving_early_cancels_the_stream_and_closes_the_iterable(gateway, target, waiting):
    async def ask():
        producer = Producer(1000)
        async with AsyncClient(target) as client:
            answers = client.classify_many(producer.photos(), model="m")
            await anext(answers)
            if not waiting:  # in the generator, but for room
                producer.answered.set()
            await answers.aclose()
            assert producer.closed
            assert await asyncio.to_thread(gateway.cancelled.wait, 10)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ask())


def test_cancelling_twice_leaves_nothing_behind(target):
    producer, began = Producer(1000), asyncio.Event()

    async def ask():
        async with AsyncClient(target) as client:
            async for _ in client.classify_many(producer.photos(), model="m"):
                began.set()

    async def cancel():
        before = asyncio.all_tasks()
        asking = asyncio.create_task(ask())
        await began.wait()
        for _ in range(2):
            asking.cancel()
            await asyncio.sleep(0)
        while left := asyncio.all_tasks() - before:
            await asyncio.wait(left)
        assert producer.closed

    asyncio.run(asyncio.wait_for(cancel(), 20))
