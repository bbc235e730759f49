"""Many photos over one stream: matched by id, as they finish, a bounded number at once."""

import asyncio

from dermserve.gateway import service
from dermserve.gateway.config import Config
from dermserve.gateway.errors import GatewayError
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.rpc import Rpcs
from dermserve.gateway.tracing import Tracing
from dermserve.v1 import classifier_pb2
from tests.gateway.gateways import ask, make_photo, reason_of

Item = classifier_pb2.ClassifyStreamRequest


def _item(item_id: str, request: classifier_pb2.ClassifyRequest | None = None) -> Item:
    return Item(id=item_id, request=request or ask())


async def test_each_photo_is_answered_under_its_id_and_a_bad_one_ends_nothing(running):
    async with running() as world:
        items = [_item(str(n), ask(b"broken") if n % 3 == 0 else None) for n in range(12)]
        answers = {answer.id: answer async for answer in world.stub.ClassifyStream(iter(items), timeout=100)}
    assert sorted(answers) == sorted(str(n) for n in range(12))
    for n in range(12):
        answer = answers[str(n)]
        if n % 3 == 0:
            assert reason_of(answer.error) == "UNSUPPORTED_FORMAT"
            assert answer.error.code == 3
        else:
            assert len(answer.response.classes) == 7
    ids = {answer.response.request_id for answer in answers.values() if answer.HasField("response")}
    assert len(ids) == 8


async def test_answers_come_as_they_finish(running, tfs):
    arrived, release = asyncio.Event(), asyncio.Event()
    slow = make_photo(size=(64, 64))

    async def hold(request: object) -> None:
        if len(tfs.predicts) == 1:
            arrived.set()
            await release.wait()

    async with running() as world:
        tfs.on_predict = hold
        stream = world.stub.ClassifyStream(timeout=100)
        await stream.write(_item("slow", ask(slow)))
        await asyncio.wait_for(arrived.wait(), 100)
        await stream.write(_item("quick"))
        assert (await stream.read()).id == "quick"
        release.set()
        assert (await stream.read()).id == "slow"
        await stream.done_writing()


async def test_no_more_than_the_bound_are_in_flight(running, tfs):
    full = asyncio.Event()

    async def hold(_: object) -> None:
        if tfs.in_flight == 3:
            full.set()
        await full.wait()

    async with running(stream_at_once=3) as world:
        tfs.on_predict = hold
        items = [_item(str(n)) for n in range(30)]
        answers = [answer.id async for answer in world.stub.ClassifyStream(iter(items), timeout=100)]
    assert len(answers) == 30
    assert tfs.most_in_flight == 3


class Nobody:
    """The context of a call without metadata and deadline, and a classifier that refuses every photo."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def classify(self, *_: object) -> None:
        raise GatewayError("EMPTY_IMAGE", "no photo")


async def test_a_caller_who_reads_no_answers_is_read_no_further_until_it_does(monkeypatch):
    monkeypatch.setattr(service, "_MOST_UNREAD", 10)
    taken = []

    async def items():
        for number in range(100):
            taken.append(number)
            yield _item(str(number)).SerializeToString()

    arriving = items()
    rpcs = Rpcs(Config(), metrics=Metrics(["resnet50"]), tracing=Tracing(), finished=asyncio.Event())
    rpc = rpcs.open("ClassifyStream", Nobody(), model=None)
    answers = service._PhotoStream(Nobody(), rpc, asyncio.Event(), at_once=4).answers(lambda: anext(arriving, None))
    answered = [(await anext(answers)).id]
    for _ in range(1000):
        await asyncio.sleep(0)
    assert len(taken) <= 12
    answered += [answer.id async for answer in answers]
    assert sorted(answered, key=int) == [str(number) for number in range(100)]


async def test_an_id_that_does_not_tell_photos_apart_is_an_error_of_that_photo(running, tfs):
    release = asyncio.Event()
    async with running() as world:
        tfs.on_predict = lambda _: release.wait()
        stream = world.stub.ClassifyStream(timeout=100)
        await stream.write(_item("twice"))
        for bad in ("twice", "", "x" * 129, "ü" * 65):
            await stream.write(_item(bad))
            answer = await stream.read()
            assert (answer.id, reason_of(answer.error)) == (bad, "INVALID_ID")
        release.set()
        assert (await stream.read()).response.classes
        await stream.write(_item("twice"))  # no longer in flight
        assert (await stream.read()).response.classes
        await stream.done_writing()


async def test_a_stream_that_is_cancelled_cancels_its_photos(running, tfs):
    cancelled = asyncio.Event()
    arrived = asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with running() as world:
        tfs.on_predict = hold
        stream = world.stub.ClassifyStream(timeout=100)
        await stream.write(_item("a"))
        await asyncio.wait_for(arrived.wait(), 100)
        stream.cancel()
        await asyncio.wait_for(cancelled.wait(), 100)
        tfs.on_predict = None
        assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_each_photo_has_a_deadline_of_its_own(running, tfs):
    never = asyncio.Event()
    async with running(default_deadline_seconds=0.3) as world:
        tfs.on_predict = lambda _: never.wait()
        answers = [answer async for answer in world.stub.ClassifyStream(iter([_item("a")]), timeout=100)]
        assert reason_of(answers[0].error) == "DEADLINE_EXCEEDED"


async def test_a_stream_may_last_longer_than_a_photo_may(running):
    """Each photo has a budget of its own: neither the default nor the cap is the stream's."""

    async def trickled(pause: float):
        for n in range(6):
            yield _item(str(n))
            await asyncio.sleep(pause)

    for cap in (1.0, 5.0, 20.0):  # a later one where a busy machine takes longer than that for one photo
        async with running(default_deadline_seconds=cap, max_deadline_seconds=cap) as world:
            answers = [answer async for answer in world.stub.ClassifyStream(trickled(0.3 * cap))]
        assert sorted(answer.id for answer in answers) == ["0", "1", "2", "3", "4", "5"]
        if not (errors := [answer for answer in answers if answer.HasField("error")]):
            return
    raise AssertionError(errors)
