"""The model server is absent, slow, full, wrong or on the move: callers get the right error in time, and it passes."""

import asyncio
import contextlib

import grpc
import grpc.aio
import numpy as np
import pytest
from structlog.testing import capture_logs

from dermserve.gateway import batching
from dermserve.gateway.catalog import Catalog
from dermserve.tfserving.v1 import serving_pb2, tensor_pb2
from dermserve.v1 import classifier_pb2
from tests.gateway.fake_tfserving import FakeTfServing, Version, floats, make_card
from tests.gateway.gateways import NOT_SERVING, SERVING, ask, reason_of
from tests.gateway.gateways import running as gateway_before

LOADING = serving_pb2.ModelVersionStatus.STATE_LOADING


async def _free_address(tfs: FakeTfServing) -> str:
    async with tfs.serving() as address:
        return address


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def test_a_model_server_absent_at_start_is_unavailable_and_found_when_it_comes(tfs):
    address = await _free_address(tfs)
    async with gateway_before(tfs_address=address, ready=False) as world:
        refused = await world.refusal(ask())
        assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.UNAVAILABLE, "MODEL_SERVER_UNREACHABLE")
        assert await world.health() == NOT_SERVING
        assert await world.health("liveness") == SERVING
        async with tfs.serving(_port(address)):
            await asyncio.wait_for(world.until_health(SERVING), 100)
            assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_a_restarted_model_server_is_found_again_and_its_cards_are_read_anew(tfs):
    address = await _free_address(tfs)
    async with contextlib.AsyncExitStack() as first:
        await first.enter_async_context(tfs.serving(_port(address)))
        async with gateway_before(tfs_address=address) as world:
            await first.aclose()
            refused = await world.refusal(ask())
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
            await asyncio.wait_for(world.until_health(NOT_SERVING), 100)
            tfs.models["resnet50"][1] = Version(make_card(trained=False))
            async with tfs.serving(_port(address)):
                await asyncio.wait_for(world.until_health(SERVING), 100)
                answer = await world.stub.Classify(ask(), timeout=100)
                assert list(answer.reasons) == [classifier_pb2.REASON_UNTRAINED_MODEL]


async def test_bytes_that_are_no_message_are_the_model_servers_fault_and_no_fault_of_ours(running, tfs, caplog):
    async with running() as world:
        tfs.garbled.add("Predict")
        refused = await world.refusal(ask())
        assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.INTERNAL, "INVALID_MODEL_OUTPUT")
        tfs.garbled = {"GetModelStatus", "GetModelMetadata"}
        with capture_logs() as log:
            await asyncio.wait_for(world.until_health(NOT_SERVING), 100)
        assert not [entry for entry in log if entry["event"] == "catalog_poll_failed"]
        tfs.garbled.clear()
        await asyncio.wait_for(world.until_health(SERVING), 100)
        assert (await world.stub.Classify(ask(), timeout=100)).classes
    assert not caplog.records  # gRPC's own stack traces


async def test_a_model_server_that_never_answers_costs_no_more_than_the_deadline(running, tfs):
    never = asyncio.Event()
    async with running() as world:
        tfs.on_predict = lambda _: never.wait()
        refused = await world.refusal(ask(), timeout=0.5)
        assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        tfs.on_predict = None
        assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_a_caller_without_a_deadline_gets_the_default_and_nobody_more_than_the_cap(running, tfs):
    never = asyncio.Event()
    async with running(default_deadline_seconds=0.3, max_deadline_seconds=0.6) as world:
        tfs.on_predict = lambda _: never.wait()
        for timeout in (None, 100):
            refused = await world.refusal(ask(), timeout=timeout)
            assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


async def test_a_caller_with_a_millisecond_left_is_refused_and_the_next_answered(running):
    async with running() as world:
        refused = await world.refusal(ask(), timeout=0.001)
        assert refused.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await world.stub.Classify(ask(), timeout=100)).classes


