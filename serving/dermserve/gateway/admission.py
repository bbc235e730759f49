"""Stage *admit*: how many requests are worked on, and how many wait, by method and model.

Never gRPC's `maximum_concurrent_rpcs`, which turns health checks away, too. Health, ListModels and GetModel don't pass
here: they cost nothing and an overloaded service must still be seen to live.

What is admitted follows one number that the model servers publish: their free capacity for a model, which counts what
is there beyond the requests that they have. A request is admitted while fewer than that are being prepared for them,
and two more, so that a photo is decoded while a call is in flight.

A burst may wait: it will be worked off. Where more keeps coming than can be answered, a long queue only makes every
answer late. So once the queue is full, or waits have become longer than someone has, it is cut to a short one until
nobody had to be refused for a second. (The idea of controlled delay: Nichols & Jacobson, "Controlling Queue Delay", ACM
Queue 10(5), 2012.) Meanwhile the two more are not admitted, either: they would only wait behind the queue.

A request that would wait for longer than it has is refused on arrival: neither it nor a model server should spend
anything on an answer that nobody will be there to read. So is one whose photo would make the photos that are held too
many bytes for the memory.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import OverloadedError

CLASSIFY = "Classify"
CLASSIFY_STREAM = "ClassifyStream"

_AHEAD = 2
"""Requests that are prepared beyond the free capacity: one whose photo is decoded, one whose answer is on its way."""
_WEIGHT = 0.2
"""Of the newest request in the running mean of how long one is worked on."""
_LEAST_RETRY = 0.05
"""Seconds; sooner than that nothing has changed."""
_LONG = 3.0
"""Seconds; a shorter wait is no sign of overload, even if someone has less than that. A burst causes none longer."""
_CALM = 1.0
"""Seconds without a refusal after which an overload is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of one method and model."""

    at_once: int | None
    """Requests worked on, whatever the free capacity; None for no further bound."""
    queue: int
    """Requests that wait while more come than can be answered."""
    burst: int
    """Requests that wait otherwise."""


class HeldBytes:
    """The bytes of all photos that wait or are worked on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def take(self, size: int) -> bool:
        """Count a photo, unless it would be too much; one that is held alone never is."""
        if self.held and self.held + size > self._most:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """Count a photo no longer."""
        self.held -= size


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
        """Whether one more may be worked on."""
        if not self.working:
            return True  # whatever others are at: each model gets on, and somebody's end lets the next one in
        if self._bounds.at_once is not None and self.working >= self._bounds.at_once:
            return False
        ahead = 0 if self._is_overloaded() else _AHEAD
        return self._preparing < self._free_capacity() + ahead

    def enter(self, size: int, budget: Budget) -> "Admitted":
        """Admit a request with a photo of so many bytes; begin `async with` on what it returns without awaiting.

        Raises:
            OverloadedError: the queue is full or longer than the budget, or too many bytes are held; at once, or when
                the queue is cut while this waits.
        """
        self._let_in()  # an overload may have ended meanwhile
        if self._waiting or not self.is_free:
            self._refuse_if_in_vain(budget)
        if not self._held.take(size):
            raise OverloadedError(max(self._mean, _LEAST_RETRY))
        return Admitted(self, size)

    async def wait(self) -> None:
        """Wait for the turn."""
        if not self._waiting and self.is_free:
            self._begin()
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            self._leave(turn)
            raise

    def prepared(self) -> None:
        """Count a request as with the model servers, which count it from now on."""
        self._preparing -= 1

    def end(self, seconds: float, *, prepared: bool) -> None:
        """End the work on a request, which took so long, and let those in who wait for it."""
        self._mean += (seconds - self._mean) * (_WEIGHT if self._mean else 1.0)
        self._finish(prepared=prepared)

    def release(self, size: int) -> None:
        """Hold a photo's bytes no longer."""
        self._held.give_back(size)

    def now(self) -> float:
        """Tell the time."""
        return self._clock()

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
        """Count who may wait in a burst."""
        burst = self._bounds.burst
        return min(burst, _LONG * max(1, self.working) / self._mean) if self._mean else burst

    def _cut(self, wait: float) -> None:
        """Begin or prolong an overload, and send away the last of those who wait until the short queue is left."""
        self._overloaded_until = self._clock() + _CALM
        while len(self._waiting) > self._bounds.queue:
            if not (turn := self._waiting.pop()).done():
                turn.set_exception(OverloadedError(max(wait, _LEAST_RETRY)))

    def _leave(self, turn: "asyncio.Future[None]") -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled() and turn.exception() is None:  # its turn came in the very moment it gave up
            self._finish(prepared=False)

    def _let_in(self) -> None:
        while self._waiting and self.is_free:
            if not (turn := self._waiting.popleft()).done():
                self._begin()
                turn.set_result(None)


class Admitted:
    """One request's place: waits for its turn when entered, and lets the next one in when left."""

    __slots__ = ("_prepared", "_queue", "_size", "_started")

    def __init__(self, queue: Queue, size: int) -> None:
        self._queue = queue
        self._size = size
        self._prepared = False
        self._started = 0.0

    async def __aenter__(self) -> "Admitted":
        """Wait for the turn."""
        try:
            await self._queue.wait()
        except BaseException:
            self._queue.release(self._size)
            raise
        self._started = self._queue.now()
        return self

    def prepared(self) -> None:
        """Say that the request goes to the model servers, at the first call."""
        if not self._prepared:
            self._prepared = True
            self._queue.prepared()

    async def __aexit__(self, *_: object) -> None:
        """End the work on it."""
        self._queue.release(self._size)
        self._queue.end(self._queue.now() - self._started, prepared=self._prepared)


class Admission:
    """A queue for each method and model, so that none fills that of another, and one bound on the photos' bytes."""

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
            clock: tells the time.
        """
        self.held = HeldBytes(max_held_bytes)
        self.queues = {
            (method, model): Queue(bounds, free_capacity=_bind(free_capacity, model), held=self.held, clock=clock)
            for method, bounds in {CLASSIFY: unary, CLASSIFY_STREAM: stream}.items()
            for model in models
        }

    def enter(self, method: str, model: str, *, size: int, budget: Budget) -> Admitted:
        """Admit a request to a method for a configured model; see Queue.enter."""
        return self.queues[method, model].enter(size, budget)


def _bind(free_capacity: Callable[[str], int], model: str) -> Callable[[], int]:
    return lambda: free_capacity(model)
