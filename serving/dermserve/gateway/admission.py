"""Stage *admit*: what may be received, how many requests are in progress and how many wait, by method and model.

gRPC's `maximum_concurrent_rpcs` is not used, because it also refuses health checks. Health, ListModels and GetModel are
not limited here: they cost little, and an overloaded gateway must still answer health checks.

A request is admitted while fewer requests are being prepared than the model servers have free capacity for, plus two,
so that photos are decoded while calls are in flight.

A burst of requests may wait. In a longer overload a long queue only makes every answer late. So when the queue is full,
or a request would wait for longer than its budget and three seconds, an overload begins: the queue is cut to a short
one and the two extra requests are not admitted, until no request has been refused for a second. (After Nichols &
Jacobson, "Controlling Queue Delay", ACM Queue 10(5), 2012.) A request is also refused on arrival if it would wait for
longer than its budget, or if its photo would exceed the bound on the bytes of all photos in memory.

gRPC receives a message while its handler reads, and does not say how large it is. So what photos take before their
requests can be admitted is bounded by the resident memory of the process.
"""

import asyncio
import contextlib
import ctypes
import math
import os
import pathlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import OverloadedError

_AHEAD = 2  # requests admitted beyond the free capacity: one to decode its photo, one to send its answer
_WEIGHT = 0.2  # weight of the newest request in the running mean of the time that a request is in progress
_LEAST_RETRY = 0.05  # seconds; the shortest retry delay that a refusal names
# Seconds; a wait up to this is no overload, even if it exceeds a budget. A burst is limited to what causes such a wait.
_LONG = 3.0
_CALM = 1.0  # seconds without a refusal after which an overload is over
_LOOK_EVERY = 0.02  # seconds between looks at the memory while messages are received
_STATM = pathlib.Path("/proc/self/statm")


@dataclass(slots=True)
class HeldBytes:
    """The bytes of all photos that wait or are in progress."""

    most: int
    held: int = 0


