"""Requests that are asked about together: who goes with whom, whose answer is whose, and who is hurt by whom."""

import asyncio
import contextlib
import gc
import math
import random
import time
import weakref
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np
import pytest

from dermserve.gateway.batching import MOST, Batching, Part
from dermserve.gateway.budget import Budget
from dermserve.gateway.errors import (
    ModelServerFailedError,
    ModelServerUnreachableError,
)
from dermserve.gateway.model_servers import ModelServers
from dermserve.gateway.tfserving import Scores, Target
from tests.gateway.fake_tfserving import FakeTfServing, Version, make_card, pixels_of
from tests.gateway.gateways import World, ask, make_photo, reason_of

MODEL = Target("m")


@dataclass
class Servers:
    """A model server whose calls last until the test lets them end; each view's score is the value of its pixels."""

    slots: int = 2
    seconds: float = 0.001
    """Expected for each view."""
    calls: list[tuple[Target, list[int]]] = field(default_factory=list)
    ends: list[asyncio.Future[None]] = field(default_factory=list)
    most: int = 1000
    """Views that there is time for."""

    def expect(self, _: str, views: int) -> float:
        return self.seconds * views

    def note(self, *_: object, **__: object) -> None:
        pass

    def fit(self, _: str, views: int, *, left: float) -> int:
        return min(views, self.most)

    async def predict(self, target: Target, images: np.ndarray, *, tta: bool, seconds: float) -> Scores:
        values = images[:, 0, 0, 0].astype(np.float32)
        self.calls.append((target, values.astype(int).tolist()))
        self.ends.append(asyncio.get_running_loop().create_future())
        await self.ends[-1]
        return Scores(1, values[:, None].tolist(), values.tolist())

    def end(self, error: Exception | None = None) -> None:
        """End the oldest call."""
        end = next(end for end in self.ends if not end.done())
        end.set_exception(error) if error else end.set_result(None)

    async def ended(self, times: int = 1) -> None:
        """End so many calls, one after the other, each with all that follows from it."""
        for _ in range(times):
            self.end()
            await settled()


def pixels(*values: int, side: int = 2) -> np.ndarray:
    return np.stack([np.full((side, side, 3), value, np.uint8) for value in values])


def budget(seconds: float = math.inf) -> Budget:
    return Budget(time.monotonic() + seconds, time.monotonic)


class Asking:
    """Requests on their way."""

    @classmethod
    async def of(cls, servers: Servers, *, longest: float = 1.0) -> "Asking":
        found = ModelServers(["127.0.0.1:1"], connect=lambda *_: servers, slots=servers.slots)
        await found.resolve()
        asking = cls()
        asking.batching = Batching(found, longest=longest, clock=lambda: 0.0)
        asking.batching.costs = servers
        return asking

    async def __call__(self, *values: int, target: Target = MODEL, seconds: float = math.inf, side: int = 2):
        """Begin to ask about views of these values."""
        views = pixels(*values, side=side)
        task = asyncio.create_task(self.batching.predict(target, Part(views, budget(seconds))))
        await settled()
        return task


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def said(scores: Scores) -> list[int]:
    assert len(scores.probabilities) == len(scores.ood_scores) == scores.views
    return [int(score) for score in scores.ood_scores]


async def test_who_comes_during_a_call_goes_together_when_it_ends():
    servers = Servers()
    asking = await Asking.of(servers)
    tasks = [await asking(value) for value in range(4)]
    assert servers.calls == [(MODEL, [0])]
    await servers.ended()
    assert servers.calls[1:] == [(MODEL, [1, 2, 3])]
    servers.end()
    assert [said(await task) for task in tasks] == [[0], [1], [2], [3]]


async def test_several_views_of_one_request_stay_together():
    servers = Servers()
    asking = await Asking.of(servers)
    tasks = [await asking(0), await asking(1, 2), await asking(3), await asking(4, 5, 6)]
    await servers.ended()
    servers.end()
    assert [said(await task) for task in tasks] == [[0], [1, 2], [3], [4, 5, 6]]
    assert len(servers.calls) == 2


