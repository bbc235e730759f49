"""Stage *decode*: photo bytes to a batch of views, in one job of a bounded pool of threads.

`concurrent.futures` waits for its threads at exit and never replaces one. These are daemon threads. A thread that has
worked on one photo for too long is replaced by a new one, and ends when its work does.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.budget import Clock
from dermserve.imaging import Limits, Measures, decode, make_views, measure
from dermserve.v1 import card_pb2

_T = TypeVar("_T")
_Job = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class Workers:
    """Runs blocking work in at most `count` threads, first come, first served."""

    def __init__(self, count: int, *, stuck_after: float, clock: Clock) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stuck_after = stuck_after
        self._clock = clock
        self._since: dict[threading.Thread, float | None] = {}
        self.replaced = 0
        """Threads replaced so far."""
        for _ in range(count):
            self._start()

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run work in a thread; work that its caller no longer waits for is not started."""
        self._replace_stuck()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()
        self._jobs.put((loop, future, work))
        return await future

    def close(self) -> None:
        """Let the threads end once the work before this call is done; waits for none of them."""
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
            _do(*job)
            if me in self._since:  # not replaced since
                self._since[me] = None

    def _replace_stuck(self) -> None:
        oldest = self._clock() - self._stuck_after
        for thread, since in list(self._since.items()):
            if since is not None and since < oldest:
                del self._since[thread]
                self.replaced += 1
                self._start()


def _do(loop: asyncio.AbstractEventLoop, future: "asyncio.Future[Any]", work: Callable[[], Any]) -> None:
    """Do work that is still waited for, and give what came of it to the event loop that waits."""
    if future.cancelled():
        return
    result, error = None, None
    try:
        result = work()
    except BaseException as raised:  # any error goes to the caller that waits
        error = raised
    with contextlib.suppress(RuntimeError):  # the event loop is closed
        loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A photo as the model is to see it."""

    views: NDArray[np.uint8]
    """uint8 [V, H, W, 3], the identity first."""
    plan_ms: float
    """Wall time that making the views took."""
    measures: Measures
    """Of the identity view."""


class Photos:
    """Decodes photos in a pool of threads; Pillow and numpy release the interpreter lock."""

    def __init__(self, workers: Workers, *, limits: Limits) -> None:
        self._workers = workers
        self._limits = limits

    async def prepare(self, image: bytes, *, spec: card_pb2.InputSpec, views: Sequence[str]) -> Prepared:
        """Decode a photo at a model's input size, make the named views of it, and measure it.

        Raises:
            PhotoError: the photo can't be used.
        """
        height, width, limits = spec.height, spec.width, self._limits

        def work() -> Prepared:
            pixels = decode(image, height=height, width=width, limits=limits).pixels
            start = time.perf_counter()
            batch = make_views(pixels, views) if len(views) > 1 else pixels[np.newaxis]
            plan_ms = (time.perf_counter() - start) * 1e3
            return Prepared(batch, plan_ms, measure(pixels))

        return await self._workers.run(work)

    async def vary(self, pixels: NDArray[np.uint8], views: Sequence[str]) -> NDArray[np.uint8]:
        """Make more views of an identity view, uint8 [H, W, 3]."""
        return await self._workers.run(lambda: make_views(pixels, views))
