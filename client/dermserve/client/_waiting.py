"""How the two clients wait. Each call is written once, as a coroutine.

The asyncio client awaits it. In the synchronous client nothing that the coroutine awaits ever suspends, so one step
runs all of it.
"""

import asyncio
import contextlib
import functools
import queue
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Generator, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar, get_args

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """A queue of events: any thread puts them, and the caller's thread waits for them."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.put = self._events.put

    async def get(self, seconds: float | None = None) -> Any:
        """Return the next event; None after `seconds` without one."""
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return None

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

    def put(self, event: object) -> None:
        """Add an event, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def get(self, seconds: float | None = None) -> Any:
        """Return the next event; None after `seconds` without one."""
        try:
            async with asyncio.timeout(seconds):
                return await self._events.get()
        except TimeoutError:
            return None

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that may block, in a thread."""
        return await asyncio.to_thread(function, *arguments)

    async def call(self, method: Any, request: Any, **options: Any) -> Any:
        """Call a method of a stub; cancel the call when the caller is cancelled."""
        call = method.future(request, **options)
        call.add_done_callback(self.put)
        try:
            await self.get()
            return call.result()
        finally:
            call.cancel()


class Pulled(Iterator[T]):
    """Lets another thread iterate over an asynchronous iterable, which one task of the running loop reads."""

    def __init__(self, items: AsyncIterable[T]) -> None:
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Semaphore(0)
        self._pulled: queue.SimpleQueue[Callable[[], T]] = queue.SimpleQueue()
        self._task = asyncio.create_task(self._pull(items))

    def __next__(self) -> T:
        self._loop.call_soon_threadsafe(self._wanted.release)
        return self._pulled.get()()

    async def _pull(self, items: AsyncIterable[T]) -> None:
        iterator = aiter(items)
        try:
            while True:
                await self._wanted.acquire()
                item = await anext(iterator)
                self._pulled.put(lambda item=item: item)  # type: ignore[misc]
        except BaseException as error:  # of the iterable, or our cancellation: raised where the iterator is used
            end = StopIteration() if isinstance(error, StopAsyncIteration) else error
            self._pulled.put(functools.partial(_raise, end))
        finally:
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()

    def stop(self) -> None:
        """Stop waiting for the next item, and close the iterator."""
        self._task.cancel()

    async def stopped(self) -> None:
        """Wait until it is closed."""
        await asyncio.gather(self._task, return_exceptions=True)


def _raise(error: BaseException) -> Any:
    raise error


def blocking(described: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Make a synchronous method of a coroutine method."""

    @functools.wraps(described)
    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _run(described(self, *args, **kwargs))

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


def _run(described: Awaitable[T]) -> T:
    try:
        described.__await__().send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("it was suspended")


def _iterate(described: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    try:
        with contextlib.suppress(StopAsyncIteration):
            while True:
                yield _run(anext(described))
    finally:
        _run(described.aclose())
