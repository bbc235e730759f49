"""Many photos over one stream: every photo gets one answer, and only so many are in flight."""

import asyncio
import contextvars
import threading

import grpc
import pytest
from google.rpc import code_pb2

from dermserve.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidPhoto,
    Overloaded,
    Retry,
    TooLarge,
    Unavailable,
    UnreadablePhoto,
)
from dermserve.v1 import classifier_pb2
from tests.client.fake_gateway import abort, answer, rich_status, serving

ONCE = Retry(max_attempts=1)
KINDS = ["sync", "async"]


def several(kind, target, photos, **arguments):
    """Yield the answers of either client, as they come."""
    arguments = {"model": "m", "retry": ONCE, **arguments}
    retry = arguments.pop("retry")
    if kind == "sync":
        with Client(target, retry=retry) as client:
            yield from client.classify_many(photos, **arguments)
        return
    with asyncio.Runner() as runner:
        client = AsyncClient(target, retry=retry)
        many = client.classify_many(photos, **arguments)
        try:
            while (found := runner.run(_next(many))) is not None:
                yield found
        finally:
            runner.run(client.close())


async def _next(many):
    return await anext(many, None)


@pytest.mark.parametrize("kind", KINDS)
def test_every_photo_gets_its_own_answer(target, kind):
    photos = [(f"id {n}", f"photo-{n}".encode()) for n in range(20)] + [("é" * 500, b"long"), ("id 1", b"same")]
    answers = list(several(kind, target, photos, tta="full"))
    assert sorted((answer.id, answer.result().request_id) for answer in answers) == sorted(
        (name, f"r-{photo.decode()}") for name, photo in photos
    )


