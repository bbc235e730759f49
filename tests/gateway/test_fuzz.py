"""Whatever bytes arrive, as a photo or as a request, there is an answer or a clean refusal, never an internal error."""

import asyncio
import contextlib
from random import Random

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dermserve.gateway.catalog import check_target
from dermserve.gateway.errors import GatewayError
from dermserve.gateway.plan import read_mode
from dermserve.gateway.tfserving import Target
from dermserve.imaging import PhotoError, decode
from dermserve.v1 import classifier_pb2
from tests.gateway.gateways import PHOTO, ask, make_photo, reason_of

PHOTOS = [make_photo(kind, size=(64, 48)) for kind in ("JPEG", "PNG", "WEBP")]
BUDGET = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def damaged_photos(draw: st.DrawFn) -> bytes:
    """A real photo with a few bytes changed, cut out or put in."""
    photo = bytearray(draw(st.sampled_from(PHOTOS)))
    for _ in range(draw(st.integers(1, 8))):
        at = draw(st.integers(0, len(photo)))
        photo[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(photo)


@given(damaged_photos() | st.binary(max_size=200))
@BUDGET
def test_a_damaged_photo_is_decoded_or_refused(data):
    with contextlib.suppress(PhotoError):
        assert decode(data, height=32, width=32).shape == (32, 32, 3)


@given(st.text(), st.integers(-(2**63), 2**63 - 1) | st.text() | st.none(), st.integers(-(2**31), 2**31 - 1))
@BUDGET
def test_any_choice_of_model_and_mode_is_read_or_refused(name, choice, mode):
    fields = {"version": choice} if isinstance(choice, int) else {"label": choice} if choice is not None else {}
    with contextlib.suppress(GatewayError):
        assert check_target(Target(name, **fields)).model == name
        assert read_mode(mode) in classifier_pb2.TtaMode.values()


@pytest.mark.parametrize("seed", range(3))
async def test_any_message_to_a_real_gateway_is_answered_or_refused_cleanly(running, seed):
    random, ends = Random(seed), set()
    selector = classifier_pb2.ModelSelector(name="resnet50")
    good = classifier_pb2.ClassifyRequest(model=selector, image=PHOTO, tta=1).SerializeToString()
    async with running() as world:
        classify = world.channel.unary_unary("/dermserve.v1.Classifier/Classify")

        async def send() -> None:
            message = bytearray(good)
            for _ in range(random.randint(1, 6)):
                message[random.choice([random.randrange(30), random.randrange(len(message))])] = random.randrange(256)
            try:
                await classify(bytes(message), timeout=100)
                ends.add("OK")
            except grpc.aio.AioRpcError as error:
                ends.add(reason_of(error))

        for _ in range(10):
            await asyncio.gather(*(send() for _ in range(10)))
    assert {"OK", "MALFORMED_REQUEST", "MODEL_NOT_FOUND"} <= ends
    assert not ends & {"INTERNAL", "UNKNOWN", "INVALID_MODEL_OUTPUT", "MODEL_SERVER_FAILED"}


async def test_what_is_no_message_of_a_method_is_refused_by_all_of_them(running):
    async with running() as world:
        for method in ("Classify", "ListModels", "GetModel"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await world.channel.unary_unary(f"/dermserve.v1.Classifier/{method}")(b"\xff", timeout=100)
            assert reason_of(refused.value) == "MALFORMED_REQUEST"
        stream = world.channel.stream_stream("/dermserve.v1.Classifier/ClassifyStream")(timeout=100)
        await stream.write(classifier_pb2.ClassifyStreamRequest(id="a", request=ask()).SerializeToString())
        await stream.write(b"\xff")
        answer = classifier_pb2.ClassifyStreamResponse.FromString(await stream.read())
        assert (answer.id, len(answer.response.classes)) == ("a", 7)
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
