"""Time that runs out costs views before it costs the answer; ADAPTIVE spends views only where they can matter."""

import asyncio
import contextlib

import grpc
import numpy as np
import pytest

from dermserve.gateway.budget import Costs
from dermserve.imaging import STANDARD_VIEWS, decode, make_views
from dermserve.v1 import classifier_pb2
from tests.gateway.fake_tfserving import CODES, Version, make_card, pixels_of
from tests.gateway.gateways import PHOTO, ask, reason_of

FULL, ADAPTIVE = classifier_pb2.TTA_MODE_FULL, classifier_pb2.TTA_MODE_ADAPTIVE


def _margin(margin: float):
    """Scores whose two top classes are `margin` apart."""
    rest = (1 - margin) / 2
    row = [rest + margin, rest, 0, 0, 0, 0, 0]
    return lambda pixels: np.tile(row, (len(pixels), 1))


async def test_views_that_do_not_fit_the_budget_are_dropped_and_the_answer_says_so(running, tfs, costs):
    async with running(models=["resnet50"]) as world:
        costs.note("resnet50", 10, 200.0)
        answer = await world.stub.Classify(ask(tta=FULL), timeout=100)
    assert answer.views_asked == 10
    assert 1 < answer.views_used <= 4  # at 20 s each, within 0.8 of 100 s
    identity = decode(PHOTO, height=224, width=224)
    np.testing.assert_array_equal(pixels_of(tfs.predicts[0])[0], identity)


