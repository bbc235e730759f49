"""The asyncio client: the same calls as the synchronous one, awaited."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self

import grpc

from dermserve.client._answer import Answer
from dermserve.client._async_stream import AsyncStream, AsyncStreamCall
from dermserve.client._batch import DEFAULT_IN_FLIGHT, Batch, Item, identify
from dermserve.client._catalog import Model, read_model
from dermserve.client._connection import DEFAULT_DEADLINE, DEFAULT_TARGET, TLS, Connection, Retry, check_deadline
from dermserve.client._errors import DermserveError, UnreadablePhoto, read_call
from dermserve.client._prediction import Prediction, read_prediction
from dermserve.client._request import Photo, TtaMode, make_request_id, preparer, read_photo
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc


class AsyncClient:
    """Asks a gateway from one event loop. Use it as an async context manager, or await `close`.

    Args:
        target: HOST:PORT, or any gRPC target (dns:///name:port balances over all addresses of the name).
        tls: transport security; plaintext when None.
        deadline: seconds a call may take unless it says otherwise.
        retry: when gRPC sends a call again by itself.
        metadata: sent with every call, for example a token that an edge proxy asks for.

    Raises:
        ValueError: an option can't be.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        tls: TLS | None = None,
        deadline: float = DEFAULT_DEADLINE,
        retry: Retry = Retry(),  # noqa: B008 - frozen
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._connection = Connection(target=target, tls=tls, deadline=deadline, retry=retry, metadata=metadata)
        self._channel: grpc.aio.Channel | None = None

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
    ) -> Prediction:
        """Classify one photo.

        Args:
            photo: bytes of a JPEG, PNG or WebP file, or the path of one.
            model: model name.
            version: version to ask; the latest when neither this nor `label` is given.
            label: label to ask, for example "stable".
            tta: "none", "full" or "adaptive", or a TtaMode.
            deadline: seconds the call may take; the client's default when None.
            request_id: 1 to 64 characters of A-Z a-z 0-9 . _ - to find the request by in logs; made when None.

        Raises:
            DermserveError: the photo can't be classified, or not now.
            ValueError: an argument can't be.
        """
        prepare = preparer(model=model, version=version, label=label, tta=tta)
        request_id = make_request_id(request_id)
        timeout = check_deadline(self._connection.deadline if deadline is None else deadline)
        request = prepare(await asyncio.to_thread(read_photo, photo))
        metadata = self._connection.call_metadata(request_id)
        with self._translated(request_id):
            response = await self._stub().Classify(request, timeout=timeout, metadata=metadata)
        return read_prediction(response)

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
    ) -> AsyncGenerator[Answer, None]:
        """Classify many photos over one stream, and yield an answer for each as it comes, in any order.

        Photos are read when there is room for them, `in_flight` at a time, and a stream that breaks under way is opened
        again. Nothing is raised for a photo that fails: its answer holds the error.

        Args:
            photos: photos, or pairs of an id and a photo; an iterable of either kind.
            model: model name.
            version: version to ask; the latest when neither this nor `label` is given.
            label: label to ask, for example "stable".
            tta: "none", "full" or "adaptive", or a TtaMode.
            deadline: seconds without any answer after which the photos in flight are given up; the client's when None.
            in_flight: photos sent and not answered, at most.

        Raises:
            ValueError: an argument can't be.
        """
        prepare = preparer(model=model, version=version, label=label, tta=tta)
        timeout = check_deadline(self._connection.deadline if deadline is None else deadline)
        return _Many(self, Batch(prepare, in_flight=in_flight), deadline=timeout).answers(photos)

    async def models(self, *, deadline: float | None = None) -> tuple[Model, ...]:
        """List the models the gateway serves, without their cards.

        Raises:
            DermserveError: no answer.
        """
        timeout = check_deadline(self._connection.deadline if deadline is None else deadline)
        request = classifier_pb2.ListModelsRequest()
        with self._translated():
            response = await self._stub().ListModels(
                request, timeout=timeout, metadata=self._connection.call_metadata()
            )
        return tuple(read_model(model) for model in response.models)

    async def model(self, name: str, *, deadline: float | None = None) -> Model:
        """Return one model, with the card of every version that can answer.

        Raises:
            NotFound: no such model.
            DermserveError: no answer.
        """
        timeout = check_deadline(self._connection.deadline if deadline is None else deadline)
        request = classifier_pb2.GetModelRequest(name=name)
        with self._translated():
            response = await self._stub().GetModel(request, timeout=timeout, metadata=self._connection.call_metadata())
        return read_model(response.model)

    def _stub(self) -> Any:
        """Make the stub; the channel belongs to the loop that runs now, so it isn't opened before there is one."""
        if self._channel is None:
            self._channel = _open_channel(self._connection)
        return classifier_pb2_grpc.ClassifierStub(self._channel)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _translated(self, request_id: str | None = None) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise read_call(error, target=self._connection.target, request_id=request_id) from error

    def _open_stream(self, *, wait_for_ready: bool) -> AsyncStream:
        def method(requests: AsyncIterable[classifier_pb2.ClassifyStreamRequest]) -> AsyncStreamCall:
            call: AsyncStreamCall = self._stub().ClassifyStream(
                requests, metadata=self._connection.call_metadata(), wait_for_ready=wait_for_ready
            )
            return call

        return AsyncStream(method, target=self._connection.target)


