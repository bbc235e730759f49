"""One photo, one answer: the client against a real server."""

import asyncio
import pathlib
import pickle
from concurrent import futures

import grpc
import pytest
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2

from dermserve.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    DermserveError,
    Internal,
    InvalidPhoto,
    NotFound,
    Overloaded,
    Reason,
    TooLarge,
    TtaMode,
    Unavailable,
    UnreadablePhoto,
    Verdict,
    VersionState,
    render_text,
)
from dermserve.v1 import classifier_pb2
from tests.client.fake_gateway import NOTICE, abort, answer, rich_status, serving


def classify(target, photo=b"1", *, attempts=1, **arguments):
    """Classify a photo by the synchronous client."""
    with Client(target, attempts=attempts) as client:
        return client.classify(photo, **{"model": "resnet50", **arguments})


def changed(**fields):
    """Answer as usual, but for some fields."""

    def change(request, context):
        message = answer(request)
        for name, value in fields.items():
            if value is None:
                message.ClearField(name)
            else:
                setattr(message, name, value)
        return message

    return change


def test_a_photo_gets_a_typed_prediction(target):
    prediction = classify(target, tta="full")
    assert (prediction.model, prediction.version) == ("resnet50", 3)
    assert [(score.code, score.name, score.probability) for score in prediction.classes] == [
        ("mel", "melanoma", 0.75),
        ("nv", "melanocytic nevus", 0.25),
    ]
    assert prediction.verdict is Verdict.UNCERTAIN
    assert prediction.reasons == (Reason.LOW_CONFIDENCE,)
    assert (prediction.views_asked, prediction.views_used) == (10, 9)
    assert prediction.timings_ms["predict"] == 20
    assert prediction.notice == NOTICE
    with pytest.raises(AttributeError):
        prediction.model = "another"


@pytest.mark.parametrize("deadline", [1e10, 1e300, float("inf")])
def test_a_deadline_may_be_as_long_as_one_likes(target, deadline):
    assert classify(target, deadline=deadline).version == 3
    with Client(target, deadline=deadline) as client:
        assert [given.prediction.version for given in client.classify_many([b"1"], model="resnet50")] == [3]


@pytest.mark.parametrize("seconds", [-5, -(2**62), 2**62])
def test_a_retry_delay_that_can_not_be_is_survived(gateway, target, seconds):
    status = rich_status(code_pb2.RESOURCE_EXHAUSTED, "busy", reason="OVERLOADED", retry_after=0.1)
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=seconds))
    status.details[-1].Pack(retry)
    gateway.classify = lambda request, context: abort(context, status)
    with pytest.raises(Overloaded, match="busy"):
        classify(target, retry_overloaded=True)
    assert len(gateway.requests) == 1


def test_to_dict_has_the_documented_keys(target):
    values = classify(target).to_dict()
    assert list(values) == [
        "verdict", "malignancy", "reasons", "named_class", "classes", "notice", "model", "version", "views_used",
        "views_asked", "timings_ms", "request_id", "weights_digest", "gateway_version",
    ]  # fmt: skip
    assert values["classes"][1] == {
        "code": "nv", "name": "melanocytic nevus", "common_name": "mole", "malignant": False, "probability": 0.25,
        "std": 0.0,
    }  # fmt: skip
    assert values["malignancy"] == {"level": "INTERMEDIATE", "probability": 0.75, "std": 0.0}
    assert values["named_class"] is None
    assert (values["weights_digest"], values["gateway_version"]) == ("0123456789abcdef", "0.1.0")
    assert values["timings_ms"] == {"decode": 1.5, "plan": 0.5, "predict": 20, "reduce": 0.25, "total": 23}
    assert {type(values["verdict"]), type(values["malignancy"]["level"]), type(values["reasons"][0])} == {str}


def test_a_rejected_photo_has_neither_classes_nor_a_risk(gateway, target):
    gateway.classify = changed(verdict=classifier_pb2.VERDICT_REJECTED, classes=None, malignancy=None)
    prediction = classify(target)
    assert prediction.verdict is Verdict.REJECTED
    assert (prediction.named, prediction.malignancy, prediction.classes) == (None, None, ())
    assert prediction.to_dict()["malignancy"] is None
    assert "NO ANSWER: take another photo" in render_text(prediction)


@pytest.mark.parametrize(("number", "level"), [(1, "LOW"), (2, "INTERMEDIATE"), (3, "HIGH"), (9, "UNKNOWN_9")])
def test_the_level_and_the_named_class_are_read(gateway, target, number, level):
    def say(request, context):
        message = answer(request)
        message.malignancy.level, message.named_class = number, "nv"
        return message

    gateway.classify = say
    prediction = classify(target)
    assert (prediction.malignancy.level, prediction.named.common_name) == (level, "mole")
    text = render_text(prediction)
    assert text.splitlines()[0].strip()
    assert "most likely: mole (melanocytic nevus)" in text