@pytest.mark.parametrize("kind", KINDS)
def test_answers_out_of_order_are_matched(gateway, target, kind):
    def reversed_pairs(requests, context):
        for first in requests:
            yield gateway.item(next(requests))
            yield gateway.item(first)

    gateway.stream = reversed_pairs
    answers = list(several(kind, target, [b"0", b"1", b"2", b"3"], in_flight=2))
    assert [answer.id for answer in answers] == ["1", "0", "3", "2"]
    assert all(answer.result().request_id == f"r-{answer.id}" for answer in answers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_photo_fails_alone(target, tmp_path, kind):
    good = tmp_path / "good.jpg"
    good.write_bytes(b"good")
    missing = tmp_path / "missing.jpg"
    answers = {a.id: a for a in several(kind, target, [b"bad", good, missing, str(good) + "x"])}
    assert len(answers) == 4
    assert answers["0"].error.reason == "UNDECODABLE_IMAGE"
    assert answers["0"].error.request_id == "r-bad"
    assert answers[str(good)].result().classes[0].code == "mel"
    assert type(answers[str(missing)].error) is UnreadablePhoto
    with pytest.raises(InvalidPhoto):
        answers["0"].result()


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_photos_are_taken_than_may_be_in_flight(gateway, target, kind):
    taken, full = [], threading.Event()

    def held(requests, context):
        first = [next(requests) for _ in range(3)]
        full.set()
        yield from map(gateway.item, first)
        for request in requests:
            yield gateway.item(request)

    def photos():
        for n in range(50):
            assert len(taken) - len(answers) < 3
            taken.append(n)
            yield str(n).encode()

    gateway.stream = held
    answers = []
    for found in several(kind, target, photos(), in_flight=3):
        assert full.is_set()  # it answers nobody before there are three
        answers.append(found)
    assert len(answers) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_producer_may_wait_for_the_answer_to_each_photo(target, kind):
    answered = threading.Semaphore(0)

    def photos():
        for n in range(5):
            yield str(n).encode()
            assert answered.acquire(timeout=20), "no answer came before the next photo was asked for"

    ids = []
    for found in several(kind, target, photos(), in_flight=4):
        ids.append(found.id)
        answered.release()
    assert ids == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_answer_is_given_before_the_second_photo_is_asked_for(target, kind):
    answers = []

    def photos():
        yield b"0"
        assert answers
        yield b"1"

    for found in several(kind, target, photos()):
        answers.append(found)
    assert [answer.error for answer in answers] == [None, None]


CALLER = contextvars.ContextVar("CALLER", default="nobody")


@pytest.mark.parametrize("kind", ["sync", "async", "async iterable"])
def test_the_iterable_runs_in_the_callers_context_and_an_asynchronous_one_in_one_task(target, kind):
    seen = set()

    def photos():
        for _ in range(3):
            seen.add(CALLER.get())
            yield b"1"

    async def later():
        for photo in photos():
            seen.add(asyncio.current_task())
            yield photo

    CALLER.set("somebody")
    found = list(several(kind.split()[0], target, later() if kind == "async iterable" else photos()))
    assert [answer.error for answer in found] == [None, None, None]
    assert "somebody" in seen
    assert len(seen) == 1 + (kind == "async iterable")


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_iterable_raises_is_raised_after_the_answers_to_what_came_before(target, kind):
    def photos():
        yield b"1"
        yield b"2"
        raise OSError("camera gone")

    answers = []
    with pytest.raises(OSError, match="camera gone"):
        answers.extend(several(kind, target, photos()))
    assert sorted(answer.id for answer in answers) == ["0", "1"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_that_an_overloaded_gateway_refuses_is_sent_again_when_it_says(gateway, target, kind):
    refused = []

    def moody(requests, context):
        for request in requests:
            if request.id not in refused:
                refused.append(request.id)
                status = rich_status(code_pb2.RESOURCE_EXHAUSTED, "busy", reason="OVERLOADED", retry_after=0.02)
                yield classifier_pb2.ClassifyStreamResponse(id=request.id, error=status)
            else:
                yield gateway.item(request)

    gateway.stream = moody
    answers = list(several(kind, target, [str(n).encode() for n in range(6)]))
    assert [answer.error for answer in answers] == [None] * 6
    assert len(refused) == 6
    refused.clear()
    answers = list(several(kind, target, [b"1", b"2"], retry_overloaded=False))
    assert [type(answer.error) for answer in answers] == [Overloaded] * 2
    refused.clear()
    answers = list(several(kind, target, [b"1", b"2"], deadline=0.01))  # no time for another try
    assert {type(answer.error) for answer in answers} <= {Overloaded, DeadlineExceeded}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_an_overloaded_gateway_refuses_is_opened_again(gateway, target, kind):
    def refused_once(requests, context):
        if gateway.streams == 1:
            abort(context, rich_status(code_pb2.RESOURCE_EXHAUSTED, "busy", reason="OVERLOADED", retry_after=0.02))
        yield from gateway.in_order(requests, context)

    gateway.stream = refused_once
    assert [answer.error for answer in several(kind, target, [b"1", b"2", b"3"])] == [None] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_too_large_for_a_message_fails_alone(gateway, kind):
    photos = [("a", b"1"), ("large", bytes(5000)), ("b", b"2"), ("c", b"3"), ("d", b"4"), ("e", b"5")]
    with serving(gateway, options=(("grpc.max_receive_message_length", 1000),)) as port:
        answers = {answer.id: answer for answer in several(kind, f"127.0.0.1:{port}", photos)}
    error = answers.pop("large").error
    assert (type(error), error.reason) == (TooLarge, "MESSAGE_TOO_LARGE")
    assert {name: answer.error for name, answer in answers.items()} == dict.fromkeys("abcde")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "DATA_LOSS", "INVALID_ARGUMENT"])
def test_a_photo_that_ends_every_stream_it_is_on_fails_alone(gateway, target, kind, code):
    def classify(request, context):
        if request.image == b"poison":
            context.abort(grpc.StatusCode[code], "broke")
        return answer(request)

    def fragile(requests, context):
        for request in requests:
            classify(request.request, context)
            yield gateway.item(request)

    gateway.stream, gateway.classify = fragile, classify
    photos = [b"poison" if n in (0, 8) else str(n).encode() for n in range(20)]
    statuses = {a.id: a.error and a.error.status for a in several(kind, target, photos)}
    assert statuses == {str(n): code if n in (0, 8) else None for n in range(20)}


