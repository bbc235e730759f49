"""One ClassifyStream of the synchronous client: photos go in without waiting, answers come out with a time limit."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeAlias

import grpc

from dermserve.client._errors import DeadlineExceeded, DermserveError, Unavailable, read_call
from dermserve.v1 import classifier_pb2

_CLOSE_GRACE = 5.0
Request: TypeAlias = classifier_pb2.ClassifyStreamRequest
Response: TypeAlias = classifier_pb2.ClassifyStreamResponse


class StreamCall(Protocol):
    """What is used of gRPC's call object."""

    def __iter__(self) -> Iterator[Response]:
        """Iterate over the answers; grpc.RpcError when the stream breaks."""

    def cancel(self) -> Any:
        """End the call."""


Method: TypeAlias = Callable[[Iterator[Request]], StreamCall]


class Stream:
    """An open stream. gRPC pulls photos from a queue in a thread of its own; another puts answers into a queue."""

    def __init__(self, method: Method, *, target: str) -> None:
        self._target = target
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Response | DermserveError] = queue.SimpleQueue()
        self._call = method(iter(self._requests.get, None))
        self._reader = threading.Thread(target=self._read, name="dermserve-answers", daemon=True)
        self._reader.start()

    def send(self, request: Request) -> None:
        """Send a photo when the transport has room for it."""
        self._requests.put(request)

    def receive(self, deadline: float) -> Response:
        """Wait up to `deadline` seconds for the next answer.

        Raises:
            DermserveError: the stream broke, ended, or said nothing in time. Close it.
        """
        try:
            answer = self._answers.get(timeout=deadline)
        except queue.Empty:
            raise DeadlineExceeded(
                f"no answer from {self._target} within {deadline:g} s: allow more time, or ask for fewer views"
            ) from None
        if isinstance(answer, DermserveError):
            raise answer
        return answer

    def close(self, *, finished: bool) -> None:
        """Close the stream: by its end when all answers are in, else by cancelling it."""
        self._requests.put(None)
        if finished:
            self._reader.join(_CLOSE_GRACE)
        self._call.cancel()
        self._reader.join()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._answers.put(response)
            end: DermserveError = Unavailable(f"{self._target} ended the stream before answering every photo")
        except grpc.RpcError as error:
            end = read_call(error, target=self._target)  # type: ignore[arg-type]  # it is a grpc.Call as well
        self._answers.put(end)
