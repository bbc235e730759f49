"""Which photos of a `classify_many` are in flight and what becomes of them, without any input or output.

Both clients drive this: every photo gets exactly one answer, however often the stream below it breaks.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from dermserve.client._answer import Answer
from dermserve.client._errors import DermserveError, StreamBroke, Unavailable, read_status
from dermserve.client._prediction import read_prediction
from dermserve.client._request import Photo, Prepare
from dermserve.v1 import classifier_pb2

Item: TypeAlias = Photo | tuple[str, Photo]
"""A photo, or the caller's id for it and the photo."""


class Key(NamedTuple):
    """Which photo an answer is for."""

    position: int
    id: str


DEFAULT_IN_FLIGHT = 4
_MOST_FRUITLESS = 3


class Batch:
    """The photos in flight on one stream after another.

    A stream that breaks after it answered something is worth another: what was in flight is sent again. One that
    breaks before (gRPC has tried again by then) ends the batch: its error is every remaining photo's answer. Where the
    reason for the break got lost, the next stream may tell it.
    """

    def __init__(self, prepare: Prepare, *, in_flight: int) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        self._prepare = prepare
        self._room = in_flight
        self._flying: dict[str, tuple[Key, classifier_pb2.ClassifyStreamRequest]] = {}
        self._progress = False
        self._fruitless = 0
        self.over: DermserveError | None = None
        """Why no photo is sent any more; None while they are."""

    @property
    def has_room(self) -> bool:
        """Whether another photo may be sent."""
        return len(self._flying) < self._room

    @property
    def requests(self) -> list[classifier_pb2.ClassifyStreamRequest]:
        """What is in flight, oldest first."""
        return [request for _, request in self._flying.values()]

    def add(self, key: Key, image: bytes) -> classifier_pb2.ClassifyStreamRequest:
        """Take a photo in; return what to send. Its id on the wire is its position: callers' ids may repeat."""
        request = classifier_pb2.ClassifyStreamRequest(id=str(key.position), request=self._prepare(image))
        self._flying[request.id] = key, request
        return request

    def settle(self, message: classifier_pb2.ClassifyStreamResponse) -> Iterable[Answer]:
        """Match an answer with its photo; nothing when it matches none."""
        if message.id not in self._flying:
            return
        key, _ = self._flying.pop(message.id)
        self._progress = True
        if message.HasField("response"):
            yield Answer(*key, prediction=read_prediction(message.response))
        else:
            yield Answer(*key, error=read_status(message.error))

    def broken(self, error: DermserveError) -> Iterable[Answer]:
        """Note that the stream broke: answer for what can't be sent again."""
        progress, self._progress = self._progress, False
        self._fruitless = 0 if progress else self._fruitless + 1
        lost = isinstance(error, StreamBroke) and self._fruitless < _MOST_FRUITLESS
        if lost or (progress and isinstance(error, Unavailable)):
            return
        if not progress:
            self.over = error
        given_up, self._flying = self._flying, {}
        yield from (Answer(*key, error=error) for key, _ in given_up.values())


def identify(index: int, item: Item) -> tuple[Key, Photo]:
    """Return which photo this is, and the photo."""
    if isinstance(item, tuple):
        return Key(index, item[0]), item[1]
    return Key(index, str(index) if isinstance(item, bytes) else str(item)), item
