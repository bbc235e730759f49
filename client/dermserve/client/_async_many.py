"""`classify_many` of the asyncio client: tasks read photos and receive answers, a `Batch` holds the state."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sized
from typing import Any, Self, TypeAlias

import grpc.aio

from dermserve.client._answer import Answer
from dermserve.client._base import Base, first_alone
from dermserve.client._batch import Batch, Item, Request, identify
from dermserve.client._errors import DermserveError, InvalidPhoto, StreamBroke
from dermserve.client._request import read_photo

# grpc.aio gives this instead of the call's status if a stream breaks while a message is being written.
_LOST_STATUS = "Internal error from Core"
_CLOSE_GRACE = 5.0
_END = object()
Photos: TypeAlias = Iterable[Item] | AsyncIterable[Item]


class AsyncMany:
    """One `classify_many`. Tasks put events into one queue; only the generator handles them."""

    def __init__(self, client: Base, stub: Callable[[], Any], batch: Batch) -> None:
        self._client = client
        self._stub = stub
        self._batch = batch
        self._events: asyncio.Queue[Callable[[], DermserveError | None]] = asyncio.Queue()
        self._room = asyncio.Semaphore(batch.in_flight)
        self._answered = asyncio.Event()
        self._stream: _Stream | None = None
        self._reopened = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def answers(self, photos: Photos) -> AsyncGenerator[Answer, None]:
        """Yield an answer for each photo."""
        self._start(self._take(photos))
        try:
            while not self._batch.done:
                self._send()
                for answer in self._batch.answers():
                    yield answer
                    self._answered.set()
                    self._room.release()
                if not self._batch.done:
                    await self._wait()
            if self._failure is not None:
                raise self._failure
        finally:
            try:
                await self._close()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, photos: Photos) -> None:
        """Read photos, a bounded number ahead."""
        try:
            async with contextlib.aclosing(self._numbered(photos)) as items:
                async for position, item in items:
                    key, photo = identify(position, item)
                    taken = await asyncio.to_thread(_read, photo)
                    self._events.put_nowait(lambda key=key, taken=taken: self._batch.take(key, taken))  # type: ignore[misc]
        except Exception as error:  # the caller's own: raised where the caller is
            self._failure = error
        self._events.put_nowait(self._batch.end)

    async def _numbered(self, photos: Photos) -> AsyncGenerator[tuple[int, Item], None]:
        position, alone = 0, first_alone(photos)
        async with contextlib.aclosing(_asynchronous(photos)) as items:
            while await self._room.acquire():
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                yield position, item
                position += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._answered.wait(), alone)

    def _send(self) -> None:
        for request, alone in self._batch.due():
            if alone:
                self._start(self._ask_alone(request))
            else:
                self._open().send(request)

    async def _wait(self) -> None:
        """Wait for the next event or the next moment at which a photo is due, and handle it."""
        error: DermserveError | None = None
        try:
            async with asyncio.timeout(self._batch.timeout):
                event = await self._events.get()
        except TimeoutError:
            if self._batch.overdue:
                error = self._client._silence(self._batch.deadline)
        else:
            error = event()
        if error is not None:
            await self._close()
            self._batch.broke(error)

    def _open(self) -> "_Stream":
        """Return the stream. One opened again waits for the gateway to come back, within the deadline."""
        if self._stream is None:
            metadata = self._client._connection.call_metadata()
            requests = _Outgoing()
            call = self._stub().ClassifyStream(requests, metadata=metadata, wait_for_ready=self._reopened)
            self._reopened = True
            self._stream = _Stream(requests, call)
            self._start(self._listen(self._stream))
        return self._stream

    async def _listen(self, stream: "_Stream") -> None:
        """Put an event into the queue for each answer of a stream, and for its end."""
        end: DermserveError = self._client._cut_short()
        try:
            # Not call.read(): once the stream has broken, that raises before the answers that had come in.
            async for response in stream.call:
                self._events.put_nowait(lambda response=response: self._batch.received(response))  # type: ignore[misc]
        except grpc.aio.AioRpcError as error:
            lost = error.details() == _LOST_STATUS
            end = StreamBroke("the stream broke while a photo was sent") if lost else self._client._failure(error)
        stream.over.set()
        self._events.put_nowait(lambda: end if stream is self._stream else None)

    async def _close(self) -> None:
        """Close the stream: by its end when all answers are in, else by cancelling it."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        stream.send(None)
        if self._batch.done:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stream.over.wait(), _CLOSE_GRACE)
        stream.call.cancel()

    async def _ask_alone(self, request: Request) -> None:
        call = self._client._alone_call(request.request, self._batch.deadline)
        metadata = self._client._connection.call_metadata(call.request_id)
        try:
            result: Any = call.read(await self._stub().Classify(call.request, timeout=call.left, metadata=metadata))
        except grpc.aio.AioRpcError as error:
            result = self._client._failure(error, call.request_id)
        self._events.put_nowait(lambda: self._batch.settle(request.id, result))


class _Stream:
    """An open ClassifyStream."""

    def __init__(self, requests: "_Outgoing", call: Any) -> None:
        self.call = call
        self.send = requests.put
        self.over = asyncio.Event()


class _Outgoing:
    """Requests that gRPC pulls; None ends it. No generator: it could still be running when the loop closes."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Request | None] = asyncio.Queue()

    def put(self, request: Request | None) -> None:
        self._queue.put_nowait(request)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Request:
        request = await self._queue.get()
        if request is None:
            raise StopAsyncIteration
        return request


async def _asynchronous(photos: Photos) -> AsyncGenerator[Item, None]:
    """Take from an iterable of either kind; from one that may wait and isn't asynchronous, in threads."""
    if isinstance(photos, AsyncIterable):
        async for item in photos:
            yield item
    elif isinstance(photos, Sized):
        for item in photos:
            yield item
    else:
        pull: Callable[..., Any] = iter(photos).__next__
        while (item := await asyncio.to_thread(_or_end, pull)) is not _END:
            yield item


def _or_end(pull: Callable[[], Any]) -> Any:
    try:
        return pull()
    except StopIteration:  # which no future may raise
        return _END


def _read(photo: Any) -> bytes | DermserveError:
    try:
        return read_photo(photo)
    except InvalidPhoto as error:
        return error
