"""Stage *predict*: send requests to the model servers in order, batch where calls are short, and retry failed calls.

*Order*: requests wait in one queue, ordered by their arrival plus `_AGEING` times their expected seconds. So short
requests overtake long ones, but only for a bounded time.

*Batches*: the overhead of a call hardly depends on the number of images, and a small network takes half as long for an
image of a batch of ten as for a single one. Requests that wait when a slot becomes free are sent in one call. Once half
of the slots serve a target, further requests wait for the end of one of its calls, or until they fill a batch (like J.
Nagle's rule for small packets, RFC 896). This is done only if the call is expected to be short, judged by earlier
calls: on a processor, ResNet-50 takes as long for a call of two images as for two calls, so batching would only delay
the first request. TensorFlow Serving's own batching can't do this: it merges calls in flight, of which the gateway
makes few.

*Retries*: a call that a model server refuses, or fails to compute, is sent to another one. A server that is late may
hang, or only be slow: its call goes on, another server gets the same one, and the first answer counts. If the other one
gives it, the late server is ejected. This is safe, because Predict changes nothing on the server.
"""

import asyncio
import bisect
import itertools
import math
import operator
import random
from collections import Counter
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway import errors
from dermserve.gateway.budget import OVER, Budget, Clock, Costs
from dermserve.gateway.model_servers import ModelServer, ModelServers
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, Target
from dermserve.imaging import make_views

MOST = 10  # most views in a batch of several requests: as many as in one request with FULL, which the warm-up ran
_AGEING = 4.0  # seconds for which a request may be overtaken, for each second that it is expected to take
# A server is late after so many seconds without an answer, and so many times the expected seconds of its call.
_LATE, _LATE_TIMES = 1.0, 5.0
_RESERVE = 0.1  # seconds of the budget in which to report that no server answers
# Seconds to wait when a server is full: first, and at most; doubled each time, with jitter
_BACK_OFF, _MOST_BACK_OFF = 0.02, 0.64
_NEARLY_DONE = 0.02  # seconds before its end at which a call counts as nearly done: long enough to decode a photo
# Share of its expected seconds before its end at which a call counts as nearly done: it may take less than expected
_NEARLY_DONE_SHARE = 0.4

# With these another server may still answer.
_OF_ONE_SERVER = (
    errors.ModelServerUnreachableError, ServableNotFoundError, errors.ModelServerFailedError,
    errors.InvalidModelOutputError,
)  # fmt: skip
# What requests of a batch have in common: the target, and the images' height, width and channels
_Key: TypeAlias = tuple[Target, tuple[int, ...]]


@dataclass(eq=False, slots=True)
class Part:
    """One request's images for a call, and its state while it waits for a slot and then for the answer."""

    images: NDArray[np.uint8]  # [V, H, W, 3]: the views, or one image of which `tta` makes the named views
    budget: Budget
    tta_views: tuple[str, ...] = ()
    key: _Key = field(init=False)
    order: tuple[float, int] = field(init=False)
    context: Context = field(init=False)  # of its trace
    answer: "asyncio.Future[Scores] | None" = None
    is_queued: bool = False
    calls: "list[_Call]" = field(default_factory=list)  # in flight; several if a server is late
    failed: dict[ModelServer, Exception] = field(default_factory=dict)  # servers that failed or are late
    back_off: float = field(default_factory=lambda: _BACK_OFF)  # seconds to wait when a server is full

    @property
    def views(self) -> int:
        """How many views it is of."""
        return len(self.tta_views) or len(self.images)

    @property
    def waits(self) -> bool:
        """Whether its request still waits for an answer."""
        return self.answer is not None and not self.answer.done()

    def fail(self, error: Exception) -> None:
        """Give its request an error if that still waits."""
        if self.answer and not self.answer.done():
            self.answer.set_exception(error)


@dataclass(eq=False, slots=True)
class _Call:
    """A Predict call in flight."""

    server: ModelServer
    key: _Key
    parts: list[Part]
    can_retry: bool  # whether another server could be tried for it
    nearly_done: float = math.inf  # when it will be near its end, by the clock
    task: "asyncio.Task[None] | None" = None  # None if its only request makes it

    def gather(self, count: int) -> tuple[NDArray[np.uint8], bool]:
        """Return the images of the first views, and whether they are for `tta`."""
        images, names = self.parts[0].images, self.parts[0].tta_views
        if names:
            return (images, True) if count == len(names) else (make_views(images[0], names[:count]), False)
        return (images if len(self.parts) == 1 else np.concatenate([part.images for part in self.parts]))[:count], False

    def share(self, scores: Scores) -> None:
        """Give each request its rows of the answer."""
        start = 0
        for part in self.parts:
            own = slice(start, start := start + part.views)
            if part.answer and not part.answer.done():
                part.answer.set_result(Scores(scores.version, scores.probabilities[own], scores.ood_scores[own]))