async def test_a_caller_that_cancels_cancels_the_call_to_the_model_server(running, tfs):
    arrived, cancelled = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with running() as world:
        tfs.on_predict = lambda _: hold()
        call = world.stub.Classify(ask(), timeout=100)
        sending = asyncio.ensure_future(call)
        await asyncio.wait_for(arrived.wait(), 100)
        call.cancel()
        await asyncio.wait_for(cancelled.wait(), 100)
        await asyncio.gather(sending, return_exceptions=True)
        tfs.on_predict = None
        assert (await world.stub.Classify(ask(), timeout=100)).classes


@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        ((grpc.StatusCode.UNAVAILABLE, "gone"), grpc.StatusCode.UNAVAILABLE, "MODEL_SERVER_UNREACHABLE"),
        (
            (grpc.StatusCode.UNAVAILABLE, "The batch scheduling queue to which this task was submitted is full"),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "MODEL_SERVER_BUSY",
        ),
        (
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted"),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "MODEL_SERVER_BUSY",
        ),
        ((grpc.StatusCode.FAILED_PRECONDITION, "/secret/path"), grpc.StatusCode.INTERNAL, "MODEL_SERVER_FAILED"),
        ((grpc.StatusCode.INTERNAL, "/secret/path"), grpc.StatusCode.INTERNAL, "MODEL_SERVER_FAILED"),
        ((grpc.StatusCode.INVALID_ARGUMENT, "/secret/path"), grpc.StatusCode.INTERNAL, "MODEL_SERVER_FAILED"),
        ((grpc.StatusCode.NOT_FOUND, "Servable not found"), grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_AVAILABLE"),
    ],
)
async def test_what_fails_in_the_model_server_is_told_without_its_words(running, tfs, fault, code, reason, monkeypatch):
    monkeypatch.setattr(batching, "_BACK_OFF", 1e6)  # longer than the budget: one that is full is not asked again
    async with running() as world:
        tfs.faults["Predict"] = fault
        refused = await world.refusal(ask())
        assert (refused.code(), reason_of(refused)) == (code, reason)
        assert "secret" not in refused.details()
        del tfs.faults["Predict"]
        assert (await world.stub.Classify(ask(), timeout=100)).classes


def _set(name: str, array: np.ndarray):
    return lambda response: response.outputs[name].CopyFrom(floats(array))


def _double(response: serving_pb2.PredictResponse) -> None:
    response.outputs["probabilities"].dtype = tensor_pb2.DATA_TYPE_DOUBLE


def _lies(response: serving_pb2.PredictResponse) -> None:
    response.outputs["probabilities"].tensor_shape.dim[0].size = 10**12


def _short_content(response: serving_pb2.PredictResponse) -> None:
    response.outputs["probabilities"].tensor_content = b"abc"


