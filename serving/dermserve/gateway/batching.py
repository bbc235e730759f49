"""Batch requests that arrive while calls of their model are in flight into one Predict call.

The overhead of a call hardly depends on the number of images, and a small network takes half as long for an image of a
batch of ten as for one alone. Requests that arrive during calls of the same target join a batch. It is sent
when one of those calls ends, or when it is full; no request waits for others to arrive. (J. Nagle's rule for small
packets, RFC 896.)

Requests are batched only where such a call is expected to stay short, as learned from earlier calls: ResNet-50 on a
processor takes as long for two images as for two calls, so the first request would wait for the second. TensorFlow
Serving's own batching can't do this: it merges calls in flight, which the gateway keeps few.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TypeAlias

from dermserve.gateway.calls import Batch, Part
from dermserve.gateway.errors import BudgetSpentError
from dermserve.gateway.model_servers import ModelServers
from dermserve.gateway.tfserving import Scores, Target

MOST = 10
"""Most views in a batch of several requests: as many as one request has at most, which the warm-up ran."""

_Key: TypeAlias = tuple[Target, tuple[int, ...]]
"""What views must have in common: the target, and height, width and channels."""


@dataclass(eq=False, frozen=True, slots=True)
class _Gathering:
    batch: Batch
    ready: asyncio.Event
    """Set when it is to be sent."""
    answer: "asyncio.Task[Scores]"


class Batching:
    """The Predictor: batches requests where a call is expected to take `longest` seconds at most."""

    def __init__(self, servers: ModelServers, *, longest: float) -> None:
        self._servers = servers
        self._longest = longest
        self._newest: dict[_Key, _Gathering] = {}
        self._in_flight: Counter[_Key] = Counter()
        self._requests: Counter[str] = Counter()

    def expect(self, model: str, views: int) -> float:
        """Return the seconds that a call is expected to take; 0 when nothing is known."""
        return self._servers.costs.expect(model, views)

    def free_capacity(self, model: str) -> int:
        """Count the requests for a model that could be sent now or shortly; negative if some wait."""
        in_use = self._servers.used
        slots = self._servers.slots - (in_use.total() - in_use[model])
        return slots * self._together(model) - self._requests[model] + self._servers.nearly_done()

    async def predict(self, target: Target, part: Part) -> Scores:
        """Predict a request's views, all of one height and width, or as many of the first as there is time for.

        Raises:
            ServableNotFoundError: no model server has such a model, version or label.
            GatewayError: none can be reached, or is full, failed, is late, or answered nonsense.
        """
        self._requests[target.model] += 1
        try:
            key = (target, part.images.shape[1:])
            if self._gathers(key, part):
                return await self._predict_with_others(key, part)
            return await self._ask(key, Batch(part))
        finally:
            self._requests[target.model] -= 1

    async def _predict_with_others(self, key: _Key, part: Part) -> Scores:
        gathering = self._join(key, part)
        try:
            scores = gathering.batch.share(await asyncio.shield(gathering.answer), part)
        except asyncio.CancelledError:
            if not gathering.batch.leave(part):
                self._end(key, gathering.batch)
                gathering.answer.cancel()
            raise
        except BudgetSpentError:
            if part.budget.left() <= 0:
                raise
        else:
            if scores.views:
                return scores
        return await self._ask(key, Batch(part))  # the others' budgets were too short for it: its own may be enough

    def _together(self, model: str) -> int:
        """Count the requests of one view that a call may carry."""
        return next((views for views in range(MOST, 1, -1) if self._is_short(model, views)), 1)

    def _is_short(self, model: str, views: int) -> bool:
        return views <= MOST and 0 < self.expect(model, views) <= self._longest

    def _gathers(self, key: _Key, part: Part) -> bool:
        """Whether a request waits for a call in flight: not while half of the slots are free."""
        if not self._is_short(key[0].model, len(part) + 1):
            return False
        if self._open(key):
            return True
        return self._in_flight[key] > 0 and self._servers.slots <= 2 * self._in_flight[key]

    def _open(self, key: _Key) -> _Gathering | None:
        newest = self._newest.get(key)
        return None if newest is None or newest.batch.is_closed else newest

    def _join(self, key: _Key, part: Part) -> _Gathering:
        model, gathering = key[0].model, self._open(key)
        if gathering and self._is_short(model, len(gathering.batch) + len(part)):
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
            return await self._servers.predict(key[0], batch)
        finally:
            self._in_flight[key] -= 1
            if not self._in_flight[key]:
                del self._in_flight[key]
            self._end(key, batch)

    def _end(self, key: _Key, batch: Batch) -> None:
        """Remove a batch that has ended, and release the batch that waits for it."""
        if newest := self._newest.get(key):
            if newest.batch is batch:
                del self._newest[key]
            else:
                newest.ready.set()