class Batching:
    """Sends requests to the model servers, in batches where a call is expected to take `longest` seconds at most."""

    def __init__(self, servers: ModelServers, *, longest: float, clock: Clock) -> None:
        self.costs = Costs()
        self._servers = servers
        self._longest = longest
        self._clock = clock
        self._queue: list[Part] = []
        self._calls: set[_Call] = set()
        self._requests: Counter[str] = Counter()
        self._numbers = itertools.count()
        servers.on_change = self._dispatch

    @property
    def waiting(self) -> int:
        """How many requests wait for a slot."""
        return len(self._queue)

    def free_capacity(self, model: str) -> int:
        """Count the requests for a model that could be sent now or shortly; negative if some wait."""
        now, others, nearly_done = self._clock() if self._calls else 0.0, 0, 0
        for call in self._calls:
            if call.server.alive:
                others += call.key[0].model != model
                nearly_done += call.nearly_done <= now
        together = next((views for views in range(MOST, 1, -1) if self._is_short(model, views)), 1)
        return (self._servers.slots - others) * together - self._requests[model] + nearly_done

    async def predict(self, target: Target, part: Part) -> Scores:
        """Predict a request's views, all of one height and width, or the first of them if there is no time for all.

        Raises:
            ServableNotFoundError: no model server has such a model, version or label.
            GatewayError: no model server can be reached, or it is full, failed, late, or gave an invalid answer.
        """
        self._requests[target.model] += 1
        try:
            self._enter(target, part)
            if part.calls and part.calls[0].task is None:
                await self._run(part.calls[0])
            assert part.answer  # as no local variable: its error refers to this frame
            return await part.answer
        finally:
            self._requests[target.model] -= 1
            self._leave(part)

    def _enter(self, target: Target, part: Part) -> None:
        turn = self._clock() + _AGEING * self.costs.expect(target.model, part.views)
        part.order, part.key = (turn, next(self._numbers)), (target, part.images.shape[1:])
        part.answer, part.context = asyncio.get_running_loop().create_future(), copy_context()
        self._wait(part)
        self._dispatch(entering=part)

    def _wait(self, part: Part) -> None:
        part.is_queued = True
        bisect.insort(self._queue, part, key=operator.attrgetter("order"))

    def _unqueue(self, part: Part) -> None:
        part.is_queued = False
        self._queue.remove(part)

    def _leave(self, part: Part) -> None:
        """Take a request out of the queue, and cancel its calls for which no other request waits."""
        part.answer = None  # its error refers to the frame that awaited it
        part.failed.clear()
        if part.is_queued:
            self._unqueue(part)
        for call in part.calls:
            if call.task and not any(each.waits for each in call.parts):
                call.task.cancel()

    def _dispatch(self, *, entering: Part | None = None) -> None:
        """Send waiting requests to free slots, in their order. One that enters and goes alone makes its call itself."""
        held = set[_Key]()  # targets whose requests wait for a fuller batch
        for first in self._queue.copy():
            if not first.is_queued or not first.waits or first.key in held:
                continue
            if server := self._servers.pick(first.key[0].model, first.failed):
                if batch := self._batch(first, server):
                    self._send(server, batch, by_itself=batch == [entering])
                else:
                    held.add(first.key)
            elif not self._servers.untried(first.failed):
                self._unqueue(first)
                if not first.calls:  # else a server that is late may still answer
                    # One server without this version does not mean that the unreachable ones lack it, too.
                    kinds = sorted(first.failed.values(), key=lambda error: isinstance(error, ServableNotFoundError))
                    first.fail(next(iter(kinds), errors.ModelServerUnreachableError()))
            elif not first.failed:  # no slot is free anywhere
                return

    def _batch(self, first: Part, server: ModelServer) -> list[Part]:
        """Choose the requests to send together with `first`; none if it should wait for more."""
        model, views, batch = first.key[0].model, first.views, [first]
        for other in self._queue:
            if other is first or not other.waits or other.key != first.key or server in other.failed:
                continue
            if not self._is_short(model, views + other.views):
                return batch
            batch.append(other)
            views += other.views
        in_flight = [call.key for call in self._calls if call.server.alive].count(first.key)
        waits = in_flight and self._servers.slots <= 2 * in_flight and self._is_short(model, views + 1)
        return [] if waits and not first.failed else batch

    def _is_short(self, model: str, views: int) -> bool:
        return views <= MOST and 0 < self.costs.expect(model, views) <= self._longest

    def _send(self, server: ModelServer, batch: list[Part], *, by_itself: bool) -> None:
        can_retry = any(len(self._servers.untried(part.failed)) > 1 for part in batch)
        call = _Call(server, batch[0].key, batch, can_retry)
        for part in batch:
            part.calls.append(call)
            self._unqueue(part)
        self._calls.add(call)
        server.in_flight += 1
        server.last_used = next(self._numbers)
        if call.can_retry or not by_itself:  # the answer may come from another call
            call.task = asyncio.get_running_loop().create_task(self._run(call), context=batch[0].context)

    async def _run(self, call: _Call) -> None:
        """Make a call, give each of its requests the answer or error, and send waiting requests."""
        try:
            call.share(await self._ask(call))
            for other in [other for part in call.parts for other in part.calls if other.server in part.failed]:
                if other is not call:  # it is late, and this one was not
                    self._servers.shun(other.server)
        except _OF_ONE_SERVER as error:
            if isinstance(error, errors.ModelServerUnreachableError):
                self._servers.mark(call.server, alive=False)
            self._retry(call, error.with_traceback(None))
        except Exception as error:
            for part in call.parts:
                if isinstance(error, errors.ModelServerBusyError) and self._back_off(part):
                    continue
                if part.calls == [call]:  # else a further call may still bring the answer
                    part.fail(error)
        finally:
            self._calls.discard(call)
            for part in call.parts:
                part.calls.remove(call)
            call.parts, call.task = [], None  # a cycle would keep the photos until the next full collection
            call.server.in_flight -= 1
            self._dispatch()

    def _retry(self, call: _Call, error: Exception) -> None:
        """Let the requests of a call that failed or is late wait for another server."""
        call.server.retried += call.can_retry
        call.can_retry = False  # it is counted
        for part in call.parts:
            if part.waits:
                part.failed[call.server] = error
                self._wait_again(part)

    def _wait_again(self, part: Part) -> None:
        """Let a request wait for a further call, unless it does already or has one that is not late."""
        if part.waits and not part.is_queued and all(call.server in part.failed for call in part.calls):
            self._wait(part)

    def _back_off(self, part: Part) -> bool:
        """Let a request that a full server refused wait again after a while; return whether there is time for that."""
        delay = part.back_off * random.uniform(0.5, 1.5)  # noqa: S311
        part.back_off = min(2 * part.back_off, _MOST_BACK_OFF)
        if is_time := delay < part.budget.left():
            asyncio.get_running_loop().call_later(delay, self._end_back_off, part)
        return is_time

    def _end_back_off(self, part: Part) -> None:
        self._wait_again(part)
        self._dispatch()

    def _retry_late(self, call: _Call) -> None:
        """Send the requests of a call that is late to another server, too."""
        self._retry(call, errors.ModelServerUnreachableError())
        self._dispatch()

    async def _ask(self, call: _Call) -> Scores:
        server, model, first = call.server, call.key[0].model, call.parts[0]
        left = max([part.budget.left() for part in call.parts])
        views = sum([part.views for part in call.parts])
        if left <= 0 or not (fitting := self.costs.fit(model, views, left=left)):
            raise errors.BudgetSpentError("too little is left for the model")
        if len(call.parts) == 1:  # a batch of several requests is sent with all its views
            views = fitting
        images, tta = call.gather(views)
        start, expected = self._clock(), self.costs.expect(model, views)
        call.nearly_done = start + expected - max(_NEARLY_DONE, expected * _NEARLY_DONE_SHARE)
        late, timeout, alarm = max(_LATE, expected * _LATE_TIMES), left, None
        if call.can_retry and late < left - _RESERVE:
            alarm = asyncio.get_running_loop().call_later(late, self._retry_late, call)
        if alarm or first.failed:
            timeout = max(left - _RESERVE, left / 2)
        try:
            scores = await server.wire.predict(call.key[0], images, tta=tta, seconds=timeout)
        except (errors.BudgetSpentError, asyncio.CancelledError) as error:
            spent, is_answer = self._clock() - start, isinstance(error, errors.BudgetSpentError)
            if spent > left - OVER or (is_answer and not expected):  # else it says more of the server, or of the caller
                self.costs.note(model, views, spent, late=True)
            if is_answer and timeout < left:
                raise errors.ModelServerUnreachableError from error
            raise
        finally:
            if alarm:
                alarm.cancel()
        self.costs.note(model, views, self._clock() - start)
        server.calls, server.views, server.late = server.calls + 1, server.views + views, 0
        return scores