async def test_a_request_that_can_not_make_it_is_refused_before_the_model_server_works(running, tfs, costs):
    async with running(models=["resnet50"]) as world:
        costs.note("resnet50", 1, 250.0)  # half of what a call takes is hopeless
        refused = await world.refusal(ask(), timeout=100)
    assert (refused.code(), reason_of(refused)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert not tfs.predicts


async def test_of_views_for_which_there_was_no_time_the_next_requests_ask_for_fewer(running, tfs):
    async def work(request: object) -> None:
        if len(pixels_of(request)) > 3:
            await asyncio.Event().wait()

    async with running(models=["resnet50"], default_deadline_seconds=0.5) as world:
        tfs.on_predict = work
        for _ in range(30):  # more than it takes, as a busy machine is slow
            with contextlib.suppress(grpc.aio.AioRpcError):
                answer = await world.stub.Classify(ask(tta=FULL))
                break
    assert (answer.views_asked, answer.views_used) in {(10, views) for views in (1, 2, 3)}


def test_a_server_that_hung_does_not_make_short_requests_hopeless():
    costs = Costs()
    costs.note("m", 1, 0.07)
    for _ in range(30):
        costs.note("m", 1, 60.0, late=True)
    assert costs.fit("m", 1, left=1.0) == 1
    costs.note("m", 1, 0.07)
    assert costs.expect("m", 1) == 0.07


def test_what_a_call_takes_is_learned_from_calls_of_as_many_views_or_nearly_as_many():
    costs = Costs()
    assert (costs.expect("m", 1), costs.fit("m", 10, left=0.001)) == (0, 10)  # before the first answer
    costs.note("m", 10, 1.0)
    assert (costs.expect("m", 5), costs.expect("other", 5)) == (0.5, 0)
    costs.note("m", 1, 0.0625)  # so ten take no more than 0.625
    assert [costs.expect("m", views) for views in (1, 4, 9, 10)] == [0.0625, 0.25, 0.5625, 0.625]
    costs.note("m", 1, 0.125)
    assert costs.expect("m", 1) == pytest.approx(0.075)


def test_views_fit_into_a_share_of_the_time_left_and_one_into_half_of_what_it_takes():
    costs = Costs()
    costs.note("m", 1, 0.125)
    assert [costs.fit("m", 4, left=left) for left in (0.625, 0.624, 0.15625, 0.0625)] == [4, 3, 1, 1]
    for _ in range(5):  # each refusal makes the next less likely
        assert costs.fit("m", 4, left=0.057) == 0
    assert costs.fit("m", 4, left=0.057) == 1


def test_a_model_that_is_faster_again_gets_all_views_again():
    costs = Costs()
    costs.note("m", 10, 1.0, late=True)
    costs.note("m", 5, 0.7)
    assert costs.fit("m", 10, left=1.0) < 10
    for _ in range(10):
        costs.note("m", 5, 0.2)
    assert costs.fit("m", 10, left=1.0) == 10


@pytest.mark.parametrize(("margin", "views"), [(0.8, 1), (0.5, 1), (0.49, 10), (0.0, 10)])
async def test_adaptive_looks_again_only_below_the_cards_margin(running, tfs, margin, views):
    tfs.models["resnet50"][1] = Version(make_card(min_confidence=0.1, adaptive_margin=0.5), scores=_margin(margin))
    async with running() as world:
        answer = await world.stub.Classify(ask(tta=ADAPTIVE), timeout=100)
    assert (answer.views_asked, answer.views_used) == (views, views)
    assert [len(pixels_of(request)) for request in tfs.predicts] == ([1] if views == 1 else [1, 9])


@pytest.mark.parametrize(("margins", "batches"), [((0.6,), [1]), ((0.4, 0.6), [1, 2]), ((0.4, 0.1), [1, 2, 7])])
async def test_adaptive_stops_at_the_first_look_that_is_clear_enough(running, tfs, margins, batches):
    card = make_card(min_confidence=0.1, adaptive_margin=0.5, adaptive_looks=[{"views": 3, "margin": 0.45}])

    def scores(pixels: np.ndarray) -> np.ndarray:
        return _margin(margins[min(len(tfs.predicts), len(margins)) - 1])(pixels)

    tfs.models["resnet50"][1] = Version(card, scores=scores)
    async with running() as world:
        answer = await world.stub.Classify(ask(tta=ADAPTIVE), timeout=100)
    assert [len(pixels_of(request)) for request in tfs.predicts] == batches
    assert (answer.views_asked, answer.views_used) == (sum(batches), sum(batches))
    sent = np.concatenate([pixels_of(request) for request in tfs.predicts])
    views = make_views(decode(PHOTO, height=224, width=224), STANDARD_VIEWS)
    np.testing.assert_array_equal(sent, views[: len(sent)])


async def test_adaptive_that_looks_again_says_what_full_says_of_the_same_pixels(running, tfs):
    def scores(pixels: np.ndarray) -> np.ndarray:
        rows = pixels.reshape(len(pixels), -1)[:, :7].astype(float) + 100
        return rows / rows.sum(1, keepdims=True)

    card = make_card(min_confidence=0.1, adaptive_margin=1.0)
    tfs.models["resnet50"][1] = Version(card, scores=scores)
    async with running() as world:
        adaptive = await world.stub.Classify(ask(tta=ADAPTIVE), timeout=100)
        sent = np.concatenate([pixels_of(request) for request in tfs.predicts])
        full = await world.stub.Classify(ask(tta=FULL), timeout=100)
    np.testing.assert_array_equal(sent, make_views(decode(PHOTO, height=224, width=224), STANDARD_VIEWS))
    for ours, theirs in zip(adaptive.classes, full.classes, strict=True):
        assert (ours.code, ours.probability, ours.std) == (
            theirs.code,
            pytest.approx(theirs.probability),
            pytest.approx(theirs.std),
        )


async def test_adaptive_without_a_fitted_margin_is_full(running, tfs):
    async with running() as world:
        answer = await world.stub.Classify(ask(tta=ADAPTIVE), timeout=100)
    assert (answer.views_asked, answer.views_used, len(tfs.predicts)) == (10, 10, 1)


async def test_both_stages_of_adaptive_ask_the_same_version(running, tfs):
    card = make_card(min_confidence=0.1, adaptive_margin=1.0)
    tfs.models["resnet50"][1] = Version(card)

    def publish(request: object) -> None:
        tfs.models["resnet50"][2] = Version(card)

    async with running() as world:
        tfs.on_predict = publish
        answer = await world.stub.Classify(ask(tta=ADAPTIVE), timeout=100)
    assert answer.version == 1
    assert [request.model_spec.version.value for request in tfs.predicts] == [0, 1]


async def test_a_version_unloaded_between_the_stages_fails_no_request(running, tfs):
    card = make_card(min_confidence=0.1, adaptive_margin=1.0)
    tfs.models["resnet50"][1] = Version(card)

    def swap(_: object) -> None:
        if len(tfs.predicts) == 1:
            asyncio.get_running_loop().call_soon(_replace)

    def _replace() -> None:
        tfs.models["resnet50"] = {2: Version(card)}

    async with running() as world:
        tfs.on_predict = swap
        answer = await world.stub.Classify(ask(tta=ADAPTIVE), timeout=100)
    assert (answer.version, answer.views_used) == (2, 10)


@pytest.mark.parametrize(("answered", "used"), [(1, 1), (2, 3)])
async def test_adaptive_without_time_for_more_answers_with_what_it_saw(running, tfs, costs, answered, used):
    card = make_card(min_confidence=0.1, adaptive_margin=1.0, adaptive_looks=[{"views": 3, "margin": 1.0}])
    tfs.models["resnet50"][1] = Version(card)

    def slow_from_now_on(_: object) -> None:
        if len(tfs.predicts) == answered:
            for views in (1, 2, 7):
                costs.note("resnet50", views, 1e6)

    async with running(models=["resnet50"]) as world:
        tfs.on_predict = slow_from_now_on
        answer = await world.stub.Classify(ask(tta=ADAPTIVE), timeout=100)
    assert (answer.views_asked, answer.views_used, len(tfs.predicts)) == (3 if used == 1 else 10, used, answered)
    assert len(answer.classes) == len(CODES["resnet50"])