async def test_half_of_the_slots_are_taken_before_anyone_waits():
    servers = Servers(slots=5)
    asking = await Asking.of(servers)
    for value in range(6):
        await asking(value)
    assert servers.calls == [(MODEL, [0]), (MODEL, [1]), (MODEL, [2])]


async def test_the_free_capacity_counts_what_calls_may_carry_less_the_requests_there_are():
    servers = Servers(slots=3, seconds=0.1)
    asking = await Asking.of(servers)
    assert asking.batching.free_capacity("m") == 3 * MOST
    tasks = [await asking(0), await asking(1)]
    assert asking.batching.free_capacity("m") == 3 * MOST - 2
    tasks.append(await asking(0, target=Target("other")))
    assert asking.batching.free_capacity("m") == 2 * MOST - 2
    servers.seconds = 10.0  # nothing goes together any more
    assert asking.batching.free_capacity("m") == 0
    await servers.ended(3)
    await asyncio.gather(*tasks)
    assert asking.batching.free_capacity("m") == 3


async def test_a_full_call_waits_for_nobody():
    servers = Servers()
    asking = await Asking.of(servers)
    tasks = [await asking(value) for value in range(2 * MOST + 2)]
    assert [values for _, values in servers.calls] == [[0], [*range(1, MOST + 1)]]
    await servers.ended()
    assert [values for _, values in servers.calls[2:]] == [[*range(MOST + 1, 2 * MOST + 1)]]
    await servers.ended(3)
    assert [said(await task) for task in tasks] == [[value] for value in range(2 * MOST + 2)]


async def test_what_does_not_fit_any_more_goes_in_the_next_call():
    servers = Servers()
    asking = await Asking.of(servers)
    tasks = [await asking(0), await asking(*range(1, 9)), await asking(9, 10, 11)]
    assert servers.calls[1:] == [(MODEL, [9, 10, 11])]  # the cheaper one first
    await servers.ended(2)
    servers.end()
    assert [len(said(await task)) for task in tasks] == [1, 8, 3]


@pytest.mark.parametrize(("longest", "expected"), [(0.0, 0.01), (0.015, 0.01), (1.0, 0.0)])
async def test_where_a_call_of_two_would_be_long_or_nothing_is_known_everyone_has_a_call(longest, expected):
    servers = Servers(slots=3, seconds=expected)
    asking = await Asking.of(servers, longest=longest)
    for value in range(3):
        await asking(value)
    assert [values for _, values in servers.calls] == [[0], [1], [2]]


async def test_a_call_is_no_longer_than_it_may_be():
    servers = Servers(seconds=0.01)
    asking = await Asking.of(servers, longest=0.035)
    for value in range(5):
        await asking(value)
    assert [values for _, values in servers.calls] == [[0], [1, 2, 3]]


async def test_other_targets_and_other_sizes_go_by_themselves():
    servers = Servers()
    asking = await Asking.of(servers)
    other = Target("m", version=2)
    for value, target, side in [(0, MODEL, 2), (1, other, 2), (2, MODEL, 4), (3, MODEL, 2), (4, other, 2)]:
        await asking(value, target=target, side=side)
    assert servers.calls == [(MODEL, [0]), (other, [1])]
    await servers.ended(3)
    assert servers.calls[2:] == [(MODEL, [2]), (MODEL, [3]), (other, [4])]


async def test_who_gives_up_before_the_call_is_not_asked_about():
    servers = Servers()
    asking = await Asking.of(servers)
    tasks = [await asking(value) for value in range(4)]
    tasks[2].cancel()
    await settled()
    await servers.ended()
    assert servers.calls[1:] == [(MODEL, [1, 3])]
    servers.end()
    assert said(await tasks[3]) == [3]
    assert tasks[2].cancelled()


