"""What becomes of each photo of a `classify_many`, without any input or output: both clients drive this.

Every photo gets exactly one answer, however often the stream below breaks. A photo that ends a stream is found by
asking for each one in flight in a call of its own, so that its failure is no other's.
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
"""Seconds for which the first photo of an iterator is alone, at most: who makes photos one by one may want its answer
before the next is asked for."""
_MOST_FRUITLESS = 3


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
    """When it is not sent again any more."""
    due: float | None
    """When it is to be sent; None while it is on its way."""
    alone: bool
    """Whether by a call of its own, rather than on the stream."""


class Batch:
    """The photos that have no answer yet, and what to send when.

    A stream that breaks after it answered something is worth another: what was in flight is sent again. One that
    breaks before (gRPC has tried again by then) ends the batch, if it is not one photo's fault: its error is every
    remaining photo's answer. Where the reason for the break was lost, the next stream may return it.

    Args:
        prepare: makes a request of a photo's bytes.
        in_flight: photos without an answer, at most.
        deadline: seconds without any answer after which the photos in flight are given up; also for how long a photo
            that an overloaded gateway refused is sent again.
        retry_overloaded: whether it is sent again at all.
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
        self._fruitless = 0
        self._over: DermserveError | None = None

    @property
    def done(self) -> bool:
        """Whether every photo there is has its answer."""
        return self._ended and not self._flights and not self._answers

    @property
    def timeout(self) -> float | None:
        """Seconds until `overdue` or `due` has something to say; None when only an event can change that."""
        moments = [flight.due for flight in self._flights.values() if flight.due is not None]
        if self._streaming():
            moments.append(self._heard + self.deadline)
        return max(0.0, min(moments) - self._clock()) if moments else None

    @property
    def overdue(self) -> bool:
        """Whether the stream owes an answer and has said nothing for too long."""
        return bool(self._streaming()) and self._clock() >= self._heard + self.deadline

    def take(self, key: Key, photo: bytes | DermserveError) -> None:
        """Take a photo in, or why it can't be read. Its id on the wire is its position: callers' ids may repeat."""
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
        """Give each photo to send now, and whether by a call of its own."""
        now = self._clock()
        for flight in list(self._flights.values()):
            if flight.due is not None and flight.due <= now:
                if not flight.alone and not self._streaming():
                    self._heard = now
                flight.due = None
                yield flight.request, flight.alone

    def answers(self) -> Iterator[Answer]:
        """Give the answers that have come."""
        while self._answers:
            yield self._answers.popleft()

    def received(self, message: Response) -> None:
        """Match an answer of the stream with its photo; nothing when it matches none."""
        if message.id not in self._flights:
            return
        self._heard, self._progress, self._fruitless = self._clock(), True, 0
        self.settle(
            message.id,
            read_prediction(message.response) if message.HasField("response") else read_status(message.error),
        )

    def settle(self, wire_id: str, result: Prediction | DermserveError) -> None:
        """Answer for a photo, or send it again later where its error says when."""
        flight = self._flights[wire_id]
        if isinstance(result, DermserveError) and self._again(flight, result):
            return
        del self._flights[wire_id]
        error = result if isinstance(result, DermserveError) else None
        self._answers.append(Answer(*flight.key, prediction=None if error else result, error=error))  # type: ignore[arg-type]

    def broke(self, error: DermserveError) -> None:
        """Note that the stream broke: send again, ask one by one, or give up what was on it."""
        progress, self._progress = self._progress, False
        self._fruitless += not progress
        hopeless = self._fruitless >= _MOST_FRUITLESS
        lost = self._streaming()
        if not hopeless and (isinstance(error, StreamBroke) or (progress and isinstance(error, Unavailable))):
            self._send(lost)
        elif isinstance(error, Overloaded) and error.retry_after is not None:
            for flight in lost:
                self.settle(flight.request.id, error)
        elif isinstance(error, TooLarge | StreamBroke) or not _nobodys_fault(error):
            self._alone |= hopeless or isinstance(error, TooLarge)  # a proxy's limit may be on the whole stream
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
        """Plan to send a refused photo again, if its error says when and there is time."""
        pause = pause_before_retry(error, left=flight.until - self._clock())
        if not self._retry or pause is None:
            return False
        flight.due = self._clock() + pause
        return True


def _nobodys_fault(error: DermserveError) -> bool:
    """Tell whether no photo of a stream can have caused an error."""
    unrelated = (AccessDenied, DeadlineExceeded, NotFound, Overloaded, Unavailable)
    return isinstance(error, unrelated) or error.status == "UNIMPLEMENTED"


def pause_before_retry(error: DermserveError, *, left: float) -> float | None:
    """Return the seconds after which an overloaded or stopping gateway wants to be asked again; None for never.

    Args:
        error: what it said.
        left: seconds in which an answer is of use.
    """
    told = isinstance(error, Overloaded) or error.reason == "GATEWAY_STOPPING"
    return error.retry_after if told and error.retry_after is not None and error.retry_after < left else None


def identify(index: int, item: Item) -> tuple[Key, Photo]:
    """Return which photo this is, and the photo."""
    if isinstance(item, tuple):
        return Key(index, item[0]), item[1]
    return Key(index, str(index) if isinstance(item, bytes) else str(item)), item