WRONG = {
    "six_classes": _set("probabilities", np.full((1, 6), 1 / 6)),
    "two_views": _set("probabilities", np.full((2, 7), 1 / 7)),
    "one_dimension": _set("probabilities", np.full(7, 1 / 7)),
    "no_views": _set("probabilities", np.zeros((0, 7))),
    "nan": _set("probabilities", np.full((1, 7), np.nan)),
    "infinite": _set("probabilities", np.array([[np.inf, 0, 0, 0, 0, 0, 0]])),
    "unnormalised": _set("probabilities", np.full((1, 7), 0.5)),
    "all_zero": _set("probabilities", np.zeros((1, 7))),
    "negative": _set("probabilities", np.array([[1.5, -0.5, 0, 0, 0, 0, 0]])),
    "nan_ood_score": _set("ood_score", np.array([np.nan])),
    "two_ood_scores": _set("ood_score", np.zeros(2)),
    "wrong_dtype": _double,
    "impossible_shape": _lies,
    "short_content": _short_content,
    "no_probabilities": lambda response: response.outputs.pop("probabilities"),
    "no_version": lambda response: response.model_spec.ClearField("version"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_an_answer_no_classifier_can_give_never_becomes_one_of_ours(running, tfs, wrong):
    async with running() as world:
        tfs.mend = WRONG[wrong]
        refused = await world.refusal(ask())
        assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.INTERNAL, "INVALID_MODEL_OUTPUT")
        tfs.mend = None
        assert (await world.stub.Classify(ask(), timeout=100)).classes


WRONG_VIEWS = {
    "five_views": _set("view_probabilities", np.full((1, 5, 7), 1 / 7)),
    "twenty_views": _set("view_probabilities", np.full((1, 20, 7), 1 / 7)),
    "two_images": _set("view_probabilities", np.full((2, 10, 7), 1 / 7)),
    "two_dimensions": _set("view_probabilities", np.full((10, 7), 1 / 7)),
    "none": lambda response: response.outputs.pop("view_probabilities"),
}


@pytest.mark.parametrize("wrong", WRONG_VIEWS)
async def test_other_views_than_were_asked_for_are_no_answer(running, tfs, wrong):
    tfs.mend = WRONG_VIEWS[wrong]
    async with running() as world:
        refused = await world.refusal(ask(tta=classifier_pb2.TTA_MODE_FULL))
        assert reason_of(refused) == "INVALID_MODEL_OUTPUT"


async def test_an_answer_in_tensor_content_is_read_as_well(running, tfs):
    def content(response: serving_pb2.PredictResponse) -> None:
        for name in ("probabilities", "ood_score"):
            tensor = response.outputs[name]
            shape = [dim.size for dim in tensor.tensor_shape.dim]
            tensor.CopyFrom(floats(np.reshape(tensor.float_val, shape), content=True))

    async with running() as world:
        tfs.mend = content
        assert (await world.stub.Classify(ask(), timeout=100)).classes[0].code == "bkl"


async def test_a_swap_between_looks_fails_no_request_and_uses_the_new_versions_card(running, tfs):
    async with running(poll_seconds=60) as world:
        tfs.models["resnet50"] = {2: Version(make_card(trained=False))}
        answer = await world.stub.Classify(ask(), timeout=100)
        assert (answer.version, list(answer.reasons)) == (2, [classifier_pb2.REASON_UNTRAINED_MODEL])
        await asyncio.gather(*(world.stub.Classify(ask(), timeout=100) for _ in range(20)))
        assert tfs.describes.count(("resnet50", 2)) == 1


async def test_a_request_during_a_poll_that_finds_its_version_gone_is_answered(monkeypatch):
    held, go_on, poll = asyncio.Event(), asyncio.Event(), Catalog.poll

    async def joined(catalog: Catalog) -> None:
        go_on.set()
        await poll(catalog)

    class SlowLabels(FakeTfServing):
        async def _metadata(self, request, context):
            if 2 in self.models["resnet50"]:
                held.set()
                await go_on.wait()
            return await super()._metadata(request, context)

    tfs = SlowLabels()
    async with tfs.serving() as address, gateway_before(tfs_address=address) as world:
        tfs.models["resnet50"] = {2: Version(make_card(min_confidence=0.5))}
        await held.wait()  # the poll knows that version 1 is gone, and still asks for the labels
        monkeypatch.setattr(Catalog, "poll", joined)
        assert (await world.stub.Classify(ask(), timeout=100)).version == 2
        assert ("resnet50", 1) not in tfs.describes[2:]


async def test_a_swap_to_another_input_size_starts_again_with_the_right_pixels(running, tfs):
    async with running(poll_seconds=60) as world:
        tfs.models["resnet50"] = {2: Version(make_card(size=96))}
        answer = await world.stub.Classify(ask(), timeout=100)
        assert answer.version == 2
        assert [dim.size for dim in tfs.predicts[-1].inputs["images"].tensor_shape.dim] == [1, 96, 96, 3]


async def test_a_version_that_goes_while_a_request_names_it_is_not_found(running, tfs):
    tfs.models["resnet50"][2] = Version(make_card())
    async with running(poll_seconds=60) as world:
        del tfs.models["resnet50"][1]
        with capture_logs() as logged:
            refused = await world.refusal(ask(version=1))
        assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
        (line,) = (each for each in logged if each["event"] == "request_refused")
        assert "Servable not found" in line["cause"]
        assert (line["model"], line["stage"]) == ("resnet50", "predict")


@pytest.mark.parametrize("card", ["{", "{}", '{"schema_version": 99}', ""])
async def test_a_version_without_a_valid_card_answers_nothing(running, tfs, card):
    tfs.models["resnet50"][2] = Version(card)
    async with running() as world:
        shown = (await world.stub.GetModel(classifier_pb2.GetModelRequest(name="resnet50"))).model
        assert [(version.version, version.ready) for version in shown.versions] == [(2, False), (1, True)]
        assert (await world.stub.Classify(ask(), timeout=100)).version == 1
        refused = await world.refusal(ask(version=2))
        assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.FAILED_PRECONDITION, "INVALID_CARD")


