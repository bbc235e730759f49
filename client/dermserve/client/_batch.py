"""The state of the photos of one `classify_many`, without I/O.

Every photo gets exactly one answer, however often the stream breaks. If a photo may have ended the stream, each photo
in flight is sent again in its own call, so that only that photo fails.
"""

import collections
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from dermserve.client._errors import (
    AccessDenied,
    DeadlineExceeded,
    DermserveError,
    NotFound,
    Overloaded,
    TooLarge,
    Unavailable,
    read_status,
)
from dermserve.client._request import Prepare
from dermserve.client._values import Prediction, read_prediction
from dermserve.v1 import classifier_pb2

Request: TypeAlias = classifier_pb2.ClassifyStreamRequest
Response: TypeAlias = classifier_pb2.ClassifyStreamResponse

DEFAULT_IN_FLIGHT = 4
_UNRELATED = (AccessDenied, DeadlineExceeded, NotFound, Overloaded, Unavailable)
"""Errors of a stream that no photo can have caused."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of one photo of `classify_many`: exactly one of `prediction` and `error` is set."""

    index: int
    """Position of the photo in the input, from 0."""
    id: str
    """The caller's id; for a path given without one, the path; for bytes, their index."""
    prediction: Prediction | None = None
    """The prediction; None if the photo failed."""
    error: DermserveError | None = None
    """Why the photo failed; None if it was classified."""

    def result(self) -> Prediction:
        """Return the prediction, or raise the error."""
        if self.prediction is None:
            raise self.error or AssertionError("an answer holds a prediction or an error")
        return self.prediction


class Key(NamedTuple):
    """Identifies the photo of an answer."""

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
    breaks before any answer (gRPC has retried by then) and no photo can be the cause, the batch ends: every remaining
    photo gets this error as its answer.

    After `deadline` seconds without any answer, the photos in flight fail. With `retry_overloaded`, a photo that an
    overloaded gateway refuses is sent again for up to `deadline` seconds.
    """

    def __init__(self, prepare: Prepare, *, in_flight: int, deadline: float, retry_overloaded: bool) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        self.in_flight = in_flight
        self.deadline = deadline
        self._prepare = prepare
        self._retry = retry_overloaded
        self._flights: dict[str, _Flight] = {}
        self._answers: collections.deque[Answer] = collections.deque()
        self._heard = time.monotonic()
        self._progress = self._alone = self._ended = False
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
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    @property
    def overdue(self) -> bool:
        """Whether the stream has sent no answer for `deadline` seconds."""
        return bool(self._streaming()) and time.monotonic() >= self._heard + self.deadline

    def take(self, key: Key, photo: bytes | DermserveError) -> None:
        """Add a photo, or its read error. Its id on the wire is its position: callers' ids may repeat."""
        error = photo if isinstance(photo, DermserveError) else self._over
        if error is not None:
            self._answers.append(Answer(*key, error=error))
            return
        assert isinstance(photo, bytes)
        now = time.monotonic()
        request = Request(id=str(key.position), request=self._prepare(photo))
        self._flights[request.id] = _Flight(key, request, now + self.deadline, now, self._alone)

    def end(self) -> None:
        """Note that there are no more photos."""
        self._ended = True

    def due(self) -> Iterator[tuple[Request, bool]]:
        """Yield each request to send now, and whether in its own call."""
        now = time.monotonic()
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
        self._heard, self._progress = time.monotonic(), True
        answered = message.HasField("response")
        self.settle(message.id, read_prediction(message.response) if answered else read_status(message.error))

    def settle(self, wire_id: str, result: Prediction | DermserveError) -> None:
        """Finish a photo, or plan its retry if its error has a `retry_after`."""
        flight = self._flights[wire_id]
        if not isinstance(result, DermserveError):
            answer = Answer(*flight.key, prediction=result)
        elif self._again(flight, result):
            return
        else:
            answer = Answer(*flight.key, error=result)
        del self._flights[wire_id]
        self._answers.append(answer)

    def broke(self, error: DermserveError) -> None:
        """Note that the stream broke: send the photos in flight again, send each in its own call, or fail them."""
        progress, self._progress = self._progress, False
        lost = self._streaming()
        if progress and isinstance(error, Unavailable):
            self._send(lost)
        elif isinstance(error, Overloaded) and error.retry_after is not None:
            for flight in lost:
                self.settle(flight.request.id, error)
        elif not isinstance(error, _UNRELATED) and error.status != "UNIMPLEMENTED":
            # A proxy's limit may be on the whole stream; and without an answer, many more streams may break.
            self._alone |= isinstance(error, TooLarge) or not progress
            self._send(lost, alone=True)
        else:
            self._over = None if progress else error
            for flight in lost:
                self.settle(flight.request.id, error)

    def _streaming(self) -> list[_Flight]:
        return [flight for flight in self._flights.values() if flight.due is None and not flight.alone]

    def _send(self, flights: list[_Flight], *, alone: bool = False) -> None:
        for flight in flights:
            flight.due, flight.alone = time.monotonic(), alone

    def _again(self, flight: _Flight, error: DermserveError) -> bool:
        """Plan the retry of a refused photo if its error has a `retry_after` within the time left."""
        pause = pause_before_retry(error, left=flight.until - time.monotonic())
        if not self._retry or pause is None:
            return False
        flight.due = time.monotonic() + pause
        return True


def pause_before_retry(error: DermserveError, *, left: float) -> float | None:
    """Return the seconds to wait before retrying, if a gateway said so and they are fewer than `left`; else None."""
    told = isinstance(error, Overloaded) or error.reason == "GATEWAY_STOPPING"
    return error.retry_after if told and error.retry_after is not None and error.retry_after < left else None
