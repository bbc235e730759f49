"""Tensors, and the pool of threads that decode."""

import asyncio
import threading
import time

import numpy as np
import pytest

from dermserve.contract import Output, Signature
from dermserve.gateway import classify, config
from dermserve.gateway.background import Workers
from dermserve.gateway.errors import InvalidModelOutputError
from dermserve.gateway.tfserving import Target, encode_predict, read_output
from dermserve.imaging import Limits
from dermserve.tfserving.v1 import serving_pb2, tensor_pb2
from tests.gateway.fake_tfserving import floats
from tests.gateway.gateways import PHOTO, ask, make_photo


@pytest.mark.parametrize(
    "target", [Target("resnet50"), Target("m", version=3), Target("ü", label="canary")], ids=lambda each: each.model
)
@pytest.mark.parametrize("views", [0, 1, 10])
def test_pixels_travel_as_content(target, views):
    pixels = np.random.default_rng(0).integers(0, 256, (views, 32, 16, 3), np.uint8)
    for _ in range(2):
        request = serving_pb2.PredictRequest.FromString(encode_predict(target, Signature.TTA, pixels))
    spec, tensor = request.model_spec, request.inputs["images"]
    assert (spec.name, spec.version.value, spec.version_label) == (
        target.model,
        target.version or 0,
        target.label or "",
    )
    assert spec.signature_name == "tta"
    assert [*request.inputs] == ["images"]
    assert tensor.dtype == tensor_pb2.DATA_TYPE_UINT8
    assert [dim.size for dim in tensor.tensor_shape.dim] == [views, 32, 16, 3]
    assert tensor.tensor_content == pixels.tobytes()
    assert not tensor.int_val


def read(tensor, rank):
    response = serving_pb2.PredictResponse()
    response.outputs["probabilities"].CopyFrom(tensor)
    return read_output(response, Output.PROBABILITIES, rank=rank)


@pytest.mark.parametrize("content", [False, True])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (1, 10, 7)])
def test_floats_come_back_in_their_shape(content, shape):
    array = np.random.default_rng(0).random(shape).astype(np.float32)
    assert read(floats(array, content=content), len(shape)) == array.tolist()


def test_the_last_of_too_few_values_repeats():
    tensor = floats(np.zeros((2, 2)))
    del tensor.float_val[:]
    assert read(tensor, 2) == [[0, 0], [0, 0]]
    tensor.float_val.extend([1, 2])
    assert read(tensor, 2) == [[1, 2], [2, 2]]
    tensor.float_val.extend([3, 4, 5])
    with pytest.raises(InvalidModelOutputError, match="5 values for 4"):
        read(tensor, 2)


@pytest.mark.parametrize("shape", [(2,), (), (1, 2, 2), (-1, 2), (-1, -2), (0, 7), (3, 0), (1 << 40, 0), (1 << 20, 1)])
def test_another_shape_is_refused(shape):
    tensor = floats(np.zeros(0))
    del tensor.tensor_shape.dim[:]
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    with pytest.raises(InvalidModelOutputError, match="has the shape"):
        read(tensor, 2)


async def test_workers_do_no_more_at_once_than_they_are():
    workers, at_work, most, lock = Workers(2, stuck_after=60, clock=time.monotonic), 0, 0, threading.Lock()
    both = threading.Barrier(2)

    def work() -> None:
        nonlocal at_work, most
        with lock:
            at_work += 1
            most = max(most, at_work)
        both.wait(100)
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
    for work in (lambda: release.wait(100), lambda: 1):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await workers.run(work)
    now = 11.0
    assert await workers.run(lambda: 2) == 2
    release.set()
    workers.close()


async def test_work_nobody_waits_for_any_more_is_not_started():
    workers, started, release = Workers(1, stuck_after=60, clock=time.monotonic), [], threading.Event()
    first = asyncio.create_task(workers.run(lambda: release.wait(100)))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await workers.run(lambda: started.append("late"))
    release.set()
    await first
    await workers.run(lambda: None)
    assert not started
    workers.close()


async def test_small_photos_are_answered_while_large_ones_are_decoded_one_at_a_time(running, monkeypatch):
    monkeypatch.setattr(config, "_DECODING_BYTES", Limits().max_memory + 400_000)
    release, at_work, most, prepare = threading.Event(), 0, 0, classify.prepare

    def prepare_slowly(image, *, spec, limits):
        nonlocal at_work, most
        prepared = prepare(image, spec=spec, limits=limits)
        if limits.max_memory > 200_000:
            at_work += 1
            most = max(most, at_work)
            release.wait(100)
            at_work -= 1
        return prepared

    monkeypatch.setattr(classify, "prepare", prepare_slowly)
    async with running(tfs_in_flight=1) as world:
        large = [asyncio.ensure_future(world.stub.Classify(ask(PHOTO), timeout=100)) for _ in range(6)]
        for _ in range(5):
            assert (await world.stub.Classify(ask(make_photo(size=(64, 64))), timeout=100)).classes
        assert not any(call.done() for call in large)
        release.set()
        assert all([(await call).classes for call in large])
    assert most == 1
