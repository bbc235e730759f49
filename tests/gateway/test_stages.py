"""The stages that are plain functions: tensors, reduce, verdict; and the pool of threads that decode."""

import asyncio
import threading
import time

import numpy as np
import pytest

from dermserve.gateway.errors import InvalidModelOutputError
from dermserve.gateway.photos import Workers
from dermserve.gateway.reduce import Reduced, reduce_views
from dermserve.gateway.tfserving import Scores, float_array, uint8_tensor
from dermserve.gateway.verdict import judge
from dermserve.tfserving.v1 import tensor_pb2
from dermserve.v1 import card_pb2, classifier_pb2
from dermserve.v1.classifier_pb2 import (
    REASON_LOW_CONFIDENCE,
    REASON_NOT_SKIN,
    REASON_UNCALIBRATED_MODEL,
    REASON_UNTRAINED_MODEL,
    REASON_VIEW_DISAGREEMENT,
    VERDICT_CONFIDENT,
    VERDICT_REJECTED,
    VERDICT_UNCERTAIN,
)
from tests.gateway.fake_tfserving import floats, make_card

SURE = {"min_confidence": 0.6, "max_view_std": 0.1, "max_ood_score": 5.0}


def _reduced(*, top: float = 0.9, std: float = 0.0, ood: float = 0.0) -> Reduced:
    mean = np.array([1 - top, top])
    return Reduced(mean=mean, std=np.array([0.5, std]), ranking=(1, 0), views=10, ood_score=ood)


@pytest.mark.parametrize(
    ("reduced", "calibration", "verdict", "reasons"),
    [
        (_reduced(), SURE, VERDICT_CONFIDENT, []),
        (_reduced(top=0.6, std=0.1, ood=5.0), SURE, VERDICT_CONFIDENT, []),
        (_reduced(top=0.59), SURE, VERDICT_UNCERTAIN, [REASON_LOW_CONFIDENCE]),
        (_reduced(std=0.11), SURE, VERDICT_UNCERTAIN, [REASON_VIEW_DISAGREEMENT]),
        (_reduced(ood=5.1), SURE, VERDICT_REJECTED, [REASON_NOT_SKIN]),
        (
            _reduced(top=0.5, std=0.2, ood=9.0),
            SURE,
            VERDICT_REJECTED,
            [REASON_NOT_SKIN, REASON_LOW_CONFIDENCE, REASON_VIEW_DISAGREEMENT],
        ),
        (_reduced(top=1.0), {}, VERDICT_UNCERTAIN, [REASON_UNCALIBRATED_MODEL]),
        (_reduced(top=1.0), {"max_view_std": 0.1}, VERDICT_UNCERTAIN, [REASON_UNCALIBRATED_MODEL]),
        (
            _reduced(ood=9.0),
            {"max_ood_score": 5.0},
            VERDICT_REJECTED,
            [REASON_NOT_SKIN, REASON_UNCALIBRATED_MODEL],
        ),
        (_reduced(std=0.4, ood=99.0), {"min_confidence": 0.1}, VERDICT_CONFIDENT, []),
        (_reduced(top=0.0), {"min_confidence": 0.0}, VERDICT_CONFIDENT, []),
    ],
)
def test_the_verdict_follows_the_cards_thresholds(reduced, calibration, verdict, reasons):
    assert judge(reduced, card=make_card(**calibration)) == (verdict, reasons)


@pytest.mark.parametrize("training", [card_pb2.TRAINING_NONE, card_pb2.TRAINING_UNSPECIFIED])
def test_an_untrained_model_is_never_trusted_whatever_its_thresholds(training):
    card = make_card(**SURE)
    card.provenance.training = training
    assert judge(_reduced(top=1.0, ood=99.0), card=card) == (VERDICT_UNCERTAIN, [REASON_UNTRAINED_MODEL])


def test_every_reason_has_a_way_to_be_given():
    given = {REASON_NOT_SKIN, REASON_LOW_CONFIDENCE, REASON_VIEW_DISAGREEMENT}
    given |= {REASON_UNCALIBRATED_MODEL, REASON_UNTRAINED_MODEL}
    assert given == set(classifier_pb2.Reason.values()) - {classifier_pb2.REASON_UNSPECIFIED}


def test_ties_are_ranked_in_the_cards_order_and_the_identity_gives_the_ood_score():
    probabilities = np.array([[0.25, 0.25, 0.25, 0.25], [0.1, 0.4, 0.1, 0.4]], np.float32)
    reduced = reduce_views(Scores(2, 1, probabilities, np.array([2.0, 7.0], np.float32)))
    assert reduced.ranking == (1, 3, 0, 2)
    assert (reduced.ood_score, reduced.views) == (2.0, 2)
    np.testing.assert_allclose(reduced.std, [0.075] * 4, atol=1e-7)


def test_pixels_travel_as_content():
    pixels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    tensor = uint8_tensor(pixels)
    assert tensor.dtype == tensor_pb2.DATA_TYPE_UINT8
    assert [dim.size for dim in tensor.tensor_shape.dim] == [2, 4, 4, 3]
    assert np.frombuffer(tensor.tensor_content, np.uint8).tolist() == pixels.ravel().tolist()
    assert not tensor.int_val


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 7)])
def test_floats_come_back_in_their_shape(content, shape):
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    np.testing.assert_array_equal(float_array(floats(array, content=content), name="x"), array)


def test_the_last_of_too_few_values_repeats():
    tensor = floats(np.zeros((2, 2)))
    del tensor.float_val[:]
    np.testing.assert_array_equal(float_array(tensor, name="x"), np.zeros((2, 2)))
    tensor.float_val.extend([1, 2])
    np.testing.assert_array_equal(float_array(tensor, name="x"), [[1, 2], [2, 2]])
    tensor.float_val.extend([3, 4, 5])
    with pytest.raises(InvalidModelOutputError, match="5 values for 4"):
        float_array(tensor, name="x")


async def test_workers_do_no_more_at_once_than_they_are():
    workers, at_work, most, lock = Workers(2, stuck_after=60, clock=time.monotonic), 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def work() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        both.wait(20)
        with lock:
            at_work -= 1

    await asyncio.gather(*(workers.run(work) for _ in range(8)))
    workers.close()
    assert most == 2


async def test_what_work_raises_is_raised_to_who_waits():
    workers = Workers(1, stuck_after=60, clock=time.monotonic)
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    assert await workers.run(lambda: 7) == 7
    workers.close()


async def test_a_blocked_thread_costs_its_caller_the_budget_and_is_then_replaced():
    now, release = 0.0, threading.Event()
    workers = Workers(1, stuck_after=10, clock=lambda: now)
    for work in (lambda: release.wait(30), lambda: 1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await workers.run(work)
    now = 11.0
    assert await workers.run(lambda: 2) == 2
    release.set()
    workers.close()


async def test_work_nobody_waits_for_any_more_is_not_started():
    workers, started, release = Workers(1, stuck_after=60, clock=time.monotonic), [], threading.Event()
    first = asyncio.create_task(workers.run(lambda: release.wait(30)))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await workers.run(lambda: started.append("late"))
    release.set()
    await first
    await workers.run(lambda: None)
    assert not started
    workers.close()