class _Many:
    """Drives a batch over the streams of a client."""

    def __init__(self, client: AsyncClient, batch: Batch, *, deadline: float) -> None:
        self._client = client
        self._batch = batch
        self._deadline = deadline
        self._stream: AsyncStream | None = None
        self._reopened = False

    async def answers(self, photos: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[Answer, None]:
        """Yield an answer for each photo."""
        items = _numbered(photos)
        try:
            while True:
                async for answer in self._fill(items):
                    yield answer
                if not self._batch.requests:
                    return
                for answer in await self._receive():
                    yield answer
        finally:
            await self._close()
            await items.aclose()

    async def _fill(self, items: AsyncIterator[tuple[int, Item]]) -> AsyncIterator[Answer]:
        """Send photos while there is room; answer at once for those that can't be sent."""
        while self._batch.has_room and (item := await anext(items, None)) is not None:
            key, photo = identify(*item)
            if self._batch.over is not None:
                yield Answer(*key, error=self._batch.over)
                continue
            try:
                image = await asyncio.to_thread(read_photo, photo)
            except UnreadablePhoto as error:
                yield Answer(*key, error=error)
            else:
                self._open().send(self._batch.add(key, image))

    async def _receive(self) -> Iterable[Answer]:
        try:
            message = await self._open().receive(self._deadline)
        except DermserveError as error:
            await self._close()
            answers = list(self._batch.broken(error))
            for request in self._batch.requests:
                self._open().send(request)
            return answers
        return self._batch.settle(message)

    def _open(self) -> AsyncStream:
        """Return the stream. One opened again waits for the gateway to come back, within the deadline."""
        if self._stream is None:
            self._stream = self._client._open_stream(wait_for_ready=self._reopened)
            self._reopened = True
        return self._stream

    async def _close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.close(finished=not self._batch.requests)


async def _numbered(photos: Iterable[Item] | AsyncIterable[Item]) -> AsyncGenerator[tuple[int, Item], None]:
    """Number the items of an iterable of either kind."""
    position = 0
    if isinstance(photos, AsyncIterable):
        async for item in photos:
            yield position, item
            position += 1
    else:
        for item in photos:
            yield position, item
            position += 1


def _open_channel(connection: Connection) -> grpc.aio.Channel:
    credentials, options = connection.credentials(), connection.options()
    if credentials is None:
        return grpc.aio.insecure_channel(connection.target, options=options)
    return grpc.aio.secure_channel(connection.target, credentials, options=options)
