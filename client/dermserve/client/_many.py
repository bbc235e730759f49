"""`classify_many` of the synchronous client: drives a batch with threads that take photos and answers."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeAlias

import grpc

from dermserve.client._answer import Answer
from dermserve.client._base import Base, first_alone
from dermserve.client._batch import Batch, Item, Request, Response, identify
from dermserve.client._errors import DermserveError, InvalidPhoto
from dermserve.client._request import read_photo

_CLOSE_GRACE = 5.0
_TAKER_GRACE = 0.1
Event: TypeAlias = Callable[[], object]


class Many:
    """One `classify_many`. All that happens is an event of one queue, noted by the caller's own thread."""

    def __init__(self, client: Base, stub: Any, batch: Batch) -> None:
        self._client = client
        self._stub = stub
        self._batch = batch
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._taker = _Taker(batch, self._events.put)
        self._stream: _Stream | None = None
        self._reopened = False
        self._calls: set[Any] = set()

    def answers(self, photos: Iterable[Item]) -> Generator[Answer, None, None]:
        """Yield an answer for each photo."""
        self._taker.start(photos)
        try:
            while not self._batch.done:
                self._send()
                for answer in self._batch.answers():
                    yield answer
                    self._taker.answered()
                if not self._batch.done:
                    self._wait()
            self._taker.check()
        finally:
            self._taker.stop()
            for call in list(self._calls):
                call.cancel()
            self._close()

    def _send(self) -> None:
        for request, alone in self._batch.due():
            if alone:
                self._ask_alone(request)
            else:
                self._open().send(request)

    def _wait(self) -> None:
        """Wait for the next event, or for a photo's time to come, and note it."""
        try:
            self._events.get(timeout=self._batch.timeout)()
        except queue.Empty:
            if self._batch.overdue:
                self._broke(self._client._silence(self._batch.deadline))

    def _open(self) -> "_Stream":
        """Return the stream. One opened again waits for the gateway to come back, within the deadline."""
        if self._stream is None:
            metadata = self._client._connection.call_metadata()
            waits, self._reopened = self._reopened, True
            self._stream = _Stream(
                lambda requests: self._stub.ClassifyStream(requests, metadata=metadata, wait_for_ready=waits),
                lambda stream, said: self._events.put(lambda: self._heard(stream, said)),
            )
        return self._stream

    def _heard(self, stream: "_Stream", said: Response | grpc.RpcError | None) -> None:
        """Handle an event of a stream: an answer, its failure, or its end."""
        if stream is not self._stream:  # closed since
            return
        if isinstance(said, Response):
            self._batch.received(said)
        else:
            self._broke(self._client._cut_short() if said is None else self._client._failure(said))

    def _broke(self, error: DermserveError) -> None:
        self._close()
        self._batch.broke(error)

    def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close(finished=self._batch.done)

    def _ask_alone(self, request: Request) -> None:
        call = self._client._alone_call(request.request, self._batch.deadline)
        metadata = self._client._connection.call_metadata(call.request_id)
        future = self._stub.Classify.future(call.request, timeout=call.left, metadata=metadata)
        self._calls.add(future)

        def settle() -> None:
            self._calls.discard(future)
            error = future.exception()
            failed = error is not None and self._client._failure(error, call.request_id)
            self._batch.settle(request.id, failed or call.read(future.result()))

        future.add_done_callback(lambda _: self._events.put(settle))


class _Taker:
    """Reads photos in a thread of its own, a bounded number ahead; it may block on the next photo."""

    def __init__(self, batch: Batch, tell: Callable[[Event], None]) -> None:
        self._batch = batch
        self._tell = tell
        self._room = threading.Semaphore(batch.in_flight)
        self._answered = threading.Event()
        self._stopped = False
        self._thread: threading.Thread
        self._failure: BaseException | None = None

    def start(self, photos: Iterable[Item]) -> None:
        """Start taking."""
        self._thread = threading.Thread(target=self._run, args=(photos,), name="dermserve-photos", daemon=True)
        self._thread.start()

    def answered(self) -> None:
        """Allow one more photo to be read."""
        self._answered.set()
        self._room.release()

    def check(self) -> None:
        """Raise what the caller's iterable raised."""
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Take no more; a thread that waits for a photo is left behind."""
        self._stopped = True
        self.answered()
        self._thread.join(_TAKER_GRACE)

    def _run(self, photos: Iterable[Item]) -> None:
        try:
            for position, item in self._numbered(photos):
                key, photo = identify(position, item)
                taken = _read(photo)
                self._tell(lambda key=key, taken=taken: self._batch.take(key, taken))  # type: ignore[misc]
        except BaseException as error:  # the caller's own: raised where the caller is
            self._failure = error
        self._tell(self._batch.end)

    def _numbered(self, photos: Iterable[Item]) -> Iterator[tuple[int, Item]]:
        items, alone = enumerate(photos), first_alone(photos)
        while self._room.acquire() and not self._stopped:
            item = next(items, None)
            if item is None:
                return
            yield item
            self._answered.wait(alone)


class _Stream:
    """An open ClassifyStream: gRPC pulls photos from a queue in a thread of its own, another takes the answers."""

    def __init__(
        self,
        open_call: Callable[[Iterator[Request]], Any],
        tell: Callable[["_Stream", Response | grpc.RpcError | None], None],
    ) -> None:
        self._tell = tell
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._call = open_call(iter(self._requests.get, None))
        self._reader = threading.Thread(target=self._read, name="dermserve-answers", daemon=True)
        self._reader.start()

    def send(self, request: Request) -> None:
        """Send a photo when the transport accepts more."""
        self._requests.put(request)

    def close(self, *, finished: bool) -> None:
        """Close the stream: by its end when all answers are in, else by cancelling it."""
        self._requests.put(None)
        if finished:
            self._reader.join(_CLOSE_GRACE)
        self._call.cancel()
        self._reader.join()

    def _read(self) -> None:
        end: grpc.RpcError | None = None
        try:
            for response in self._call:
                self._tell(self, response)
        except grpc.RpcError as error:
            end = error
        self._tell(self, end)


def _read(photo: Any) -> bytes | DermserveError:
    try:
        return read_photo(photo)
    except InvalidPhoto as error:
        return error
