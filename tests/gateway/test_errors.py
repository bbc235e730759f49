"""Every error of the tree reaches a caller as its status, its reason and, where it helps, a time to try again."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from structlog.testing import capture_logs

from dermserve.gateway import errors
from dermserve.gateway.config import Config
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.rpc import Rpcs
from dermserve.gateway.tracing import Tracing
from dermserve.imaging import PhotoError, TooManyBytesError
from tests.gateway.gateways import PHOTO, ask, reason_of, status_of


async def _over_the_wire(raised: Exception) -> grpc.aio.AioRpcError:
    """Raise it in a handler of a real server, as our service does, and return what a real client gets."""
    rpcs = Rpcs(Config(), metrics=Metrics(()), tracing=Tracing(), finished=asyncio.Event())

    async def handler(_request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        async with rpcs.open("Test", context):
            raise raised

    server = grpc.aio.server()
    handlers = {"Call": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Test/Call")(b"", metadata=(("x-request-id", "r-1"),), timeout=100)
            return caught.value
    finally:
        await server.stop(None)


@pytest.mark.parametrize("reason", errors.STATUSES)
async def test_every_error_arrives_with_status_reason_and_message(reason):
    error = errors.GatewayError(reason, "in words")
    arrived = await _over_the_wire(error)
    assert arrived.code() is errors.STATUSES[reason]
    assert arrived.details() == "in words"
    assert reason_of(arrived) == reason
    assert ("x-request-id", "r-1") in list(arrived.trailing_metadata())
    pushback = dict(arrived.trailing_metadata()).get("grpc-retry-pushback-ms")
    exhausted = errors.STATUSES[reason] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (pushback is not None) == exhausted
    if exhausted:
        assert int(pushback) == (-1 if error.retry_after is None else int(error.retry_after * 1000))
    kinds = [detail.TypeName() for detail in status_of(arrived).details]
    assert ("google.rpc.RetryInfo" in kinds) == (error.retry_after is not None)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        assert status_of(arrived).details[1].Unpack(retry)
        assert retry.retry_delay.ToTimedelta().total_seconds() == pytest.approx(error.retry_after)


@pytest.mark.parametrize("reason", errors.STATUSES)
def test_what_is_unavailable_names_a_time_to_try_again_and_what_is_wrong_does_not(reason):
    later = errors.STATUSES[reason] is grpc.StatusCode.UNAVAILABLE or reason in {"OUT_OF_MEMORY", "MODEL_SERVER_BUSY"}
    assert (errors.GatewayError(reason, "").retry_after is not None) == later


def test_overload_names_its_own_time_to_try_again():
    assert errors.OverloadedError(1.5).retry_after == 1.5


async def test_what_was_not_intended_says_nothing_of_itself_but_to_the_log():
    with capture_logs() as log:
        arrived = await _over_the_wire(ZeroDivisionError("secret detail"))
    assert (arrived.code(), arrived.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert reason_of(arrived) == "INTERNAL"
    assert "secret" not in repr(status_of(arrived))
    (entry,) = [entry for entry in log if entry["event"] == "request_failed"]
    assert entry["request_id"] == "r-1"
    assert "exc_info" in entry


def test_every_photo_error_has_a_status_and_only_size_is_exhaustion():
    for kind in PhotoError.__subclasses__():
        large = kind is TooManyBytesError
        expected = grpc.StatusCode.RESOURCE_EXHAUSTED if large else grpc.StatusCode.INVALID_ARGUMENT
        assert errors.STATUSES[kind.reason] is expected


def test_what_a_caller_sent_is_repeated_only_shortened():
    assert len(errors.shown("x" * 10_000_000)) < 100
    assert len(errors.listed(f"model-{index}" for index in range(1000))) < 300


@pytest.mark.parametrize(
    ("request_message", "reason", "words"),
    [
        (ask(model=""), "MODEL_REQUIRED", "ListModels"),
        (ask(model="vgg16"), "MODEL_NOT_FOUND", "resnet50, mobilenet_v3_small"),
        (ask(model="x" * 100_000), "MODEL_NOT_FOUND", "xxx"),
        (ask(model="naïve \U0001f600"), "MODEL_NOT_FOUND", "naïve"),
        (ask(version=99), "VERSION_NOT_FOUND", "there is 2, 1"),
        (ask(version=0), "INVALID_VERSION", "start at 1"),
        (ask(version=-1), "INVALID_VERSION", "start at 1"),
        (ask(version=2**63 - 1), "VERSION_NOT_FOUND", "9223372036854775807"),
        (ask(label="nope"), "LABEL_NOT_FOUND", "there is stable"),
        (ask(label=""), "INVALID_LABEL", "stable"),
        (ask(label="y" * 128), "LABEL_NOT_FOUND", "yyy"),
        (ask(label="y" * 129), "INVALID_LABEL", "128"),
        (ask(tta=77), "INVALID_TTA_MODE", "TTA_MODE_FULL"),
        (ask(tta=-1), "INVALID_TTA_MODE", "TTA_MODE_NONE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_choice_that_is_not_there_is_refused_with_what_is(running, tfs, request_message, reason, words):
    tfs.models["resnet50"][2] = tfs.models["resnet50"][1]
    tfs.labels["resnet50", "stable"] = 1
    async with running() as world:
        refused = await world.refusal(request_message)
        assert reason_of(refused) == reason
        assert words in refused.details()
        assert (await world.stub.Classify(ask(PHOTO))).classes