@pytest.mark.parametrize("make", [str, pathlib.Path])
def test_a_path_is_read(gateway, target, tmp_path, make):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"the photo")
    classify(target, make(path))
    assert gateway.requests[0].image == b"the photo"


def test_the_request_says_what_was_asked(gateway, target):
    with Client(target, metadata={"authorization": "Bearer t"}) as client:
        client.classify(b"1", model="resnet50", version=7, tta=TtaMode.FULL, request_id="mine-1")
        client.classify(b"2", model="resnet50", label="canary")
    first, second = gateway.requests
    assert first.model == classifier_pb2.ModelSelector(name="resnet50", version=7)
    assert first.tta == classifier_pb2.TTA_MODE_FULL
    assert second.model == classifier_pb2.ModelSelector(name="resnet50", label="canary")
    assert second.tta == classifier_pb2.TTA_MODE_NONE
    assert gateway.metadata[0]["x-request-id"] == "mine-1"
    assert gateway.metadata[0]["authorization"] == "Bearer t"
    assert len(gateway.metadata[1]["x-request-id"]) == 32


def test_the_deadline_goes_with_the_call(gateway, target):
    with Client(target, deadline=900) as client:
        client.classify(b"1", model="resnet50")
        client.classify(b"1", model="resnet50", deadline=500)
    assert 600 < gateway.remaining[0] < 901
    assert 200 < gateway.remaining[1] < 501


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": ""},
        {"model": "m", "version": 1, "label": "stable"},
        {"model": "m", "version": 0},
        {"model": "m", "tta": "some"},
        {"model": "m", "deadline": 0},
        {"model": "m", "deadline": float("nan")},
        {"model": "m", "request_id": "not good"},
    ],
)
def test_an_impossible_argument_is_refused_before_the_wire(gateway, target, arguments):
    with Client(target) as client, pytest.raises(ValueError, match=r"\w"):
        client.classify(b"1", **arguments)
    assert gateway.requests == []


def test_a_missing_file_says_so():
    with pytest.raises(UnreadablePhoto, match="no-such") as caught:
        classify("127.0.0.1:1", "no-such.jpg")
    assert (caught.value.status, caught.value.reason) == ("INVALID_ARGUMENT", "FILE_NOT_FOUND")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_verdict_and_a_reason_of_a_newer_server_survive(gateway, target):
    def newer(request, context):
        message = changed(verdict=17)(request, context)
        message.reasons.append(99)
        return message

    gateway.classify = newer
    prediction = classify(target)
    assert isinstance(prediction.verdict, Verdict)
    assert prediction.verdict == "UNKNOWN_17"
    assert prediction.reasons == (Reason.LOW_CONFIDENCE, "UNKNOWN_99")
    assert prediction.to_dict()["reasons"] == ["LOW_CONFIDENCE", "UNKNOWN_99"]
    with pytest.raises(ValueError, match="bogus"):
        Verdict("bogus")


def test_a_wrong_mode_is_told_which_ones_there_are(target):
    with Client(target) as client, pytest.raises(ValueError, match="none, full, adaptive, not 'FULL'"):
        client.classify(b"1", model="m", tta="FULL")