class Receiving:
    """Receives messages. While they take too much memory, the newest half of them is refused again and again."""

    def __init__(self, room: int) -> None:
        """Let the resident memory grow by `room` bytes from now on. It is looked at on Linux alone."""
        self._most = resident_bytes() + room
        self._newest_last: dict[asyncio.Timeout, None] = {}
        self._look: asyncio.TimerHandle | None = None

    async def receive(self, message: Awaitable[bytes | None]) -> bytes | None:
        """Wait for a message.

        Raises:
            OverloadedError: messages took too much memory meanwhile.
        """
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(_LOOK_EVERY, self._bound)
        try:
            async with asyncio.timeout(None) as limit:
                self._newest_last[limit] = None
                try:
                    return await message
                finally:
                    del self._newest_last[limit]
        except TimeoutError:
            raise OverloadedError(_CALM) from None

    def _bound(self) -> None:
        loop, self._look = asyncio.get_running_loop(), None
        if not self._newest_last:
            return
        self._look = loop.call_later(_LOOK_EVERY, self._bound)
        if resident_bytes() > self._most:
            trim_memory()
        if resident_bytes() > self._most:
            left = [limit for limit in self._newest_last if limit.when() is None]  # others are already being refused
            for limit in left[len(left) // 2 :]:
                limit.reschedule(loop.time())


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where it is not known."""
    with contextlib.suppress(OSError):
        return int(_STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def trim_memory() -> None:
    """Give freed memory back to the system, which glibc keeps."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


class Queue:
    """Requests for one model by one method: those in progress, and those that wait, in order of arrival."""

    def __init__(
        self, most: int, in_overload: int, *, free_capacity: Callable[[], int], held: HeldBytes, clock: Clock
    ) -> None:
        """Let `most` requests wait, `in_overload` of them during an overload; `held` is shared by all queues."""
        self.working = 0  # requests in progress
        self.preparing = 0  # those of them that the model servers do not count yet
        self.held = held
        self._most, self._in_overload = most, in_overload
        self._free_capacity = free_capacity
        self._clock = clock
        self._overloaded_until = -math.inf
        self._places: deque[Place] = deque()  # of those that wait
        self._mean = 0.0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._places)

    @property
    def is_free(self) -> bool:
        """Whether one more request may be admitted."""
        if not self.working:  # each model always has one request in progress, and the end of one admits the next
            return True
        return self.preparing < self._free_capacity() + (0 if self._is_overloaded else _AHEAD)

    @property
    def _is_overloaded(self) -> bool:
        return self._clock() < self._overloaded_until

    def enter(self, size: int, budget: Budget) -> "Place":
        """Give a place to a request with a photo of `size` bytes. The caller must `leave` it in every case.

        Raises:
            OverloadedError: the queue is full or longer than the budget, or too many bytes are held.
        """
        self._let_in()  # an overload may have ended since
        if must_wait := not self.is_free:
            self._refuse_if_too_late(budget)
        if self.held.held and self.held.held + size > self.held.most:  # a single photo may exceed it
            raise OverloadedError(max(self._mean, _LEAST_RETRY))
        self.held.held += size
        place = Place(self, size)
        if must_wait:
            place.turn = asyncio.get_running_loop().create_future()
            self._places.append(place)
        else:
            self._admit(place)
        return place

    def _refuse_if_too_late(self, budget: Budget) -> None:
        wait = (self.waiting + 1) * self._mean / max(1, self.working)
        is_late = wait > budget.left()
        if is_overload := self.waiting >= self._room() or (is_late and wait > _LONG):
            self._overloaded_until = self._clock() + _CALM
            while len(self._places) > self._in_overload:
                if (turn := self._places.pop().turn) and not turn.done():
                    turn.set_result(OverloadedError(max(wait, _LEAST_RETRY)))
        if is_overload or is_late:
            raise OverloadedError(max(wait, _LEAST_RETRY))

    def _room(self) -> float:
        """Count the requests that may wait: in a burst, no more than are answered in `_LONG` seconds."""
        if self._is_overloaded:
            return self._in_overload
        answered = _LONG * max(1, self.working) / self._mean if self._mean else math.inf
        return max(self._in_overload, min(self._most, answered))

    def _let_in(self) -> None:
        while self._places and self.is_free:
            place = self._places.popleft()
            if place.turn and not place.turn.done():
                place.turn.set_result(None)
                self._admit(place)

    def _admit(self, place: "Place") -> None:
        place.since = self._clock()
        self.working += 1
        self.preparing += 1

    def set_aside(self, place: "Place") -> None:
        """Admit others in the place of a request that takes long to prepare."""
        place.prepared()
        self._let_in()

    def leave(self, place: "Place") -> None:
        """Take a place back, and admit those that wait."""
        self.held.held -= place.size
        if place.since is None:
            if place in self._places:
                self._places.remove(place)
            return
        self._mean += (self._clock() - place.since - self._mean) * (_WEIGHT if self._mean else 1.0)
        self.working -= 1
        place.prepared()
        self._let_in()


@dataclass(eq=False, slots=True)
class Place:
    """One request's place: in the queue, and after its admission among the requests in progress."""

    queue: Queue
    size: int  # bytes of its photo
    since: float | None = None  # when it was admitted, by the clock
    is_prepared: bool = False
    turn: "asyncio.Future[OverloadedError | None] | None" = None  # of one that waits: ends when admitted or refused

    async def wait(self) -> None:
        """Wait until it is admitted.

        Raises:
            OverloadedError: the queue was cut meanwhile.
        """
        if self.turn and (refusal := await self.turn):
            raise refusal

    def prepared(self) -> None:
        """Report that the request is sent to the model servers; from now on it counts against their slots."""
        self.queue.preparing -= not self.is_prepared
        self.is_prepared = True
