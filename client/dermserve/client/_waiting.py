"""Run the calls of both clients, blocking and asyncio, and `classify_many`. Each call is written once, as a coroutine.

The asyncio client awaits it. In the synchronous client nothing that the coroutine awaits ever suspends, so one step
runs all of it. In `classify_many` one thread takes photos, a thread for each photo sends it, and the answers go into a
queue.
"""

import asyncio
import contextlib
import contextvars
import functools
import os
import queue
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Sized
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

from dermserve.client._errors import DeadlineExceeded, DermserveError, Unavailable
from dermserve.client._request import Item, Photo, read_photo
from dermserve.client._values import Prediction

P = ParamSpec("P")
T = TypeVar("T")
_PAUSE = 0.5  # seconds before a photo is sent again to a gateway that went away
_FIRST_ALONE = 0.25
"""Most seconds to wait for the answer to an iterator's first photo before taking the second: a generator may need that
answer for the next photo."""


class Blocking:
    """Waits in the caller's thread. It has a queue, into which any thread puts events."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.put = self._events.put

    async def get(self) -> Any:
        """Return the next event."""
        return self._events.get()

    async def sleep(self, seconds: float) -> None:
        """Pause."""
        time.sleep(seconds)  # noqa: ASYNC251 - it may block

    async def read(self, photo: Photo) -> bytes:
        """Return a photo's bytes."""
        return read_photo(photo)

    async def call(self, method: Any, request: Any, **options: Any) -> Any:
        """Call a method of a stub."""
        return method(request, **options)


class OnLoop:
    """The same for a running event loop, which it does not block."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self.get = self._events.get
        self.sleep = asyncio.sleep

    def put(self, event: object) -> None:
        """Add an event, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def read(self, photo: Photo) -> bytes:
        """Return a photo's bytes, read in a thread that no program's end waits for: a network drive may hang."""
        if isinstance(photo, bytes):
            return read_photo(photo)
        threading.Thread(target=self._read, args=(photo,), daemon=True).start()
        found = await self.get()
        if isinstance(found, bytes):
            return found
        raise found

    def _read(self, photo: Photo) -> None:
        try:
            self.put(read_photo(photo))
        except Exception as error:
            self.put(error)

    async def call(self, method: Any, request: Any, **options: Any) -> Any:
        """Call a method of a stub; cancel the call when the caller is cancelled."""
        call = method.future(request, **options)
        call.add_done_callback(self.put)
        try:
            await self.get()
            return call.result()
        finally:
            call.cancel()


def blocking(described: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Make a synchronous method of a coroutine method."""

    @functools.wraps(described)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return finish(described(self, *args, **kwargs))

    return method


def blocking_generator(
    described: Callable[Concatenate[Any, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Any, P], Generator[T, None, None]]:
    """Make a synchronous method of one that returns an asynchronous generator."""

    @functools.wraps(described)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        return _iterate(described(self, *args, **kwargs))

    generator: Any = Generator
    returned = generator[*get_args(described.__annotations__["return"]), None]
    method.__annotations__ = described.__annotations__ | {"return": returned}  # for readers of the documentation
    return method


def finish(described: Awaitable[T]) -> T:
    """Run a coroutine that never suspends."""
    try:
        described.__await__().send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it was suspended")


def _iterate(described: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    try:
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield finish(anext(described))
    finally:
        finish(described.aclose())


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of one photo of `classify_many`: exactly one of `prediction` and `error` is set."""

    index: int  #: Position of the photo in the input, from 0.
    id: str  #: The caller's id; for a path given without one, the path; for bytes, their index.
    prediction: Prediction | None = None  #: The prediction; None if the photo failed.
    error: DermserveError | None = None  #: Why the photo failed; None if it was classified.

    def result(self) -> Prediction:
        """Return the prediction, or raise the error."""
        if self.prediction is None:
            raise self.error or AssertionError("an answer holds a prediction or an error")
        return self.prediction


class Many:
    """One `classify_many`. It is also how its threads wait: their calls and pauses end when the iteration does.

    `ask` sends a photo, with how to wait, the monotonic time to give up, and whether to wait for a connection.
    """

    def __init__(
        self, ask: Callable[[bytes, "Many", float, bool], Prediction], *, deadline: float, in_flight: int
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        self._ask = ask
        self._deadline = deadline
        self._events: Blocking | OnLoop
        self._room = threading.Semaphore(in_flight)
        self._answered = threading.Event()
        self._stopped = threading.Event()
        self._heard = False
        self._calls: set[Any] = set()

    async def answers(self, photos: Iterable[Item], waiter: type[Blocking | OnLoop]) -> AsyncGenerator[Answer, None]:
        """Yield an answer for each photo."""
        self._events = waiter()
        context = contextvars.copy_context()  # the caller's, in which its iterator runs
        threading.Thread(target=context.run, args=(self._take, photos), daemon=True).start()
        given, total, failure = 0, -1, None
        try:
            while given != total:
                event = await self._events.get()
                if isinstance(event, Answer):
                    given += 1
                    yield event
                    self._answered.set()
                    self._room.release()
                elif isinstance(event, BaseException):
                    raise event
                else:
                    total, failure = event
            if failure is not None:
                raise failure
        finally:
            self._stopped.set()
            self._room.release()  # a thread that waits for the next photo is left behind
            for call in [*self._calls]:
                call.cancel()

    def _take(self, photos: Iterable[Item]) -> None:
        """Take a photo when there is room for it; it may block on the next one.

        No program's end waits for the threads: a file on a network drive that is gone may never be read.
        """
        alone, taken, failure = 0.0 if isinstance(photos, Sized) else _FIRST_ALONE, 0, None
        try:
            items = enumerate(photos)
            while self._room.acquire() and not self._stopped.is_set() and (numbered := next(items, None)):
                threading.Thread(target=self._answer, args=numbered, daemon=True).start()
                taken += 1
                self._answered.wait(alone)
        except BaseException as error:  # the caller's own: raised where the caller is
            failure = error
        self._events.put((taken, failure))

    def _answer(self, index: int, item: Item) -> None:
        try:
            if isinstance(item, tuple):
                name, photo = item
            else:
                name, photo = str(index) if isinstance(item, bytes) else os.fspath(item), item
            try:
                answer = Answer(index, name, prediction=self._classify(read_photo(photo)))
            except DermserveError as error:
                answer = Answer(index, name, error=error)
            self._events.put(answer)
        except BaseException as error:  # the item is no photo, for example
            self._events.put(error)

    def _classify(self, image: bytes) -> Prediction:
        """Send a photo; again, until it is answered, if what was there to answer others has gone away."""
        end, heard = time.monotonic() + self._deadline, self._heard
        while True:
            try:
                prediction = self._ask(image, self, end, heard)
            except (DeadlineExceeded, Unavailable) as error:
                heard = self._heard and isinstance(error, Unavailable) and time.monotonic() + _PAUSE < end
                if not heard or self._stopped.wait(_PAUSE):
                    self._heard = False
                    raise
            else:
                self._heard = True
                return prediction

    async def call(self, method: Any, request: Any, **options: Any) -> Any:
        """Call a method of a stub."""
        call = method.future(request, **options)
        self._calls.add(call)
        try:
            if self._stopped.is_set():
                call.cancel()
            return call.result()
        finally:
            self._calls.discard(call)

    async def sleep(self, seconds: float) -> None:
        """Pause, or less when the iteration ends."""
        self._stopped.wait(seconds)
