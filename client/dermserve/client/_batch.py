"""State of the photos of a `classify_many`, without I/O: both clients use it.

Every photo gets exactly one answer, however often the stream breaks. When a photo may have ended the stream, each photo
in flight is sent again in its own call, so that only that one fails.
"""

import collections
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from dermserve.client._answer import Answer
from dermserve.client._errors import (
    AccessDenied,
    DeadlineExceeded,
    DermserveError,
    NotFound,
    Overloaded,
    StreamBroke,
    TooLarge,
    Unavailable,
    read_status,
)
from dermserve.client._prediction import Prediction, read_prediction
from dermserve.client._request import Photo, Prepare
from dermserve.v1 import classifier_pb2

Item: TypeAlias = Photo | tuple[str, Photo]
"""A photo, or the caller's id for it and the photo."""
Request: TypeAlias = classifier_pb2.ClassifyStreamRequest
Response: TypeAlias = classifier_pb2.ClassifyStreamResponse

DEFAULT_IN_FLIGHT = 4
FIRST_ALONE = 0.25
"""Most seconds to wait for the answer to an iterator's first photo before taking the second: a generator may use that
answer to make the next photo."""
_MAX_STREAMS_WITHOUT_ANSWER = 3


class Key(NamedTuple):
    """Which photo an answer is for."""

    position: int
    id: str


@dataclass(slots=True)
class _Flight:
    """A photo that has no answer yet."""

    key: Key
    request: Request
    until: float
    """Monotonic time after which it is not retried."""
    due: float | None
    """Monotonic time at which to send it; None while it is in flight."""
    alone: bool
    """Whether it is sent in its own call instead of on the stream."""