async def test_a_model_whose_every_version_lacks_a_valid_card_is_logged_with_the_reasons(running, tfs):
    tfs.models["resnet50"] |= {2: Version("{}"), 3: Version("{}", state=LOADING)}
    with capture_logs() as logged:
        async with running() as world:
            del tfs.models["resnet50"][1]  # 3 may still have one
            await asyncio.wait_for(world.until_health(NOT_SERVING), 100)
            assert [line for line in logged if line["event"] == "model_unusable"] == []
            del tfs.models["resnet50"][3]
            while not (found := [line for line in logged if line["event"] == "model_unusable"]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert [(line["model"], [*line["faults"]]) for line in found] == [("resnet50", [2])]
    assert "schema_version is 0" in found[0]["faults"][2]


async def test_requests_for_a_version_without_a_valid_card_do_not_read_it_again(running, tfs):
    tfs.models["resnet50"][2] = Version("{")
    async with running(poll_seconds=60) as world:
        read = tfs.describes.count(("resnet50", 2))
        for _ in range(5):
            assert reason_of(await world.refusal(ask(version=2))) == "INVALID_CARD"
        assert tfs.describes.count(("resnet50", 2)) == read


async def test_a_card_with_views_we_can_not_make_is_not_valid(running, tfs):
    card = make_card()
    card.views.append("zoomed")
    tfs.models["resnet50"][2] = Version(card)
    async with running() as world:
        assert "zoomed" in (await world.refusal(ask(version=2))).details()


@pytest.mark.parametrize("side", [1, 3, 100_000])
async def test_a_card_with_an_input_that_no_photo_can_be_made_for_is_not_valid(running, tfs, side):
    tfs.models["resnet50"][2] = Version(make_card(size=side))
    async with running() as world:
        assert str(side) in (await world.refusal(ask(version=2))).details()
        assert (await world.stub.Classify(ask(), timeout=100)).version == 1


async def test_a_model_without_an_available_version_is_unavailable_and_turns_health_red(running, tfs):
    async with running() as world:
        assert await world.health("dermserve.v1.Classifier") == SERVING
        tfs.models["resnet50"][1].state = LOADING
        await asyncio.wait_for(world.until_health(NOT_SERVING), 100)
        refused = await world.refusal(ask())
        assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_AVAILABLE")
        assert (await world.stub.Classify(ask(model="mobilenet_v3_small"), timeout=100)).classes
        shown = (await world.stub.GetModel(classifier_pb2.GetModelRequest(name="resnet50"))).model
        assert shown.versions[0].state == classifier_pb2.VERSION_STATE_LOADING
        tfs.models["resnet50"][1].state = 30
        await asyncio.wait_for(world.until_health(SERVING), 100)


async def test_a_full_model_server_is_not_a_dead_one(running, tfs):
    async with running() as world:
        tfs.faults["GetModelStatus"] = (grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        for _ in range(20):
            await asyncio.wait_for(tfs.looks.get(), 100)
        assert await world.health() == SERVING
        assert (await world.stub.Classify(ask(), timeout=100)).classes
