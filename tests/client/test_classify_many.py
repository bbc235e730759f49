"""Many photos, several at once: every photo gets one answer, and only so many are in flight."""

import asyncio
import contextvars
import itertools
import os
import pathlib
import threading

import pytest
from google.rpc import code_pb2

from dermserve.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidPhoto,
    Overloaded,
    TooLarge,
    Unavailable,
    UnreadablePhoto,
    _waiting,
)
from tests.client.fake_gateway import abort, rich_status, serving

KINDS = ["sync", "async"]


def several(kind, target, photos, **arguments):
    """Yield the answers of either client, as they come."""
    arguments = {"model": "m", **arguments}
    if kind == "sync":
        with Client(target, attempts=1) as client:
            yield from client.classify_many(photos, **arguments)
        return
    with asyncio.Runner() as runner:
        client = AsyncClient(target, attempts=1)
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
def test_answers_come_when_they_are_ready(gateway, target, kind):
    answered = threading.Event()

    def classify(request, context):
        if request.image == b"0":
            answered.wait(30)
        return gateway.at_once(request, context)

    gateway.classify = classify
    answers = []
    for found in several(kind, target, [b"0", b"1"], in_flight=2):
        answers.append((found.id, found.result().request_id))
        answered.set()
    assert answers == [("1", "r-1"), ("0", "r-0")]


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
    taken, full = [], threading.Barrier(3, timeout=30)

    def held(request, context):
        if int(request.image) < 3:
            full.wait()  # it answers nobody before there are three
        return gateway.at_once(request, context)

    def photos():
        for n in range(50):
            assert len(taken) - len(answers) < 3
            taken.append(n)
            yield str(n).encode()

    gateway.classify = held
    answers = []
    answers.extend(several(kind, target, photos(), in_flight=3))
    assert len(answers) == 50


@pytest.mark.parametrize("kind", KINDS)
def test_four_photos_are_in_flight_where_nobody_says_how_many(gateway, target, kind):
    four = threading.Barrier(4, timeout=30)

    def held(request, context):
        four.wait()  # it answers nobody before there are four
        return gateway.at_once(request, context)

    gateway.classify = held
    assert [answer.error for answer in several(kind, target, [b"1"] * 8)] == [None] * 8


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
def test_the_first_answer_is_given_before_the_second_photo_is_asked_for(target, kind, monkeypatch):
    monkeypatch.setattr(_waiting, "_FIRST_ALONE", 100.0)
    answers = []

    def photos():
        yield b"0"
        assert answers
        yield b"1"

    for found in several(kind, target, photos()):
        answers.append(found)
    assert [answer.error for answer in answers] == [None, None]


CALLER = contextvars.ContextVar("CALLER", default="nobody")


@pytest.mark.parametrize("kind", KINDS)
def test_the_iterable_runs_in_the_callers_context(target, kind):
    seen = set()

    def photos():
        for _ in range(3):
            seen.add(CALLER.get())
            yield b"1"

    CALLER.set("somebody")
    assert [answer.error for answer in several(kind, target, photos())] == [None, None, None]
    assert seen == {"somebody"}


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
    refused = set()

    def moody(request, context):
        if request.image not in refused:
            refused.add(request.image)
            abort(context, rich_status(code_pb2.RESOURCE_EXHAUSTED, "busy", reason="OVERLOADED", retry_after=0.02))
        return gateway.at_once(request, context)

    gateway.classify = moody
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
def test_a_photo_too_large_for_a_message_fails_alone(gateway, kind):
    photos = [("a", b"1"), ("large", bytes(5000)), ("b", b"2"), ("c", b"3"), ("d", b"4"), ("e", b"5")]
    with serving(gateway, options=(("grpc.max_receive_message_length", 1000),)) as port:
        answers = {answer.id: answer for answer in several(kind, f"127.0.0.1:{port}", photos)}
    error = answers.pop("large").error
    assert (type(error), error.reason) == (TooLarge, "MESSAGE_TOO_LARGE")
    assert {name: answer.error for name, answer in answers.items()} == dict.fromkeys("abcde")


def test_nothing_is_sent_when_nothing_can_be(gateway, target):
    with Client(target) as client:
        assert list(client.classify_many([], model="m")) == []
        (answer,) = client.classify_many(["missing.jpg"], model="m")
    assert answer.error.reason == "FILE_NOT_FOUND"
    assert gateway.requests == []


