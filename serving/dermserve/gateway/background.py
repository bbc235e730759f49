"""Work beside the requests: tasks that nobody waits for, work that is repeated, and a bounded pool of threads."""

import asyncio
import contextlib
import functools
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

from dermserve.gateway.budget import Clock

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


class Background:
    """Tasks that run until they end, or until `close` at the latest."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Start a task."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def repeat(self, work: Callable[[], Awaitable[object]], pause: Callable[[], float]) -> None:
        """Start doing work again and again, `pause()` seconds apart; what it raises is logged."""
        self.start(_repeat(work, pause))

    async def close(self) -> None:
        """Cancel all tasks, and wait for their end."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def _repeat(work: Callable[[], Awaitable[object]], pause: Callable[[], float]) -> None:
    while True:
        try:
            await work()
        except Exception:
            _log.exception("background_work_failed", work=repr(work))
        await asyncio.sleep(pause())


class Workers:
    """Runs blocking work in at most `count` threads, in order of arrival.

    The pool of `concurrent.futures` waits for its threads at exit and never replaces one. These are daemon threads. One
    that works for too long is replaced by a new one, and ends when its work is done.
    """

    def __init__(self, count: int, *, stuck_after: float, clock: Clock) -> None:
        self.replaced = 0  # threads replaced so far
        self._jobs: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._stuck_after = stuck_after
        self._clock = clock
        self._since: dict[threading.Thread, float | None] = {}
        for _ in range(count):
            self._start()

    @property
    def waiting(self) -> int:
        """How many jobs wait for a thread."""
        return self._jobs.qsize()

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run work in a thread, unless its caller was cancelled before it starts."""
        self._replace_stuck()
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, work))
        try:
            return await future
        finally:
            del future  # its error refers to this frame

    def close(self) -> None:
        """Let the threads end once earlier work is done, without waiting for them."""
        for _ in self._since:
            self._jobs.put(None)

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="worker", daemon=True)
        self._since[thread] = None
        thread.start()

    def _serve(self) -> None:
        me = threading.current_thread()
        while me in self._since and (job := self._jobs.get()) is not None:
            self._since[me] = self._clock()
            _work(*job)
            del job  # it has the photo
            if me in self._since:  # not replaced since
                self._since[me] = None

    def _replace_stuck(self) -> None:
        oldest = self._clock() - self._stuck_after
        for thread, since in list(self._since.items()):
            if since is not None and since < oldest:
                del self._since[thread]
                self.replaced += 1
                self._start()


def _work(future: "asyncio.Future[Any]", work: Callable[[], Any]) -> None:
    """Do work and set its future's result in the loop: cheaper than chaining a future of `concurrent.futures`."""
    if future.cancelled():
        return
    try:
        settle = functools.partial(future.set_result, work())
    except BaseException as error:  # any error goes to the waiting caller
        settle = functools.partial(future.set_exception, error)
    with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits
        future.get_loop().call_soon_threadsafe(_settle, future, settle)
    del settle  # an error in it refers to this frame


def _settle(future: "asyncio.Future[Any]", settle: Callable[[], None]) -> None:
    if not future.done():
        settle()