@pytest.mark.parametrize(
    ("code", "reason", "error_class"),
    [
        ("INVALID_ARGUMENT", "UNDECODABLE_IMAGE", InvalidPhoto),
        ("RESOURCE_EXHAUSTED", "IMAGE_TOO_LARGE", TooLarge),
        ("NOT_FOUND", "MODEL_NOT_FOUND", NotFound),
        ("RESOURCE_EXHAUSTED", "QUEUE_FULL", Overloaded),
        ("DEADLINE_EXCEEDED", "BUDGET_SPENT", DeadlineExceeded),
        ("UNAVAILABLE", "MODEL_SERVER_UNAVAILABLE", Unavailable),
        ("INTERNAL", "INTERNAL", Internal),
        ("DATA_LOSS", "SOMETHING_NEW", Internal),
    ],
)
def test_a_rich_status_becomes_the_matching_error(gateway, target, code, reason, error_class):
    status = rich_status(code_pb2.Code.Value(code), "what to do", reason=reason, request_id="r-7", retry_after=0.25)
    gateway.classify = lambda request, context: abort(context, status)
    with pytest.raises(DermserveError) as caught:
        classify(target)
    error = caught.value
    assert type(error) is error_class
    assert (error.status, error.reason, error.message, error.request_id) == (code, reason, "what to do", "r-7")
    assert error.retry_after == 0.25
    assert error.to_dict() == {
        "status": code, "reason": reason, "message": "what to do", "request_id": "r-7"
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_overloaded_gateway_is_asked_again_when_it_says_if_wanted(gateway, target, kind):
    async def asked(**arguments):
        async with AsyncClient(target) as client:
            return await client.classify(b"1", model="m", **arguments)

    def ask(**arguments):
        return classify(target, **arguments) if kind == "sync" else asyncio.run(asked(**arguments))

    def busy(request, context):
        if len(gateway.requests) < 3:
            abort(context, rich_status(code_pb2.RESOURCE_EXHAUSTED, "busy", reason="OVERLOADED", retry_after=0.02))
        return answer(request)

    gateway.classify = busy
    assert ask(retry_overloaded=True).version == 3
    assert len(gateway.requests) == 3
    gateway.requests.clear()
    with pytest.raises(Overloaded):
        ask()
    assert len(gateway.requests) == 1
    status = rich_status(code_pb2.RESOURCE_EXHAUSTED, "busy", reason="OVERLOADED", retry_after=0.1)
    gateway.classify = lambda request, context: abort(context, status)
    gateway.requests.clear()
    with pytest.raises((Overloaded, DeadlineExceeded)):  # the deadline is for all tries together
        ask(retry_overloaded=True, deadline=0.25)
    assert len(gateway.requests) < 4


@pytest.mark.parametrize("name", [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_bare_status_becomes_an_error_with_its_name(gateway, target, name):
    gateway.classify = lambda request, context: context.abort(grpc.StatusCode[name], "because")
    with pytest.raises(DermserveError) as caught:
        classify(target, request_id="mine")
    assert (caught.value.status, caught.value.reason, caught.value.request_id) == (name, name, "mine")


def test_a_mangled_status_falls_back_to_the_bare_one(gateway, target):
    def mangled(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    gateway.classify = mangled
    with pytest.raises(NotFound, match="gone"):
        classify(target)


def test_a_photo_over_the_transport_limit_gets_a_hint(gateway):
    limited = (("grpc.max_receive_message_length", 1000),)
    with serving(gateway, options=limited) as port, pytest.raises(InvalidPhoto, match="smaller") as caught:
        classify(f"127.0.0.1:{port}", bytes(2000))
    assert (caught.value.status, caught.value.reason) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")


@pytest.mark.parametrize("size", [10, 21_000_000])
def test_unavailable_is_tried_again_whatever_the_photo_size(gateway, target, size):
    def third(request, context):
        if len(gateway.requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return answer(request)

    gateway.classify = third
    classify(target, bytes(size), attempts=4)
    assert [len(request.image) for request in gateway.requests] == [size] * 3


def test_other_errors_are_not_tried_again(gateway, target):
    gateway.classify = lambda request, context: context.abort(grpc.StatusCode.INTERNAL, "internal error")
    with pytest.raises(Internal):
        classify(target, attempts=4)
    assert len(gateway.requests) == 1


def test_no_server_is_unavailable_and_names_the_target():
    with pytest.raises(Unavailable, match=r"no gateway answers at 127\.0\.0\.1:1 "):
        classify("127.0.0.1:1")


def test_a_server_that_is_something_else_gets_a_hint():
    with futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with pytest.raises(Internal, match="not a dermserve gateway"):
            classify(f"127.0.0.1:{port}")
        server.stop(None).wait()


def test_a_silent_server_meets_the_deadline(gateway, target):
    def silent(request, context):
        context.add_callback(gateway.cancelled.set)
        gateway.cancelled.wait(30)
        return answer(request)

    gateway.classify = silent
    with pytest.raises(DeadlineExceeded, match="in time"):
        classify(target, deadline=0.2)


def test_models_come_with_versions_labels_and_states_and_one_with_its_card(target):
    with Client(target) as client:
        (model,) = client.models()
        assert (model.name, model.ready) == ("resnet50", True)
        loading, available = model.versions
        assert (loading.version, loading.state, loading.ready) == (4, VersionState.LOADING, False)
        assert (available.version, available.state, available.labels) == (3, VersionState.AVAILABLE, ("stable",))
        assert available.card is None
        model = client.model("resnet50")
        assert model.versions[1].card.parameters == 25693063
        assert model.to_dict()["versions"][1]["card"]["provenance"]["training"] == "TRAINING_NONE"
        assert "card" not in model.to_dict()["versions"][0]
        with pytest.raises(NotFound, match="there are: resnet50"):
            client.model("vgg")


def test_errors_survive_pickling():
    error = Overloaded("busy", reason="QUEUE_FULL", request_id="r")
    error.retry_after = 2.0
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is Overloaded
    assert vars(copy) == vars(error)
