"""How the two clients wait. Each call is written once, as a coroutine.

The asyncio client awaits it. In the synchronous client nothing that the coroutine awaits ever suspends, so one step
runs all of it.
"""

import asyncio
import contextlib
import functools
import queue
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

P = ParamSpec("P")
T = TypeVar("T")


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

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that may block."""
        return function(*arguments)

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
        self.run = asyncio.to_thread

    def put(self, event: object) -> None:
        """Add an event, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

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
