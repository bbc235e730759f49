"""The asyncio client: the same calls as the synchronous one, awaited."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc.aio

from dermserve.client._answer import Answer
from dermserve.client._async_many import AsyncMany
from dermserve.client._base import Base, Call
from dermserve.client._batch import DEFAULT_IN_FLIGHT, Item
from dermserve.client._catalog import Model
from dermserve.client._prediction import Prediction
from dermserve.client._request import Photo, TtaMode, read_photo
from dermserve.v1 import classifier_pb2_grpc

T = TypeVar("T")


class AsyncClient(Base):
    """Asks a gateway from one event loop: `Client`, awaited. Use it as an async context manager, or await `close`.

    Arguments and errors are those of `Client` and its methods.
    """

    _channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel and cancel the calls in flight."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None

    async def classify(
        self,
        photo: Photo,
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        tta: TtaMode | str = TtaMode.NONE,
        deadline: float | None = None,
        request_id: str | None = None,
        retry_overloaded: bool = False,
    ) -> Prediction:
        """Classify one photo, as `Client.classify`."""
        make = self._classify_call(
            model=model, version=version, label=label, tta=tta, deadline=deadline, request_id=request_id,
            retry_overloaded=retry_overloaded,
        )  # fmt: skip
        return await self._ask(make(await asyncio.to_thread(read_photo, photo)))

    def classify_many(
        self,
        photos: Iterable[Item] | AsyncIterable[Item],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        tta: TtaMode | str = TtaMode.NONE,
        deadline: float | None = None,
        in_flight: int = DEFAULT_IN_FLIGHT,
        retry_overloaded: bool = True,
    ) -> AsyncGenerator[Answer, None]:
        """Classify many photos over one stream, as `Client.classify_many`; the iterable may be asynchronous.

        One that isn't is taken from in threads, so that it may wait without holding the loop up.
        """
        batch = self._batch(
            model=model, version=version, label=label, tta=tta, deadline=deadline, in_flight=in_flight,
            retry_overloaded=retry_overloaded,
        )  # fmt: skip
        return AsyncMany(self, self._stub, batch).answers(photos)

    async def models(self, *, deadline: float | None = None) -> tuple[Model, ...]:
        """List the models the gateway serves, as `Client.models`."""
        return await self._ask(self._models_call(deadline))

    async def model(self, name: str, *, deadline: float | None = None) -> Model:
        """Return one model, as `Client.model`."""
        return await self._ask(self._model_call(name, deadline))

    def _stub(self) -> Any:
        """Make the stub; the channel belongs to the loop that runs now, so it isn't opened before there is one."""
        if self._channel is None:
            self._channel = self._open_channel(grpc.aio)
        return classifier_pb2_grpc.ClassifierStub(self._channel)  # type: ignore[no-untyped-call]

    async def _ask(self, call: Call[T]) -> T:
        """Make a call; retry an overloaded one after the server's delay when `retry_overloaded` is set."""
        metadata = self._connection.call_metadata(call.request_id)
        while True:
            try:
                method = getattr(self._stub(), call.method)
                return call.read(await method(call.request, timeout=call.left, metadata=metadata))
            except grpc.aio.AioRpcError as error:
                failure = self._failure(error, call.request_id)
                pause = call.pause(failure)
                if pause is None:
                    raise failure from error
            await asyncio.sleep(pause)
