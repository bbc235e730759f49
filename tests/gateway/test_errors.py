"""Every error of the tree reaches a caller as its status, its reason and, where it helps, a time to try again."""

import inspect

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from structlog.testing import capture_logs

from dermserve.gateway import errors
from dermserve.gateway.budget import Budget
from dermserve.gateway.config import Config
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.rpc import Rpcs
from dermserve.gateway.tracing import Tracing
from dermserve.imaging import PhotoError, TooManyBytesError
from dermserve.imaging.errors import EmptyPhotoError, UnsupportedFormatError
from tests.gateway.gateways import PHOTO, ask, reason_of, status_of

EXAMPLES = {
    "model": "resnet50", "label": "x", "version": 3, "mode": 9, "stage": "decoding", "fault": "it is not finite",
    "known": ["a", "b"], "seconds": 1.5,
}  # fmt: skip


def _tree(base: type[errors.GatewayError]) -> list[type[errors.GatewayError]]:
    return [base, *(error for child in base.__subclasses__() for error in _tree(child))]


def _example(kind: type[errors.GatewayError]) -> errors.GatewayError:
    if issubclass(kind, errors.RefusedPhotoError):
        return kind(EmptyPhotoError())
    if kind.__init__ is Exception.__init__ or kind in (errors.GatewayError, errors.InternalError):
        return kind("in words")
    wanted = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    return kind(*(EXAMPLES[name] for name in wanted if name in EXAMPLES))


async def _over_the_wire(raised: Exception) -> grpc.aio.AioRpcError:
    """Raise it in a handler of a real server, as our service does, and return what a real client gets."""
    rpcs = Rpcs(Config(), metrics=Metrics(()), tracing=Tracing())

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
                await channel.unary_unary("/test.Test/Call")(b"", metadata=(("x-request-id", "r-1"),), timeout=20)
            return caught.value
    finally:
        await server.stop(None)


@pytest.mark.parametrize("kind", _tree(errors.GatewayError), ids=lambda kind: kind.__name__)
async def test_every_error_arrives_with_status_reason_and_message(kind):
    error = _example(kind)
    arrived = await _over_the_wire(error)
    assert arrived.code() is error.status
    assert arrived.details() == str(error)
    assert reason_of(arrived) == error.reason
    assert ("x-request-id", "r-1") in list(arrived.trailing_metadata())
    pushback = dict(arrived.trailing_metadata()).get("grpc-retry-pushback-ms")
    exhausted = issubclass(kind, errors.ExhaustedError)
    assert (pushback is not None) == exhausted
    if exhausted:
        assert int(pushback) == (-1 if error.retry_after is None else int(error.retry_after * 1000))
    kinds = [detail.TypeName() for detail in status_of(arrived).details]
    assert ("google.rpc.RetryInfo" in kinds) == (error.retry_after is not None)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        assert status_of(arrived).details[1].Unpack(retry)
        assert retry.retry_delay.ToTimedelta().total_seconds() == pytest.approx(error.retry_after)


@pytest.mark.parametrize("kind", _tree(errors.GatewayError), ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_is_the_tree(kind):
    line = next(line for line in errors.__doc__.splitlines() if line.split() and kind.__name__ in line.split())
    leaf = not kind.__subclasses__()
    if leaf and not issubclass(kind, errors.RefusedPhotoError):
        assert kind.reason in line


def test_no_two_errors_share_a_reason():
    reasons = [kind.reason for kind in _tree(errors.GatewayError) if "reason" in vars(kind)]
    assert len(set(reasons)) == len(reasons)


async def test_what_was_not_intended_says_nothing_of_itself_but_to_the_log():
    with capture_logs() as log:
        arrived = await _over_the_wire(ZeroDivisionError("secret detail"))
    assert (arrived.code(), arrived.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert reason_of(arrived) == "INTERNAL"
    assert "secret" not in repr(status_of(arrived))
    (entry,) = [entry for entry in log if entry["event"] == "request_failed"]
    assert entry["request_id"] == "r-1"
    assert "exc_info" in entry


def test_photo_errors_keep_their_reason_and_only_size_is_exhaustion():
    for error in (EmptyPhotoError(), UnsupportedFormatError("GIF"), TooManyBytesError(2, 1)):
        refused = errors.RefusedPhotoError(error)
        assert refused.reason == error.reason
        large = isinstance(error, TooManyBytesError)
        expected = grpc.StatusCode.RESOURCE_EXHAUSTED if large else grpc.StatusCode.INVALID_ARGUMENT
        assert refused.status is expected
    assert len(_tree(errors.GatewayError)) > len(PhotoError.__subclasses__())


def test_what_a_caller_sent_is_repeated_only_shortened():
    error = errors.UnknownModelError("x" * 10_000_000, [f"model-{index}" for index in range(1000)])
    assert len(str(error)) < 500


def test_a_budget_that_is_over_refuses_further_stages():
    now = 10.0
    budget = Budget(12.0, lambda: now)
    assert budget.require("decoding") == 2.0
    now = 12.0
    with pytest.raises(errors.BudgetSpentError, match="predicting"):
        budget.require("predicting")


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
