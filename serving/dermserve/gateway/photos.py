"""Stage *decode*: photo bytes to pixels, in a job of a bounded pool of threads.

The pool of `concurrent.futures` waits for its threads at exit and never replaces one. These are daemon threads. A
thread that works on one photo for too long is replaced by a new one, and ends when its work is done.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.budget import Clock
from dermserve.imaging import Limits, Measures, decode, measure
from dermserve.v1 import card_pb2

_T = TypeVar("_T")


class Workers:
    """Runs blocking work in at most `count` threads, in order of arrival."""

    def __init__(self, count: int, *, stuck_after: float, clock: Clock) -> None:
        self.replaced = 0
        """Threads replaced so far."""
        self._jobs: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._stuck_after = stuck_after
        self._clock = clock
        self._since: dict[threading.Thread, float | None] = {}
        for _ in range(count):
            self._start()

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run work in a thread, unless its caller was cancelled before it starts."""
        self._replace_stuck()
        future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        self._jobs.put((future, work))
        return await future

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
    result, error = None, None
    try:
        result = work()
    except BaseException as caught:  # any error goes to the waiting caller
        error = caught
    with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)
    del error  # it refers to this frame


def _settle(future: "asyncio.Future[Any]", result: object, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Prepared(NamedTuple):
    """A decoded photo."""

    pixels: NDArray[np.uint8]  # [H, W, 3]
    measures: Measures


def prepare(image: bytes, *, spec: card_pb2.InputSpec, limits: Limits) -> Prepared:
    """Decode a photo at a model's input size and measure it.

    Raises:
        PhotoError: the photo can't be used.
    """
    pixels = decode(image, height=spec.height, width=spec.width, limits=limits)
    return Prepared(pixels, measure(pixels))