async def test_who_gives_up_during_the_call_takes_nobody_along():
    servers = Servers()
    asking = await Asking.of(servers)
    tasks = [await asking(value) for value in range(4)]
    await servers.ended()
    tasks[1].cancel()
    await settled()
    servers.end()
    assert [said(await task) for task in (tasks[2], tasks[3])] == [[2], [3]]


async def test_when_all_give_up_their_call_ends_and_the_next_begins():
    servers = Servers()
    asking = await Asking.of(servers)
    tasks = [await asking(value) for value in range(3)]
    await servers.ended()
    for task in tasks[1:]:
        task.cancel()
    await settled()
    assert servers.ends[1].cancelled()
    last = await asking(7)
    servers.end()
    assert said(await last) == [7]


async def test_when_all_give_up_before_their_call_nobody_joins_what_is_left_of_it():
    servers = Servers()
    asking = await Asking.of(servers)
    first, given_up = await asking(0), await asking(1)
    given_up.cancel()
    late = asyncio.create_task(asking.batching.predict(MODEL, Part(pixels(2), budget())))
    await settled()
    await servers.ended()
    servers.end()
    assert (said(await first), said(await late)) == ([0], [2])


async def test_a_failure_is_everyones_who_was_asked_about():
    servers = Servers()
    asking = await Asking.of(servers)
    tasks = [await asking(value) for value in range(3)]
    await servers.ended()
    servers.end(ModelServerFailedError())
    for task in tasks[1:]:
        with pytest.raises(ModelServerFailedError):
            await task
    after = await asking(5)
    servers.end()
    assert said(await after) == [5]


async def test_a_batch_for_which_little_time_is_left_goes_whole():
    servers = Servers()
    asking = await Asking.of(servers)
    tasks = [await asking(0), await asking(1), await asking(2, 3), await asking(4)]
    servers.most = 2
    await servers.ended(2)
    assert [said(await task) for task in tasks] == [[0], [1], [2, 3], [4]]
    assert len(servers.calls) == 2


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_and_goes_each_gets_its_own_answer(seed):
    chance = random.Random(seed)
    servers = Servers(slots=chance.choice([1, 2, 4]))
    asking = await Asking.of(servers)
    tasks: dict[asyncio.Task[Scores], list[int]] = {}
    given_up = set()
    for value in range(200):
        values = [value] * chance.choice([1, 1, 1, 2, 7])
        tasks[asyncio.create_task(asking.batching.predict(MODEL, Part(pixels(*values), budget())))] = values
        if chance.random() < 0.2:
            given_up.add(loser := chance.choice(list(tasks)))
            loser.cancel()
        for _ in range(chance.choice([0, 1, 3])):
            await asyncio.sleep(0)
        if chance.random() < 0.3 and any(not end.done() for end in servers.ends):
            servers.end()
    while not all(task.done() for task in tasks):
        if any(not end.done() for end in servers.ends):
            servers.end()
        await settled()
    for task, values in tasks.items():
        if not task.cancelled():
            assert said(task.result()) == values
        else:
            assert task in given_up
    assert max(len(values) for _, values in servers.calls) <= MOST


# However long a call takes where the machine stalls, the next ones go together.
BATCHED = {"tfs_in_flight": 2, "batch_seconds": 1000}


def _photos(count: int) -> list[bytes]:
    """Photos by whose brightness the scores of `_by_brightness` tell them apart."""
    return [make_photo(size=(64 + index, 64), quality=90 - index) for index in range(count)]


def _by_brightness(views: np.ndarray) -> np.ndarray:
    top = views.reshape(len(views), -1).mean(1) / 256
    return np.stack([top, 1 - top, np.zeros_like(top)], 1)


