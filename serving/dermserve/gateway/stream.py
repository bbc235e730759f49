"""ClassifyStream: many photos over one stream, a bounded number of them at once, answered as they finish."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable

from dermserve.gateway.errors import GatewayError, InvalidItemIdError, MalformedRequestError
from dermserve.v1 import classifier_pb2

_MAX_ID_BYTES = 128

Respond = Callable[
    [classifier_pb2.ClassifyStreamRequest, GatewayError | None], Awaitable[classifier_pb2.ClassifyStreamResponse]
]
"""Answers one photo, or words the error that was found with its id; raises nothing."""
Write = Callable[[classifier_pb2.ClassifyStreamResponse], Awaitable[None]]


async def answer_stream(
    requests: AsyncIterable[classifier_pb2.ClassifyStreamRequest | None],
    *,
    respond: Respond,
    write: Write,
    at_once: int,
) -> None:
    """Answer every photo of a stream. Reads no further while `at_once` are in flight, so gRPC holds the sender back.

    Raises:
        MalformedRequestError: something came that is no photo of a stream; those before it are answered.
    """
    stream, malformed = _Stream(respond, write, at_once), False
    async with asyncio.TaskGroup() as tasks:
        async for item in requests:
            if malformed := item is None:
                break
            await stream.slots.acquire()
            fault = stream.admit(item.id)
            tasks.create_task(stream.answer(item, fault))
    if malformed:
        raise MalformedRequestError


class _Stream:
    """The photos of one stream that are in flight."""

    def __init__(self, respond: Respond, write: Write, at_once: int) -> None:
        self.slots = asyncio.Semaphore(at_once)
        self._respond = respond
        self._write = write
        self._writing = asyncio.Lock()  # gRPC takes one message of a stream at a time
        self._ids: set[str] = set()

    def admit(self, item_id: str) -> GatewayError | None:
        """Take a photo's id into the set in flight, or say why it can't be."""
        if not 0 < len(item_id.encode()) <= _MAX_ID_BYTES:
            return InvalidItemIdError(
                f"a photo's id needs 1 to {_MAX_ID_BYTES} bytes, this has {len(item_id.encode())}"
            )
        if item_id in self._ids:
            return InvalidItemIdError("another photo with this id is in flight: give each its own")
        self._ids.add(item_id)
        return None

    async def answer(self, item: classifier_pb2.ClassifyStreamRequest, fault: GatewayError | None) -> None:
        """Answer one photo and make room for the next."""
        try:
            response = await self._respond(item, fault)
            async with self._writing:
                await self._write(response)
        finally:
            if fault is None:
                self._ids.discard(item.id)
            self.slots.release()
