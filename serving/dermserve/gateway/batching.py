"""Requests that come while the model server is busy with their model are asked about together.

A call costs both servers much the same whatever it carries, and a small network takes half as long for an image among
ten as for one alone. So what comes while calls of the same target are in flight gathers, and goes when one of them
comes back or when it is as much as may go: nobody waits for others to come. (The rule is J. Nagle's for small packets,
RFC 896.)

Only where a call stays short, as learned from those before: a call of ResNet-50 on a processor takes as long for two
images as two calls, and would make the first wait for the second. TensorFlow Serving's own batching comes too late: it
merges calls that it has, and the gateway keeps those in flight few, so that they do not compete.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.backends import Backends
from dermserve.gateway.batch import Batch, Part
from dermserve.gateway.budget import Budget
from dermserve.gateway.errors import BudgetSpentError
from dermserve.gateway.target import Target
from dermserve.gateway.tfserving import Scores

MOST = 10
"""Views in a call of several requests: as many as the largest of one, which the warm-up has seen."""

_Key: TypeAlias = tuple[Target, tuple[int, ...]]
"""What views must have in common: the target, and height, width and channels."""


@dataclass(eq=False, frozen=True, slots=True)
class _Gathering:
    batch: Batch
    ready: asyncio.Event
    """Set when it is to go."""
    answer: "asyncio.Task[Scores]"


class Batching:
    """The Predictor that gathers requests in calls which take `longest` seconds at most, as far as is known."""

    def __init__(self, backends: Backends, *, longest: float) -> None:
        self._backends = backends
        self._longest = longest
        self._newest: dict[_Key, _Gathering] = {}
        self._in_flight: Counter[_Key] = Counter()

    async def predict(self, target: Target, *, views: NDArray[np.uint8], budget: Budget) -> Scores:
        """See Predictor."""
        key, part = (target, views.shape[1:]), Part(views, budget)
        if not self._gathers(key, part):
            return await self._ask(key, Batch(part))
        gathering = self._join(key, part)
        try:
            scores = gathering.batch.share(await asyncio.shield(gathering.answer), part)
        except asyncio.CancelledError:
            if not gathering.batch.leave(part):
                self._end(key, gathering.batch)
                gathering.answer.cancel()
            raise
        except BudgetSpentError:
            if budget.left() <= 0:
                raise
        else:
            if scores.views:
                return scores
        return await self._ask(key, Batch(part))  # others' time was too short for it: its own may be enough

    def further(self, model: str) -> int:
        """Count the requests for a model that can be in flight besides those that have a call of their own."""
        if not self._is_short(model, 2):
            return 0
        together = next(views for views in range(MOST, 1, -1) if self._is_short(model, views))
        return (together - 1) * self._backends.places

    def _is_short(self, model: str, views: int) -> bool:
        return views <= MOST and 0 < self._backends.expect(model, views) <= self._longest

    def _gathers(self, key: _Key, part: Part) -> bool:
        """Say whether a request waits for a call in flight: not while half of what may be in flight is free."""
        if not self._is_short(key[0].model, len(part.views) + 1):
            return False
        if self._open(key):
            return True
        return self._in_flight[key] > 0 and self._backends.places <= 2 * self._in_flight[key]

    def _open(self, key: _Key) -> _Gathering | None:
        newest = self._newest.get(key)
        return None if newest is None or newest.batch.is_closed else newest

    def _join(self, key: _Key, part: Part) -> _Gathering:
        model, gathering = key[0].model, self._open(key)
        if gathering and self._is_short(model, len(gathering.batch) + len(part.views)):
            gathering.batch.join(part)
        else:
            if gathering:
                gathering.ready.set()
            batch, ready = Batch(part), asyncio.Event()
            gathering = _Gathering(batch, ready, asyncio.create_task(self._go(key, batch, ready)))
            self._newest[key] = gathering
        if not self._is_short(model, len(gathering.batch) + 1):
            gathering.ready.set()
        return gathering

    async def _go(self, key: _Key, batch: Batch, ready: asyncio.Event) -> Scores:
        await ready.wait()
        return await self._ask(key, batch)

    async def _ask(self, key: _Key, batch: Batch) -> Scores:
        self._in_flight[key] += 1
        try:
            return await self._backends.predict(key[0], batch)
        finally:
            self._in_flight[key] -= 1
            if not self._in_flight[key]:
                del self._in_flight[key]
            self._end(key, batch)

    def _end(self, key: _Key, batch: Batch) -> None:
        """Forget a batch that has ended; whoever waits for it goes."""
        if newest := self._newest.get(key):
            if newest.batch is batch:
                del self._newest[key]
            else:
                newest.ready.set()
