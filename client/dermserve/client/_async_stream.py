"""One ClassifyStream of the asyncio client: photos go in without waiting, answers come out with a time limit."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, Protocol, Self, TypeAlias

import grpc

from dermserve.client._errors import DeadlineExceeded, StreamBroke, Unavailable, read_call
from dermserve.v1 import classifier_pb2

# What grpc.aio says, in the place of the call's true status, where a stream breaks while a message is being written.
_LOST_STATUS = "Internal error from Core"
_CLOSE_GRACE = 5.0
Request: TypeAlias = classifier_pb2.ClassifyStreamRequest
Response: TypeAlias = classifier_pb2.ClassifyStreamResponse


class AsyncStreamCall(Protocol):
    """What is used of grpc.aio's call object."""

    def __aiter__(self) -> AsyncIterator[Response]:
        """Iterate over the answers; AioRpcError when the stream breaks."""

    def cancel(self) -> Any:
        """End the call."""


Method: TypeAlias = Callable[[AsyncIterable[Request]], AsyncStreamCall]


class AsyncStream:
    """One ClassifyStream: photos go in without waiting, answers come out with a time limit."""

    def __init__(self, method: Method, *, target: str) -> None:
        self._target = target
        self._requests = _Outgoing()
        self._call = method(self._requests)
        # Not call.read(): once the stream has broken, that raises before the answers that had come in.
        self._answers: AsyncIterator[Response] = aiter(self._call)

    def send(self, request: Request) -> None:
        """Send a photo when the transport has room for it."""
        self._requests.put(request)

    async def receive(self, deadline: float) -> Response:
        """Wait up to `deadline` seconds for the next answer.

        Raises:
            DermserveError: the stream broke, ended, or said nothing in time. Close it.
        """
        try:
            async with asyncio.timeout(deadline):
                return await anext(self._answers)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no answer from {self._target} within {deadline:g} s: allow more time, or ask for fewer views"
            ) from None
        except grpc.aio.AioRpcError as error:
            if error.details() == _LOST_STATUS:
                raise StreamBroke(f"the stream to {self._target} broke while a photo was sent") from error
            raise read_call(error, target=self._target) from error
        except StopAsyncIteration:
            raise Unavailable(f"{self._target} ended the stream before answering every photo") from None

    async def close(self, *, finished: bool) -> None:
        """Close the stream: by its end when all answers are in, else by cancelling it."""
        self._requests.put(None)
        if finished:
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
                async with asyncio.timeout(_CLOSE_GRACE):
                    async for _ in self._answers:
                        pass
        self._call.cancel()


class _Outgoing:
    """What gRPC pulls requests from; None ends it. No generator: the loop's end could find one still running."""

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
