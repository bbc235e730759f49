"""`classify_many` of both clients: threads take photos and answers, a `Batch` decides what to send and when."""

import contextvars
import queue
import threading
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sized
from typing import Any, NamedTuple

import grpc

from dermserve.client._batch import Answer, Batch, Key, Request
from dermserve.client._connection import Connection
from dermserve.client._errors import DermserveError, InvalidPhoto, Unavailable
from dermserve.client._request import Item, Photo, make_request_id, read_photo
from dermserve.client._values import read_prediction
from dermserve.client._waiting import Blocking, OnLoop, Pulled

_FIRST_ALONE = 0.25
"""Most seconds to wait for the answer to an iterator's first photo before taking the second: a generator may need that
answer for the next photo."""
_CLOSE_GRACE = 5.0
_TAKER_GRACE = 0.1


class Many:
    """One `classify_many`. Threads put events into a queue; the iteration over the answers handles them."""

    def __init__(self, connection: Connection, stub: Any, batch: Batch, waiter: type[Blocking | OnLoop]) -> None:
        self._connection = connection
        self._stub = stub
        self._batch = batch
        self._waiter = waiter
        self._events: Blocking | OnLoop
        self._room = threading.Semaphore(batch.in_flight)
        self._answered = threading.Event()
        self._stopped = False
        self._failure: BaseException | None = None
        self._stream: _Stream | None = None
        self._reopened = False
        self._calls: set[Any] = set()

    async def answers(self, photos: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Answer, None]:
        """Yield an answer for each photo."""
        self._events = self._waiter()
        source = Pulled(photos) if isinstance(photos, AsyncIterable) else photos
        context = contextvars.copy_context()  # the caller's, in which its iterator runs
        taker = threading.Thread(target=context.run, args=(self._take, source), name="dermserve-photos", daemon=True)
        taker.start()
        try:
            while not self._batch.done:
                self._send()
                for answer in self._batch.answers():
                    yield answer
                    self._make_room()
                if not self._batch.done:
                    await self._wait()
            if self._failure is not None:
                raise self._failure
        finally:
            if isinstance(source, Pulled):
                source.stop()  # before the first await, so that a second cancellation leaves nothing open
            await self._events.run(self._close, taker)
            if isinstance(source, Pulled):
                await source.stopped()

    def _make_room(self) -> None:
        self._answered.set()
        self._room.release()

    def _take(self, photos: Iterable[Item]) -> None:
        """Read photos in a thread of its own, a bounded number ahead; it may block on the next photo."""
        alone = 0.0 if isinstance(photos, Sized) else _FIRST_ALONE
        try:
            items = enumerate(photos)
            while self._room.acquire() and not self._stopped and (numbered := next(items, None)):
                position, item = numbered
                name, photo = item if isinstance(item, tuple) else (_name(position, item), item)
                key, taken = Key(position, name), _read(photo)
                self._events.put(lambda key=key, taken=taken: self._batch.take(key, taken))
                self._answered.wait(alone)
        except BaseException as error:  # the caller's own: raised where the caller is
            self._failure = error
        self._events.put(self._batch.end)

    def _send(self) -> None:
        for request, alone in self._batch.due():
            if alone:
                self._ask_alone(request)
            else:
                self._open().requests.put(request)

    async def _wait(self) -> None:
        """Wait for the next event or the next photo that is due, and handle it."""
        event = await self._events.get(self._batch.timeout)
        if event is not None:
            event()
        elif self._batch.overdue:
            self._broke(self._connection.silence())

    def _open(self) -> "_Stream":
        """Return the stream. One opened again waits for the gateway to come back, within the deadline."""
        if self._stream is None:
            requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
            metadata, photos = self._connection.call_metadata(), iter(requests.get, None)
            call = self._stub.ClassifyStream(photos, metadata=metadata, wait_for_ready=self._reopened)
            self._reopened = True
            reader = threading.Thread(target=self._listen, args=(call,), name="dermserve-answers", daemon=True)
            reader.start()
            self._stream = _Stream(requests, call, reader)
        return self._stream

    def _listen(self, call: Any) -> None:
        """Take the answers of a stream, in a thread of its own."""
        end: grpc.RpcError | None = None
        try:
            for response in call:
                self._events.put(lambda response=response: self._heard(call, response))
        except grpc.RpcError as error:
            end = error
        self._events.put(lambda: self._heard(call, end))

    def _heard(self, call: Any, said: Any) -> None:
        """Handle an answer of a stream, or the error that ended it; None for an end without one."""
        if self._stream is None or call is not self._stream.call:  # closed since
            return
        if said is None:
            self._broke(Unavailable(f"{self._connection.target} ended the stream before answering every photo"))
        elif isinstance(said, grpc.RpcError):
            self._broke(self._connection.failure(said))
        else:
            self._batch.received(said)

    def _broke(self, error: DermserveError) -> None:
        if self._stream is not None:
            self._stream.requests.put(None)
            self._stream.call.cancel()
            self._stream = None
        self._batch.broke(error)

    def _ask_alone(self, request: Request) -> None:
        request_id = make_request_id(None)
        metadata = self._connection.call_metadata(request_id)
        call = self._stub.Classify.future(request.request, timeout=self._batch.deadline, metadata=metadata)
        self._calls.add(call)

        def settle() -> None:
            self._calls.discard(call)
            error = call.exception()
            failed = error is not None and self._connection.failure(error, request_id)
            self._batch.settle(request.id, failed or read_prediction(call.result()))

        call.add_done_callback(lambda _: self._events.put(settle))

    def _close(self, taker: threading.Thread) -> None:
        """End everything; a thread that waits for a photo is left behind."""
        self._stopped = True
        self._make_room()
        for call in self._calls:
            call.cancel()
        if self._stream is not None:
            self._stream.requests.put(None)
            self._stream.reader.join(_CLOSE_GRACE if self._batch.done else 0)
            self._stream.call.cancel()
            self._stream.reader.join()
        taker.join(_TAKER_GRACE)


class _Stream(NamedTuple):
    """An open ClassifyStream: gRPC pulls photos from a queue in a thread of its own, another takes the answers."""

    requests: "queue.SimpleQueue[Request | None]"
    call: Any
    reader: threading.Thread


def _name(position: int, photo: Photo) -> str:
    return str(position) if isinstance(photo, bytes) else str(photo)


def _read(photo: Photo) -> bytes | DermserveError:
    try:
        return read_photo(photo)
    except InvalidPhoto as error:
        return error