@pytest.mark.parametrize("photos", ["photo.jpg", b"bytes", pathlib.Path("photo.jpg")])
def test_one_photo_in_place_of_several_is_refused(target, photos):
    with Client(target) as client, pytest.raises(ValueError, match="give a list"):
        client.classify_many(photos, model="m")


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_that_has_no_id_is_named_by_its_path_whatever_holds_it(target, kind, tmp_path):
    file = tmp_path / "a.jpg"
    file.write_bytes(b"a photo")
    with os.scandir(tmp_path) as entries:
        photos = [str(file), file, *entries]
    answers = list(several(kind, target, photos))
    assert [(answer.id, answer.error) for answer in answers] == [(str(file), None)] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_while_a_file_is_read_is_quiet(target, kind, tmp_path):
    path = tmp_path / "slow.jpg"
    os.mkfifo(path)
    answers = several(kind, target, [b"1", path])
    assert next(answers).error is None
    answers.close()
    path.open("wb").close()
    for thread in threading.enumerate():
        if thread.name.endswith(("(_answer)", "(_read)")):
            thread.join(100)  # an exception in it would be an error


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_photo_is_raised(target, kind):
    with pytest.raises(TypeError):
        list(several(kind, target, [b"1", 3, *[b"2"] * 20], in_flight=1))


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_early_cancels_what_is_in_flight(gateway, target, kind):
    arrived = threading.Event()

    def held(request, context):
        if request.image == b"0":
            arrived.wait(30)
        else:
            context.add_callback(gateway.cancelled.set)
            arrived.set()
            gateway.cancelled.wait(30)
        return gateway.at_once(request, context)

    gateway.classify = held
    answers = several(kind, target, [str(n).encode() for n in range(1000)], in_flight=2)
    assert next(answers).id == "0"
    answers.close()
    assert gateway.cancelled.wait(100)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gateway_that_restarts_under_way_loses_no_photo(gateway, kind):
    photos = [str(n).encode() for n in range(30)]
    with serving(gateway) as port:
        many = several(kind, f"127.0.0.1:{port}", photos, in_flight=2)
        answers = [next(many)]
    with serving(gateway, port=port):
        answers += many
    assert sorted(int(answer.id) for answer in answers) == list(range(30))
    assert [answer.error for answer in answers] == [None] * 30


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reason", ["", "MODEL_SERVER_UNREACHABLE"])
def test_what_is_behind_a_connection_that_stays_may_restart_too(gateway, target, kind, reason):
    """A gateway behind a proxy, or a model server behind the gateway, is gone for more calls than there are photos."""
    status = rich_status(code_pb2.UNAVAILABLE, "gone", reason=reason)
    calls = itertools.count()

    def classify(request, context):
        if 0 < next(calls) < 12:
            abort(context, status)
        return gateway.at_once(request, context)

    gateway.classify = classify
    photos = (str(n).encode() for n in range(8))
    assert [answer.error for answer in several(kind, target, photos)] == [None] * 8


@pytest.mark.parametrize("kind", KINDS)
def test_what_stays_away_is_given_up_after_the_deadline(gateway, target, kind):
    def classify(request, context):
        if request.image != b"0":
            abort(context, rich_status(code_pb2.UNAVAILABLE, "gone"))
        return gateway.at_once(request, context)

    gateway.classify = classify
    answers = list(several(kind, target, [b"0", *[b"1"] * 50], deadline=2, in_flight=1))
    assert [type(answer.error) for answer in answers] == [type(None), *[Unavailable] * 50]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_server_every_photo_says_so_at_once(kind):
    answers = list(several(kind, "127.0.0.1:1", (b"photo" for _ in range(100))))
    assert [type(answer.error) for answer in answers] == [Unavailable] * 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_silent_server_is_given_up_after_the_deadline(gateway, target, kind):
    over = threading.Event()
    gateway.classify = lambda request, context: over.wait(30)
    answers = list(several(kind, target, [b"1"] * 4, deadline=0.2))
    over.set()
    assert [type(answer.error) for answer in answers] == [DeadlineExceeded] * 4


def test_one_photo_that_never_answers_costs_only_itself(gateway, target):
    def forgetful(request, context):
        if request.image == b"lost":
            context.add_callback(gateway.cancelled.set)
            gateway.cancelled.wait(30)
        return gateway.at_once(request, context)

    gateway.classify = forgetful
    photos = [("a", b"1"), ("lost", b"lost"), ("b", b"2"), ("c", b"3")]
    for deadline in (1, 20):  # the latter where a busy machine takes longer than the former for the others
        with Client(target) as client:
            answers = list(client.classify_many(photos, model="m", deadline=deadline))
        late = {answer.id for answer in answers if isinstance(answer.error, DeadlineExceeded)}
        if late == {"lost"}:
            break
        gateway.cancelled.clear()
    assert (late, len(answers)) == ({"lost"}, 4)
    assert not [answer for answer in answers if answer.error and answer.id != "lost"]


@pytest.mark.parametrize("arguments", [{"model": ""}, {"model": "m", "in_flight": 0}, {"model": "m", "deadline": -1}])
def test_an_impossible_argument_is_refused_at_the_call(target, arguments):
    with Client(target) as client, pytest.raises(ValueError, match=r"\w"):
        client.classify_many([b"1"], **arguments)
