"""Stage *admit*: how many requests are in progress and how many wait, for each method and model.

gRPC's `maximum_concurrent_rpcs` is not used, because it refuses health checks, too. Health, ListModels and GetModel are
not limited here: they cost little, and an overloaded gateway must still answer health checks.

The limit follows the free capacity that the model servers publish for a model: the requests that they could take beyond
those that they have. A request is admitted while fewer requests than that are being prepared, plus two, so that a photo
is decoded while a call is in flight.

A burst of requests may wait. Under a longer overload a long queue only makes every answer late. So when the queue is
full, or a request has waited for longer than its budget, the queue is cut to a short one until no request has been
refused for a second. (After Nichols & Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012.) During an
overload the two extra requests are not admitted: they would only wait behind the queue.

A request that would wait for longer than its budget is refused on arrival, since its caller would not wait for the
answer. So is a request whose photo would exceed the bound on the bytes of all photos in memory.
"""

import asyncio
import functools
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import OverloadedError

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
        self._preparing = 0
        self._bounds = bounds
        self._free_capacity = free_capacity
        self._held = held
        self._overloaded_until = -math.inf
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean = 0.0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def is_free(self) -> bool:
        """Whether one more request may be admitted."""
        if not self.working:
            return True  # each model always has one request in progress, and the end of one admits the next
        if self._bounds.at_once is not None and self.working >= self._bounds.at_once:
            return False
        ahead = 0 if self._is_overloaded() else _AHEAD
        return self._preparing < self._free_capacity() + ahead

    def enter(self, size: int, budget: Budget) -> "Place":
        """Admit a request with a photo of so many bytes; begin `async with` on what it returns without awaiting.

        Raises:
            OverloadedError: the queue is full or longer than the budget, or too many bytes are held; at once, or when
                the queue is cut while this waits.
        """
        self._let_in()  # the overload may have ended since
        if self._waiting or not self.is_free:
            self._refuse_if_in_vain(budget)
        if not self._held.take(size):
            raise OverloadedError(max(self._mean, _LEAST_RETRY))
        return Place(self, size)

    async def wait(self, place: "Place") -> None:
        """Wait for the turn."""
        if not self._waiting and self.is_free:
            self._begin()
        else:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                self._held.held -= place.size
                self._leave(turn)
                raise
        place.started = self._clock()

    def prepared(self, place: "Place") -> None:
        """Stop counting a request as being prepared: the model servers count it from its first call on."""
        self._preparing -= not place.is_prepared
        place.is_prepared = True

    def end(self, place: "Place") -> None:
        """End a request, and admit those that wait."""
        self._held.held -= place.size
        seconds = self._clock() - place.started
        self._mean += (seconds - self._mean) * (_WEIGHT if self._mean else 1.0)
        self._finish(prepared=place.is_prepared)

    def _begin(self) -> None:
        self.working += 1
        self._preparing += 1

    def _finish(self, *, prepared: bool) -> None:
        self.working -= 1
        self._preparing -= not prepared
        self._let_in()

    def _refuse_if_in_vain(self, budget: Budget) -> None:
        wait = (self.waiting + 1) * self._mean / max(1, self.working)
        late = wait > budget.left()
        if self._is_full() or (late and wait > _LONG):
            self._cut(wait)
            late = True
        if late:
            raise OverloadedError(max(wait, _LEAST_RETRY))

    def _is_overloaded(self) -> bool:
        return self._clock() < self._overloaded_until

    def _is_full(self) -> bool:
        queue = self._bounds.queue
        return self.waiting >= (queue if self._is_overloaded() else max(queue, self._room()))

    def _room(self) -> float:
        """Count the requests that may wait in a burst."""
        burst = self._bounds.burst
        return min(burst, _LONG * max(1, self.working) / self._mean) if self._mean else burst

    def _cut(self, wait: float) -> None:
        """Begin or prolong an overload, and refuse the newest waiting requests until the short queue is left."""
        self._overloaded_until = self._clock() + _CALM
        while len(self._waiting) > self._bounds.queue:
            if not (turn := self._waiting.pop()).done():
                turn.set_exception(OverloadedError(max(wait, _LEAST_RETRY)))

    def _leave(self, turn: "asyncio.Future[None]") -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled() and turn.exception() is None:  # admitted at the moment that it was cancelled
            self._finish(prepared=False)

    def _let_in(self) -> None:
        while self._waiting and self.is_free:
            if not (turn := self._waiting.popleft()).done():
                self._begin()
                turn.set_result(None)


@dataclass(eq=False, slots=True)
class Place:
    """One request's place in the queue: waits until admitted when entered, and admits the next one when left."""

    queue: Queue
    size: int
    started: float = 0.0
    is_prepared: bool = False

    async def __aenter__(self) -> "Place":
        """Wait for the turn."""
        await self.queue.wait(self)
        return self

    def prepared(self) -> None:
        """Report that the request goes to the model servers."""
        self.queue.prepared(self)

    async def __aexit__(self, *_: object) -> None:
        """End the request."""
        self.queue.end(self)


class Admission:
    """A queue for each method and model, so that none fills another's, and one bound on the photos' bytes."""

    def __init__(
        self,
        models: Iterable[str],
        *,
        unary: Bounds,
        stream: Bounds,
        max_held_bytes: int,
        free_capacity: Callable[[str], int],
        clock: Clock,
    ) -> None:
        """Make the queues.

        Args:
            models: those that are served.
            unary: for Classify.
            stream: for the photos of ClassifyStream.
            max_held_bytes: of all photos that wait or are worked on.
            free_capacity: what the model servers publish, by model.
            clock: monotonic seconds.
        """
        self.held = HeldBytes(max_held_bytes)
        self.queues = {
            (method, model): Queue(
                bounds, free_capacity=functools.partial(free_capacity, model), held=self.held, clock=clock
            )
            for method, bounds in {CLASSIFY: unary, CLASSIFY_STREAM: stream}.items()
            for model in models
        }