class Batch:
    """The photos that have no answer yet, and when to send which.

    If a stream breaks after it gave answers, another one is opened and the photos in flight are sent again. If it
    breaks before any answer (gRPC has retried by then) and no photo can be the cause, the batch ends: its error is the
    answer to every remaining photo. If the reason for the break was lost, the next stream may return it.

    Args:
        prepare: makes a request of a photo's bytes.
        in_flight: photos without an answer, at most.
        deadline: seconds without any answer after which the photos in flight fail; also how long a photo is retried
            that an overloaded gateway refused.
        retry_overloaded: whether such a photo is retried.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        prepare: Prepare,
        *,
        in_flight: int,
        deadline: float,
        retry_overloaded: bool,
        clock: Callable[[], float],
    ) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        self.in_flight = in_flight
        self.deadline = deadline
        self._prepare = prepare
        self._retry = retry_overloaded
        self._clock = clock
        self._flights: dict[str, _Flight] = {}
        self._answers: collections.deque[Answer] = collections.deque()
        self._heard = clock()
        self._progress = self._alone = self._ended = False
        self._unanswered_streams = 0
        self._over: DermserveError | None = None

    @property
    def done(self) -> bool:
        """Whether every photo there is has its answer."""
        return self._ended and not self._flights and not self._answers

    @property
    def timeout(self) -> float | None:
        """Seconds until `overdue` or `due` may change; None if only an event can change them."""
        moments = [flight.due for flight in self._flights.values() if flight.due is not None]
        if self._streaming():
            moments.append(self._heard + self.deadline)
        return max(0.0, min(moments) - self._clock()) if moments else None

    @property
    def overdue(self) -> bool:
        """Whether the stream has sent no answer for `deadline` seconds."""
        return bool(self._streaming()) and self._clock() >= self._heard + self.deadline

    def take(self, key: Key, photo: bytes | DermserveError) -> None:
        """Add a photo, or its read error. Its id on the wire is its position: callers' ids may repeat."""
        error = photo if isinstance(photo, DermserveError) else self._over
        if error is not None:
            self._answers.append(Answer(*key, error=error))
            return
        assert isinstance(photo, bytes)
        now = self._clock()
        request = Request(id=str(key.position), request=self._prepare(photo))
        self._flights[request.id] = _Flight(key, request, now + self.deadline, now, self._alone)

    def end(self) -> None:
        """Note that there are no more photos."""
        self._ended = True

    def due(self) -> Iterator[tuple[Request, bool]]:
        """Yield each request to send now, and whether in its own call."""
        now = self._clock()
        for flight in list(self._flights.values()):
            if flight.due is not None and flight.due <= now:
                if not flight.alone and not self._streaming():
                    self._heard = now
                flight.due = None
                yield flight.request, flight.alone

    def answers(self) -> Iterator[Answer]:
        """Yield the answers that are ready."""
        while self._answers:
            yield self._answers.popleft()

    def received(self, message: Response) -> None:
        """Match an answer of the stream with its photo; ignore one that matches none."""
        if message.id not in self._flights:
            return
        self._heard, self._progress, self._unanswered_streams = self._clock(), True, 0
        self.settle(
            message.id,
            read_prediction(message.response) if message.HasField("response") else read_status(message.error),
        )

    def settle(self, wire_id: str, result: Prediction | DermserveError) -> None:
        """Finish a photo, or plan its retry if its error has a `retry_after`."""
        flight = self._flights[wire_id]
        if isinstance(result, DermserveError) and self._again(flight, result):
            return
        del self._flights[wire_id]
        error = result if isinstance(result, DermserveError) else None
        self._answers.append(Answer(*flight.key, prediction=None if error else result, error=error))  # type: ignore[arg-type]

    def broke(self, error: DermserveError) -> None:
        """Note that the stream broke: send the photos in flight again, send each in its own call, or fail them."""
        progress, self._progress = self._progress, False
        self._unanswered_streams += not progress
        exhausted = self._unanswered_streams >= _MAX_STREAMS_WITHOUT_ANSWER
        lost = self._streaming()
        if not exhausted and (isinstance(error, StreamBroke) or (progress and isinstance(error, Unavailable))):
            self._send(lost)
        elif isinstance(error, Overloaded) and error.retry_after is not None:
            for flight in lost:
                self.settle(flight.request.id, error)
        elif isinstance(error, TooLarge | StreamBroke) or not _unrelated_to_photos(error):
            self._alone |= exhausted or isinstance(error, TooLarge)  # a proxy's limit may be on the whole stream
            self._send(lost, alone=True)
        else:
            self._over = None if progress else error
            for flight in lost:
                self.settle(flight.request.id, error)

    def _streaming(self) -> list[_Flight]:
        return [flight for flight in self._flights.values() if flight.due is None and not flight.alone]

    def _send(self, flights: list[_Flight], *, alone: bool = False) -> None:
        for flight in flights:
            flight.due, flight.alone = self._clock(), alone

    def _again(self, flight: _Flight, error: DermserveError) -> bool:
        """Plan the retry of a refused photo if its error has a `retry_after` within the time left."""
        pause = pause_before_retry(error, left=flight.until - self._clock())
        if not self._retry or pause is None:
            return False
        flight.due = self._clock() + pause
        return True


def _unrelated_to_photos(error: DermserveError) -> bool:
    """Return whether the error can't have been caused by a photo of the stream."""
    unrelated = (AccessDenied, DeadlineExceeded, NotFound, Overloaded, Unavailable)
    return isinstance(error, unrelated) or error.status == "UNIMPLEMENTED"


def pause_before_retry(error: DermserveError, *, left: float) -> float | None:
    """Return the seconds to wait before retrying an overloaded or stopping gateway; None for no retry.

    Args:
        error: of the call that failed.
        left: seconds left of the deadline.
    """
    told = isinstance(error, Overloaded) or error.reason == "GATEWAY_STOPPING"
    return error.retry_after if told and error.retry_after is not None and error.retry_after < left else None


def identify(index: int, item: Item) -> tuple[Key, Photo]:
    """Return which photo this is, and the photo."""
    if isinstance(item, tuple):
        return Key(index, item[0]), item[1]
    return Key(index, str(index) if isinstance(item, bytes) else str(item)), item