def test_nothing_is_opened_when_nothing_can_be_sent(gateway, target):
    with Client(target) as client:
        assert list(client.classify_many([], model="m")) == []
        (answer,) = client.classify_many(["missing.jpg"], model="m")
    assert answer.error.reason == "FILE_NOT_FOUND"
    assert gateway.streams == 0


def test_leaving_early_cancels_the_stream(gateway, target):
    before = threading.active_count()
    with Client(target) as client:
        answers = client.classify_many((b"x" for _ in range(1000)), model="m")
        next(answers)
        answers.close()
        assert gateway.cancelled.wait(10)
    assert not [thread for thread in threading.enumerate() if thread.name == "dermserve-answers"]
    assert before <= threading.active_count()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_breaks_under_way_loses_no_photo(gateway, target, kind):
    def fragile(requests, context):
        for count, request in enumerate(requests):
            if count == 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
            yield gateway.item(request)

    gateway.stream = fragile
    answers = list(several(kind, target, [str(n).encode() for n in range(20)], in_flight=4))
    assert sorted(int(answer.id) for answer in answers) == list(range(20))
    assert all(answer.result().request_id == f"r-{answer.id}" for answer in answers)
    assert gateway.streams > 1


def test_a_gateway_that_restarts_under_way_loses_no_photo(gateway):
    photos = [str(n).encode() for n in range(30)]
    with serving(gateway) as port:
        client = Client(f"127.0.0.1:{port}", retry=ONCE)
        many = client.classify_many(photos, model="m", in_flight=2)
        answers = [next(many)]
    with client, serving(gateway, port=port):
        answers += many
    assert sorted(int(answer.id) for answer in answers) == list(range(30))
    assert [answer.error for answer in answers] == [None] * 30
    assert gateway.streams == 2


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_server_every_photo_says_so_at_once(kind):
    answers = list(several(kind, "127.0.0.1:1", (b"photo" for _ in range(100))))
    assert [type(answer.error) for answer in answers] == [Unavailable] * 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_server_is_given_up_after_the_deadline(gateway, target, kind):
    def silent(requests, context):
        context.add_callback(gateway.cancelled.set)
        gateway.cancelled.wait(30)
        yield from ()

    gateway.stream = silent
    answers = list(several(kind, target, [b"1"] * 10, deadline=0.2))
    assert [type(answer.error) for answer in answers] == [DeadlineExceeded] * 10


def test_one_photo_that_never_answers_costs_only_itself(gateway, target):
    def forgetful(requests, context):
        for request in requests:
            yield classifier_pb2.ClassifyStreamResponse(id="nobody")  # is ignored
            if request.request.image != b"lost":
                yield gateway.item(request)

    gateway.stream = forgetful
    photos = [("a", b"1"), ("lost", b"lost"), ("b", b"2"), ("c", b"3")]
    expected = {"a": type(None), "lost": DeadlineExceeded, "b": type(None), "c": type(None)}
    with Client(target) as client:
        for deadline in (0.3, 5):  # the latter where a busy machine takes longer than the former for the others
            answers = client.classify_many(photos, model="m", deadline=deadline, in_flight=2)
            if (errors := {answer.id: type(answer.error) for answer in answers}) == expected:
                return
    raise AssertionError(errors)


def test_a_stream_ended_early_is_unavailable(gateway, target):
    gateway.stream = lambda requests, context: iter(())
    (answer,) = several("sync", target, [b"1"])
    assert type(answer.error) is Unavailable


def test_a_refused_stream_fails_every_photo_with_its_reason(gateway, target):
    def refused(requests, context):
        abort(context, rich_status(code_pb2.UNAUTHENTICATED, "who are you", reason="NO_TOKEN"))
        yield

    gateway.stream = refused
    answers = several("sync", target, [b"1", b"2", b"3"], in_flight=1)
    assert [answer.error.reason for answer in answers] == ["NO_TOKEN"] * 3


@pytest.mark.parametrize("arguments", [{"model": ""}, {"model": "m", "in_flight": 0}, {"model": "m", "deadline": -1}])
def test_an_impossible_argument_is_refused_at_the_call(target, arguments):
    with Client(target) as client, pytest.raises(ValueError, match=r"\w"):
        client.classify_many([b"1"], **arguments)
