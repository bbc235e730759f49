"""A bounded number of passages at once and a bounded queue before them, first come, first served.

A burst may wait: it will be worked off. Where more keeps coming than can be answered, a long queue only makes every
answer late. So once the room for a burst is full, or waits have become longer than someone has, the queue is cut to a
short one until nobody had to be refused for a while. (The idea of controlled delay: Nichols & Jacobson, "Controlling
Queue Delay", ACM Queue 10(5), 2012.) Meanwhile nobody passes, either, who would only wait behind the gate: no more than
what is there can do at once, or will be able to by the time that they have come to it.

A request that would wait for longer than it has is refused on arrival: neither it nor the model server should spend
anything on an answer that nobody will be there to read.
"""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Callable

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import BudgetSpentError, OverloadedError

_WEIGHT = 0.2
"""Of the newest passage in the running mean of how long one takes."""
_LEAST_RETRY = 0.05
"""Seconds; sooner than that nothing has changed."""
_LONG = 3.0
"""Seconds; a shorter wait is no sign of overload, even if someone has less than that. A burst causes none longer."""
_CALM = 1.0
"""Seconds without a refusal after which an overload is over."""


class Gate:
    """Lets `at_once` through and at most `burst` wait, or `queue` while overloaded; any number when `queue` is None."""

    def __init__(
        self,
        *,
        at_once: int,
        queue: int | None,
        burst: int = 0,
        steady: int | None = None,
        spare: Callable[[], int] = lambda: 0,
        further: Callable[[], int] = lambda: 0,
        clock: Clock,
    ) -> None:
        """Make a gate that lets `at_once` through, or while overloaded `steady` and what is `spare` behind it.

        `further` says how many more than that may pass, because those behind it take them along.
        """
        self._at_once = at_once
        self._passing = 0
        self._queue = queue
        self._burst = burst
        self._steady = at_once if steady is None else steady
        self._spare = spare
        self._further = further
        self._overloaded_until = -math.inf
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean = 0.0

    @property
    def places(self) -> int:
        """How many may be through at once now."""
        if not self._is_overloaded():
            return self._at_once + self._further()
        return min(self._at_once, self._steady + max(0, self._spare())) + self._further()

    @property
    def passing(self) -> int:
        """How many are through and not yet done."""
        return self._passing

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def is_free(self) -> bool:
        """Whether the next one passes at once."""
        return not self._waiting and self._passing < self.places

    def enter(self, budget: Budget) -> contextlib.AbstractAsyncContextManager[None]:
        """Pass, after a wait if need be, and be counted as passing while the block lasts; begin it without awaiting.

        Raises:
            OverloadedError: the queue is full or longer than the budget, at once, before the block is entered; or it
                was cut while this waited.
            BudgetSpentError: the budget ran out in the queue.
        """
        self._admit()  # an overload may have ended meanwhile
        if not self.is_free:
            self._refuse_who_would_wait_in_vain(budget)
        return self._passage(budget)

    @contextlib.asynccontextmanager
    async def _passage(self, budget: Budget) -> AsyncIterator[None]:
        await self._pass(budget)
        start = self._clock()
        try:
            yield
        finally:
            taken = self._clock() - start
            self._mean += (taken - self._mean) * (_WEIGHT if self._mean else 1.0)
            self._let_in()

    def _refuse_who_would_wait_in_vain(self, budget: Budget) -> None:
        places = self.places
        wait = (self.waiting + 1) * self._mean / places
        late = wait > budget.left()
        if self._is_full(places) or (late and wait > _LONG):
            self._cut(wait)
            late = True
        if late:
            raise OverloadedError(max(wait, _LEAST_RETRY))

    async def _pass(self, budget: Budget) -> None:
        if self.is_free:
            self._passing += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(budget.left()):  # not wait_for, which in Python 3.11 may swallow a cancellation
                await turn
        except BaseException as error:
            self._leave_queue(turn)
            if isinstance(error, TimeoutError):
                raise BudgetSpentError("waiting for its turn") from error
            raise

    def _is_overloaded(self) -> bool:
        return self._clock() < self._overloaded_until

    def _is_full(self, places: int) -> bool:
        if self._queue is None:
            return False
        return self.waiting >= (self._queue if self._is_overloaded() else max(self._queue, self._room(places)))

    def _room(self, places: int) -> float:
        """Count who may wait in a burst."""
        return min(self._burst, _LONG * places / self._mean) if self._mean else self._burst

    def _cut(self, wait: float) -> None:
        """Begin or prolong an overload, and send away the last of those who wait until the short queue is left."""
        self._overloaded_until = self._clock() + _CALM
        while self._queue is not None and len(self._waiting) > self._queue:
            if not (turn := self._waiting.pop()).done():
                turn.set_exception(OverloadedError(max(wait, _LEAST_RETRY)))

    def _leave_queue(self, turn: "asyncio.Future[None]") -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled() and turn.exception() is None:  # its turn came in the very moment it gave up
            self._let_in()

    def _let_in(self) -> None:
        """Free a place, and let those pass who wait for one and may."""
        self._passing -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._passing < self.places:
            if not (turn := self._waiting.popleft()).done():
                self._passing += 1
                turn.set_result(None)
