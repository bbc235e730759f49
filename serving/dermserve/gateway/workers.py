"""A bounded pool of threads that a blocked thread can't take down.

`concurrent.futures` waits for its threads at exit and never replaces one. These are daemon threads, and one that has
been at the same work for too long is given up: a new one takes its place, and it ends when its work does, if ever.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import BudgetSpentError

_T = TypeVar("_T")
_Job = Callable[[], None]


class Workers:
    """Runs blocking work in at most `count` threads, first come, first served."""

    def __init__(self, count: int, *, stuck_after: float, clock: Clock) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stuck_after = stuck_after
        self._clock = clock
        self._since: dict[threading.Thread, float | None] = {}
        self.replaced = 0
        """Threads given up so far."""
        for _ in range(count):
            self._hire()

    async def run(self, work: Callable[[], _T], *, budget: Budget) -> _T:
        """Run work in a thread; work that its caller no longer waits for is not started.

        Raises:
            BudgetSpentError: it was not done in time.
        """
        left = budget.require("before decoding")
        self._replace_stuck()
        future: Future[_T] = Future()
        self._jobs.put(lambda: _fulfil(future, work))
        try:
            async with asyncio.timeout(left):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise BudgetSpentError("decoding") from error

    def close(self) -> None:
        """Let the threads end once the work before this call is done; waits for none of them."""
        for _ in self._since:
            self._jobs.put(None)

    def _hire(self) -> None:
        thread = threading.Thread(target=self._serve, name="worker", daemon=True)
        self._since[thread] = None
        thread.start()

    def _serve(self) -> None:
        me = threading.current_thread()
        while me in self._since and (job := self._jobs.get()) is not None:
            self._since[me] = self._clock()
            job()
            if me in self._since:  # not given up meanwhile
                self._since[me] = None

    def _replace_stuck(self) -> None:
        oldest = self._clock() - self._stuck_after
        for thread, since in list(self._since.items()):
            if since is not None and since < oldest:
                del self._since[thread]
                self.replaced += 1
                self._hire()


def _fulfil(future: Future[_T], work: Callable[[], _T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # whatever it is belongs to the one who waits
        future.set_exception(error)