async def _gather(tfs: FakeTfServing, world: World, photos: list[bytes], entered: asyncio.Semaphore):
    """Let a call be held, and further photos come meanwhile; gives all of them, and what lets the call go."""
    requests = [ask(photo, model="mobilenet_v3_small") for photo in photos]
    await world.stub.Classify(requests[0], timeout=100)  # from now on the gateway knows how long it takes
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await release.wait()

    tfs.on_predict = hold
    calls = [world.stub.Classify(requests[0], timeout=100)]
    await asyncio.wait_for(arrived.wait(), 100)
    tfs.predicts.clear()
    while not entered.locked():
        await entered.acquire()
    calls += [world.stub.Classify(request, timeout=100) for request in requests[1:]]
    for _ in photos[1:]:
        await asyncio.wait_for(entered.acquire(), 100)
    return calls, release


async def test_photos_that_come_during_a_call_each_get_the_answer_to_their_own(running, tfs, entered):
    tfs.models["mobilenet_v3_small"] = {1: Version(make_card("mobilenet_v3_small"), scores=_by_brightness)}
    photos = _photos(8)
    async with running(**BATCHED) as world:
        alone = [
            (await world.stub.Classify(ask(photo, model="mobilenet_v3_small"), timeout=100)).classes for photo in photos
        ]
        calls, release = await _gather(tfs, world, photos, entered)
        release.set()
        together = [(await call).classes for call in calls]
    assert [len(pixels_of(request)) for request in tfs.predicts] == [7]
    assert together == alone
    assert len({classes[0].probability for classes in alone}) == len(photos)


async def test_a_row_that_is_no_probability_fails_its_own_photo_alone(running, tfs, entered):
    def scores(views: np.ndarray) -> np.ndarray:
        values = _by_brightness(views)
        if len(values) > 1:
            values[1] = np.nan
        return values

    tfs.models["mobilenet_v3_small"] = {1: Version(make_card("mobilenet_v3_small"), scores=scores)}
    async with running(**BATCHED) as world:
        calls, release = await _gather(tfs, world, _photos(4), entered)
        release.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
    errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert [reason_of(error) for error in errors] == ["INVALID_MODEL_OUTPUT"]
    assert len(results) == 4


@pytest.mark.parametrize("wrong", [lambda values: values[:1], lambda values: np.append(values, values[:1], axis=0)])
async def test_rows_that_are_missing_or_too_many_are_nobodys_answer(running, tfs, entered, wrong):
    def scores(views: np.ndarray) -> np.ndarray:
        return wrong(_by_brightness(views)) if len(views) > 1 else _by_brightness(views)

    tfs.models["mobilenet_v3_small"] = {1: Version(make_card("mobilenet_v3_small"), scores=scores)}
    async with running(**BATCHED) as world:
        calls, release = await _gather(tfs, world, _photos(4), entered)
        release.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
    reasons = [reason_of(result) for result in results if isinstance(result, grpc.aio.AioRpcError)]
    assert set(reasons) == {"INVALID_MODEL_OUTPUT"}
    assert len(reasons) > 1


async def test_one_with_little_time_ends_alone(running, tfs, entered):
    async with running(**BATCHED) as world:
        calls, release = await _gather(tfs, world, _photos(3), entered)
        error = await world.refusal(ask(model="mobilenet_v3_small"), timeout=0.4)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        release.set()
        for call in calls:
            assert (await call).classes


@pytest.mark.parametrize("end", ["answered", "failed", "unreachable", "cancelled"])
async def test_a_requests_photo_is_freed_when_it_ends_without_a_collection(end):
    servers = Servers()
    asking = await Asking.of(servers)
    views = pixels(1)
    photo, predicting = weakref.ref(views), asking.batching.predict(MODEL, Part(views, budget()))
    task = asyncio.create_task(predicting)
    del views, predicting
    await settled()
    gc.collect()
    gc.disable()
    try:
        if end == "cancelled":
            task.cancel()
        else:
            kinds = {"failed": ModelServerFailedError, "unreachable": ModelServerUnreachableError}
            servers.end(kinds[end]() if end in kinds else None)
        await settled()
        with contextlib.suppress(ModelServerFailedError, ModelServerUnreachableError, asyncio.CancelledError):
            await task
        del task
        servers.ends.clear()
        await settled()
        assert photo() is None
    finally:
        gc.enable()
