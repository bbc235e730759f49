"""Tensors, and the pool of threads that decode."""

import asyncio
import threading
import time

import numpy as np
import pytest

from dermserve.gateway.errors import InvalidModelOutputError
from dermserve.gateway.photos import Workers
from dermserve.gateway.tfserving import float_array, uint8_tensor
from dermserve.tfserving.v1 import tensor_pb2
from tests.gateway.fake_tfserving import floats


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
