"""A bounded number of passages at once and a bounded queue before them, first come, first served.

A request that would wait for longer than it has is refused on arrival: neither it nor the model server should spend
anything on an answer that nobody will be there to read.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import BudgetSpentError, OverloadedError

_WEIGHT = 0.2
"""Of the newest passage in the running mean of how long one takes."""
_LEAST_RETRY = 0.05
"""Seconds; sooner than that nothing has changed."""


class Gate:
    """Lets `at_once` through and at most `queue` wait; any number when None."""

    def __init__(self, *, at_once: int, queue: int | None, clock: Clock) -> None:
        self._at_once = at_once
        self._free = at_once
        self._queue = queue
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._mean = 0.0

    @property
    def passing(self) -> int:
        """How many are through and not yet done."""
        return self._at_once - self._free

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @contextlib.asynccontextmanager
    async def enter(self, budget: Budget) -> AsyncIterator[None]:
        """Pass, after a wait if need be, and be counted as passing while the block lasts.

        Raises:
            OverloadedError: the queue is full, or longer than the budget.
            BudgetSpentError: the budget ran out in the queue.
        """
        await self._enter(budget)
        start = self._clock()
        try:
            yield
        finally:
            taken = self._clock() - start
            self._mean += (taken - self._mean) * (_WEIGHT if self._mean else 1.0)
            self._let_in()

    async def _enter(self, budget: Budget) -> None:
        if self._free:
            self._free -= 1
            return
        wait = (self.waiting + 1) * self._mean / self._at_once
        if (self._queue is not None and self.waiting >= self._queue) or wait > budget.left():
            raise OverloadedError(max(wait, _LEAST_RETRY))
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

    def _leave_queue(self, turn: "asyncio.Future[None]") -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif not turn.cancelled():  # its turn came in the very moment it gave up: the next one's, then
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            if not (turn := self._waiting.popleft()).done():
                turn.set_result(None)
                return
        self._free += 1
