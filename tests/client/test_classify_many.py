"""Many photos over one stream: every photo gets one answer, and only so many are in flight."""

import threading

import grpc
import pytest
from google.rpc import code_pb2

from dermserve.client import (
    Client,
    DeadlineExceeded,
    InvalidPhoto,
    Retry,
    Unavailable,
    UnreadablePhoto,
)
from dermserve.v1 import classifier_pb2
from tests.client.fake_gateway import rich_status, serving

ONCE = Retry(max_attempts=1)


def test_every_photo_gets_its_own_answer(target):
    photos = [(f"id {n}", f"photo-{n}".encode()) for n in range(20)]
    with Client(target) as client:
        answers = list(client.classify_many(photos, model="resnet50", tta="full"))
    assert {answer.id: answer.result().request_id for answer in answers} == {
        f"id {n}": f"r-photo-{n}" for n in range(20)
    }
    assert all(answer.error is None for answer in answers)


def test_answers_out_of_order_are_matched(gateway, target):
    def reversed_pairs(requests, context):
        for first in requests:
            yield gateway.item(next(requests))
            yield gateway.item(first)

    gateway.stream = reversed_pairs
    with Client(target) as client:
        answers = list(client.classify_many([b"0", b"1", b"2", b"3"], model="m", in_flight=2))
    assert [answer.id for answer in answers] == ["1", "0", "3", "2"]
    assert all(answer.result().request_id == f"r-{answer.id}" for answer in answers)


def test_a_bad_photo_fails_alone(target, tmp_path):
    good = tmp_path / "good.jpg"
    good.write_bytes(b"good")
    missing = tmp_path / "missing.jpg"
    with Client(target) as client:
        answers = {a.id: a for a in client.classify_many([b"bad", good, missing, str(good) + "x"], model="m")}
    assert len(answers) == 4
    assert answers["0"].error.reason == "UNDECODABLE_IMAGE"
    assert answers["0"].error.request_id == "r-bad"
    assert answers[str(good)].result().top.code == "mel"
    assert type(answers[str(missing)].error) is UnreadablePhoto
    with pytest.raises(InvalidPhoto):
        answers["0"].result()


def test_ids_may_repeat_and_may_be_long(target):
    with Client(target) as client:
        answers = list(client.classify_many([("é" * 500, b"1"), ("same", b"2"), ("same", b"3")], model="m"))
    assert sorted(answer.id for answer in answers) == ["same", "same", "é" * 500]


def test_no_more_photos_are_read_than_may_be_in_flight(gateway, target):
    taken = []
    release = threading.Event()

    def held(requests, context):
        yield gateway.item(next(requests))
        release.wait(30)
        for request in requests:
            yield gateway.item(request)

    def photos():
        for n in range(50):
            taken.append(n)
            yield str(n).encode()

    gateway.stream = held
    with Client(target) as client:
        answers = client.classify_many(photos(), model="m", in_flight=3)
        next(answers)
        assert taken == [0, 1, 2]
        release.set()
        assert len(list(answers)) == 49


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


def test_a_stream_that_breaks_under_way_loses_no_photo(gateway, target):
    def fragile(requests, context):
        for count, request in enumerate(requests):
            if count == 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
            yield gateway.item(request)

    gateway.stream = fragile
    with Client(target, retry=ONCE) as client:
        answers = list(client.classify_many([str(n).encode() for n in range(20)], model="m", in_flight=4))
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


def test_without_a_server_every_photo_says_so_at_once():
    taken = []

    def photos():
        for n in range(100):
            taken.append(n)
            yield b"photo"

    with Client("127.0.0.1:1", retry=ONCE) as client:
        answers = list(client.classify_many(photos(), model="m"))
    assert len(answers) == 100
    assert all(type(answer.error) is Unavailable for answer in answers)


def test_a_silent_server_is_given_up_after_the_deadline(gateway, target):
    def silent(requests, context):
        context.add_callback(gateway.cancelled.set)
        gateway.cancelled.wait(30)
        yield from ()

    gateway.stream = silent
    with Client(target) as client:
        answers = list(client.classify_many([b"1"] * 10, model="m", deadline=0.2))
    assert [type(answer.error) for answer in answers] == [DeadlineExceeded] * 10


def test_one_photo_that_never_answers_costs_only_itself(gateway, target):
    def forgetful(requests, context):
        for request in requests:
            if request.request.image != b"lost":
                yield gateway.item(request)

    gateway.stream = forgetful
    photos = [("a", b"1"), ("lost", b"lost"), ("b", b"2"), ("c", b"3")]
    with Client(target) as client:
        answers = {a.id: a for a in client.classify_many(photos, model="m", deadline=0.3, in_flight=2)}
    assert type(answers.pop("lost").error) is DeadlineExceeded
    assert set(answers) == {"a", "b", "c"}
    assert all(answer.error is None for answer in answers.values())


def test_a_stream_ended_early_is_unavailable(gateway, target):
    gateway.stream = lambda requests, context: iter(())
    with Client(target, retry=ONCE) as client:
        (answer,) = client.classify_many([b"1"], model="m")
    assert type(answer.error) is Unavailable


def test_an_answer_for_no_photo_is_ignored(gateway, target):
    def chatty(requests, context):
        for request in requests:
            yield classifier_pb2.ClassifyStreamResponse(id="nobody")
            yield gateway.item(request)

    gateway.stream = chatty
    with Client(target) as client:
        assert len(list(client.classify_many([b"1", b"2"], model="m"))) == 2


def test_a_refused_stream_fails_every_photo_with_its_reason(gateway, target):
    from tests.client.fake_gateway import abort

    def refused(requests, context):
        abort(context, rich_status(code_pb2.UNAUTHENTICATED, "who are you", reason="NO_TOKEN"))
        yield

    gateway.stream = refused
    with Client(target) as client:
        answers = list(client.classify_many([b"1", b"2", b"3"], model="m", in_flight=1))
    assert [answer.error.reason for answer in answers] == ["NO_TOKEN"] * 3


@pytest.mark.parametrize("arguments", [{"model": ""}, {"model": "m", "in_flight": 0}, {"model": "m", "deadline": -1}])
def test_an_impossible_argument_is_refused_at_the_call(target, arguments):
    with Client(target) as client, pytest.raises(ValueError, match=r"\w"):
        client.classify_many([b"1"], **arguments)
