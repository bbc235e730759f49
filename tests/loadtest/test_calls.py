"""Each call is reported once, with its status, model, mode and sizes; over real gRPC."""

import time

import grpc
import pytest
from google.rpc import code_pb2

from dermserve.loadtest.calls import UNANSWERED, Call, ReportCalls
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc
from tests.client import fake_gateway


@pytest.fixture
def gateway():
    return fake_gateway.FakeGateway()


@pytest.fixture
def reported() -> list[Call]:
    return []


@pytest.fixture
def stub(gateway, reported):
    with (
        fake_gateway.serving(gateway) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
    ):
        yield classifier_pb2_grpc.ClassifierStub(grpc.intercept_channel(channel, ReportCalls(reported.append)))


def request(mode: str = "FULL", image: bytes = b"photo") -> classifier_pb2.ClassifyRequest:
    model = classifier_pb2.ModelSelector(name="resnet50")
    return classifier_pb2.ClassifyRequest(model=model, image=image, tta=f"TTA_MODE_{mode}")


def items(*images: bytes):
    for index, image in enumerate(images):
        yield classifier_pb2.ClassifyStreamRequest(id=str(index), request=request(image=image))


def test_an_answer_is_reported_once_with_all_that_is_known(stub, reported):
    answer = stub.Classify(request(), timeout=100)
    (call,) = reported
    assert (call.name, call.status) == ("Classify resnet50 FULL", "OK")
    assert call.response_bytes == answer.ByteSize()
    assert call.milliseconds > 0


def test_a_mode_that_is_not_given_is_none(stub, reported):
    stub.Classify(request("UNSPECIFIED"), timeout=100)
    assert reported[0].mode == "NONE"


@pytest.mark.parametrize("code", [code_pb2.RESOURCE_EXHAUSTED, code_pb2.INVALID_ARGUMENT])
def test_an_error_is_reported_once_with_its_status(gateway, stub, reported, code):
    gateway.classify = lambda _, context: fake_gateway.abort(context, fake_gateway.rich_status(code, "no"))
    with pytest.raises(grpc.RpcError):
        stub.Classify(request(), timeout=100)
    (call,) = reported
    assert (call.status, call.message, call.response_bytes) == (code_pb2.Code.Name(code), "no", 0)


def test_a_future_is_reported_once(stub, reported):
    future = stub.Classify.future(request(), timeout=100)
    future.result()

    until = time.monotonic() + 100  # the report follows the result in another thread
    while not reported and time.monotonic() < until:
        time.sleep(0.01)
    assert [call.status for call in reported] == ["OK"]


def test_latency_counts_from_when_the_call_was_due(gateway, reported):
    interceptor = ReportCalls(reported.append, due=lambda: time.perf_counter() - 1000)
    with fake_gateway.serving(gateway) as port, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        classifier_pb2_grpc.ClassifierStub(grpc.intercept_channel(channel, interceptor)).Classify(request(), timeout=99)
    assert 1_000_000 <= reported[0].milliseconds < 1_100_000


def test_each_photo_of_a_stream_is_reported_once_with_its_own_status(stub, reported):
    answers = list(stub.ClassifyStream(items(b"a", b"bad", b"c"), timeout=100))
    assert len(answers) == 3
    assert sorted(call.status for call in reported) == ["INVALID_ARGUMENT", "OK", "OK"]
    assert {call.name for call in reported} == {"ClassifyStream resnet50 FULL"}


def test_photos_of_a_stream_that_breaks_get_its_status(gateway, stub, reported):
    def break_off(requests, context):
        yield gateway.item(next(requests))
        next(requests)
        fake_gateway.abort(context, fake_gateway.rich_status(code_pb2.UNAVAILABLE, "gone"))

    gateway.stream = break_off
    with pytest.raises(grpc.RpcError):
        list(stub.ClassifyStream(items(b"a", b"b"), timeout=100))
    assert sorted(call.status for call in reported) == ["OK", "UNAVAILABLE"]


def test_a_photo_without_an_answer_is_not_forgotten(gateway, stub, reported):
    def skip_one(requests, context):
        first, _ = requests
        yield gateway.item(first)

    gateway.stream = skip_one
    list(stub.ClassifyStream(items(b"a", b"b"), timeout=100))
    assert sorted(call.status for call in reported) == ["OK", UNANSWERED]
