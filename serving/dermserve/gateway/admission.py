"""Stage *admit*: how many requests are in progress and how many wait, for each method and model.

gRPC's `maximum_concurrent_rpcs` is not used, because it refuses health checks, too. Health, ListModels and GetModel are
not limited here: they cost little, and an overloaded gateway must still answer health checks.

A request is admitted while fewer are being prepared than the model servers could take beyond those that they have, plus
two, so that a photo is decoded while a call is in flight.

A burst of requests may wait. Under a longer overload a long queue only makes every answer late. So when the queue is
full, or a request has waited for longer than its budget, the queue is cut to a short one until no request has been
refused for a second, and the two extra requests are not admitted. (After Nichols & Jacobson, "Controlling Queue Delay",
ACM Queue 10(5), 2012.) Refused on arrival: a request that would wait for longer than its budget, and one whose photo
would exceed the bound on the bytes of all photos in memory.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import OverloadedError

if TYPE_CHECKING:
    from dermserve.gateway.config import Config

CLASSIFY = "Classify"
CLASSIFY_STREAM = "ClassifyStream"

_AHEAD = 2
"""Requests admitted beyond the free capacity: one whose photo is decoded, one whose answer is being sent."""
_WEIGHT = 0.2
"""Weight of the newest request in the running mean of how long a request is in progress."""
_LEAST_RETRY = 0.05
"""Seconds; the shortest time to try again: capacity does not change faster."""
_LONG = 3.0
"""Seconds; a shorter wait is no sign of overload, even if it exceeds a budget. No burst causes a longer one."""
_CALM = 1.0
"""Seconds without a refusal after which an overload is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of one method and model."""

    at_once: int | None
    """Most requests in progress, whatever the free capacity; None for no other bound."""
    queue: int
    """Most requests that wait during an overload."""
    burst: int
    """Most requests that wait when there is no overload."""


@dataclass(slots=True)
class HeldBytes:
    """The bytes of all photos that wait or are worked on."""

    most: int
    held: int = 0

    def take(self, size: int) -> bool:
        """Count a photo, unless it would exceed the bound; a photo that is held alone never does."""
        if self.held and self.held + size > self.most:
            return False
        self.held += size
        return True


class Queue:
    """Requests for one model by one method: those worked on, and those that wait, first come, first served."""

    def __init__(self, bounds: Bounds, *, free_capacity: Callable[[], int], held: HeldBytes, clock: Clock) -> None:
        self.working = 0
        """Requests worked on."""
        self.preparing = 0
        """Those of them that the model servers do not count yet."""
        self._bounds = bounds
        self._free_capacity = free_capacity
        self._held = held
        self._clock = clock
        self._overloaded_until = -math.inf
        self._turns: deque[asyncio.Future[None]] = deque()
        self._mean = 0.0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._turns)

    @property
    def is_free(self) -> bool:
        """Whether one more request may be admitted."""
        if not self.working:
            return True  # each model always has one request in progress, and the end of one admits the next
        if self._bounds.at_once is not None and self.working >= self._bounds.at_once:
            return False
        return self.preparing < self._free_capacity() + (0 if self._is_overloaded else _AHEAD)

    @property
    def _is_overloaded(self) -> bool:
        return self._clock() < self._overloaded_until

    def enter(self, size: int, budget: Budget) -> AbstractAsyncContextManager["Place"]:
        """Admit a request with a photo of so many bytes; begin `async with` on what it returns without awaiting.

        Raises:
            OverloadedError: the queue is full or longer than the budget, or too many bytes are held; at once, or when
                the queue is cut while this waits.
        """
        self._let_in()  # the overload may have ended since
        if self._turns or not self.is_free:
            self._refuse_if_in_vain(budget)
        if not self._held.take(size):
            raise OverloadedError(max(self._mean, _LEAST_RETRY))
        return self._stay(size)

    def _refuse_if_in_vain(self, budget: Budget) -> None:
        wait = (self.waiting + 1) * self._mean / max(1, self.working)
        is_late = wait > budget.left()
        if is_overload := self.waiting >= self._room() or (is_late and wait > _LONG):
            self._overloaded_until = self._clock() + _CALM
            while len(self._turns) > self._bounds.queue:
                if not (turn := self._turns.pop()).done():
                    turn.set_exception(OverloadedError(max(wait, _LEAST_RETRY)))
        if is_overload or is_late:
            raise OverloadedError(max(wait, _LEAST_RETRY))

    def _room(self) -> float:
        """Count the requests that may wait: in a burst, no more than are answered in so many seconds."""
        if self._is_overloaded:
            return self._bounds.queue
        answered = _LONG * max(1, self.working) / self._mean if self._mean else math.inf
        return max(self._bounds.queue, min(self._bounds.burst, answered))

    @contextlib.asynccontextmanager
    async def _stay(self, size: int) -> AsyncIterator["Place"]:
        """Wait for the turn, let the request be worked on, and admit those that wait."""
        place, turn = Place(self), asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        self._let_in()
        try:
            await turn
            started = self._clock()
            try:
                yield place
            finally:
                seconds = self._clock() - started
                self._mean += (seconds - self._mean) * (_WEIGHT if self._mean else 1.0)
        finally:
            self._held.held -= size
            if turn in self._turns:
                self._turns.remove(turn)
            elif not turn.cancelled() and turn.exception() is None:  # perhaps cancelled at the moment of its turn
                self.working -= 1
                place.prepared()
                self._let_in()

    def _let_in(self) -> None:
        while self._turns and self.is_free:
            if not (turn := self._turns.popleft()).done():
                self.working += 1
                self.preparing += 1
                turn.set_result(None)


@dataclass(eq=False, slots=True)
class Place:
    """One admitted request's place."""

    queue: Queue
    is_prepared: bool = False

    def prepared(self) -> None:
        """Report that the request goes to the model servers, which count it from its first call on."""
        self.queue.preparing -= not self.is_prepared
        self.is_prepared = True


class Admission:
    """A queue for each method and model, so that none fills another's, and one bound on the photos' bytes."""

    def __init__(self, config: "Config", *, free_capacity: Callable[[str], int], clock: Clock) -> None:
        """Make the queues; the free capacity, by model, is what the model servers publish."""
        self.held = HeldBytes(config.max_held_bytes)
        self.queues = {
            (method, model): Queue(bounds, free_capacity=partial(free_capacity, model), held=self.held, clock=clock)
            for method, bounds in {CLASSIFY: config.unary, CLASSIFY_STREAM: config.stream}.items()
            for model in config.models
        }
