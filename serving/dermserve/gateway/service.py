"""The Classifier service: the four methods, and many photos over one stream.

The generated `add_ClassifierServicer_to_server` is not used: bytes that are not the method's message would end as
UNKNOWN with the parser's words and a stack trace on stderr. Here they reach the method as None.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from dermserve.gateway.admission import CLASSIFY, CLASSIFY_STREAM
from dermserve.gateway.catalog import KnownModel
from dermserve.gateway.classify import Classifier, PhotoRequest
from dermserve.gateway.errors import (
    GatewayError,
    InvalidItemIdError,
    MalformedRequestError,
    MissingModelError,
    StoppingError,
)
from dermserve.gateway.rpc import Context, Rpc, Rpcs, to_status
from dermserve.v1 import classifier_pb2

SERVICE = classifier_pb2.DESCRIPTOR.services_by_name["Classifier"].full_name
_MAX_ID_BYTES = 128
_LAST_READS = 0.5  # seconds to go on reading a stream when the gateway stops: photos are on their way

_T = TypeVar("_T", bound=Message)
_StreamItem = tuple[str, PhotoRequest]


class ClassifierService:
    """dermserve.v1.Classifier."""

    def __init__(self, classifier: Classifier, *, rpcs: Rpcs, stream_at_once: int) -> None:
        self._classifier = classifier
        self._catalog = classifier.catalog
        self._rpcs = rpcs
        self._stream_at_once = stream_at_once

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve it."""
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        requests = classifier_pb2
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            CLASSIFY: unary(self.classify, parser(requests.ClassifyRequest, read_photo), _render),
            CLASSIFY_STREAM: stream(self.classify_stream, parser(requests.ClassifyStreamRequest, _read_item), _render),
            "ListModels": unary(self.list_models, parser(requests.ListModelsRequest), _render),
            "GetModel": unary(self.get_model, parser(requests.GetModelRequest), _render),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def classify(self, photo: PhotoRequest | None, context: Context) -> classifier_pb2.ClassifyResponse:
        """Classify one photo."""
        async with self._rpcs.open(CLASSIFY, context, model=photo.model if photo else "") as rpc:
            if photo is None:
                raise MalformedRequestError
            rpc.answer = answer = await self._classifier.classify(photo, rpc)
        return answer

    async def classify_stream(
        self, items: AsyncIterable[_StreamItem | None], context: Context
    ) -> AsyncIterator[classifier_pb2.ClassifyStreamResponse]:
        """Classify many photos."""
        async with self._rpcs.open(CLASSIFY_STREAM, context, model=None) as rpc:
            photos = _PhotoStream(self._classifier, rpc, self._rpcs.stopping, at_once=self._stream_at_once)
            async for answer in photos.answers(items):
                yield answer

    async def list_models(
        self, request: classifier_pb2.ListModelsRequest | None, context: Context
    ) -> classifier_pb2.ListModelsResponse:
        """List all models."""
        async with self._rpcs.open("ListModels", context) as rpc:
            if request is None:
                raise MalformedRequestError
            models = [_write_model(model, cards=False) for model in self._catalog.models.values()]
            rpc.answer = answer = classifier_pb2.ListModelsResponse(models=models)
        return answer

    async def get_model(
        self, request: classifier_pb2.GetModelRequest | None, context: Context
    ) -> classifier_pb2.GetModelResponse:
        """Return one model with its cards."""
        async with self._rpcs.open("GetModel", context, model=request.name if request else "") as rpc:
            if request is None:
                raise MalformedRequestError
            if not request.name:
                raise MissingModelError
            model = _write_model(self._catalog.find(request.name), cards=True)
            rpc.answer = answer = classifier_pb2.GetModelResponse(model=model)
        return answer


class _PhotoStream:
    """The photos of one stream: a bounded number of them at once, answered as they finish."""

    def __init__(self, classifier: Classifier, rpc: Rpc, stopping: asyncio.Event, *, at_once: int) -> None:
        self._classifier, self._rpc, self._stopping = classifier, rpc, stopping
        self._slots = asyncio.Semaphore(at_once)
        self._ids: set[str] = set()
        self._answers: asyncio.Queue[classifier_pb2.ClassifyStreamResponse | None] = asyncio.Queue()

    async def answers(
        self, items: AsyncIterable[_StreamItem | None]
    ) -> AsyncIterator[classifier_pb2.ClassifyStreamResponse]:
        """Answer every photo. Reading stops while enough are in flight, so that gRPC's flow control slows the sender.

        Raises:
            MalformedRequestError: something came that is no photo of a stream; those before it are answered.
            StoppingError: the gateway stops; the photos read before are answered.
        """
        running = asyncio.create_task(self._run(items))
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
            await running  # raises what the reading ended in
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _run(self, items: AsyncIterable[_StreamItem | None]) -> None:
        """Read to the end or until the gateway stops, and answer what was read."""
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            async with asyncio.TaskGroup() as photos:
                reading = asyncio.create_task(self._read(items, photos))
                try:
                    await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
                    await asyncio.wait({reading}, timeout=_LAST_READS)
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
            if reading.cancelled():
                raise StoppingError
            reading.result()
        finally:
            stopping.cancel()
            self._answers.put_nowait(None)

    async def _read(self, items: AsyncIterable[_StreamItem | None], photos: asyncio.TaskGroup) -> None:
        number = 0
        await self._slots.acquire()
        async for item in items:
            if item is None:
                raise MalformedRequestError
            number += 1
            fault = StoppingError() if self._stopping.is_set() else self._take_id(item[0])
            photos.create_task(self._answer(item, number, fault))
            await self._slots.acquire()

    def _take_id(self, item_id: str) -> GatewayError | None:
        """Take a photo's id into the set in flight, or say why it can't be."""
        if not 0 < (size := len(item_id.encode())) <= _MAX_ID_BYTES:
            return InvalidItemIdError(f"a photo's id needs 1 to {_MAX_ID_BYTES} bytes, this has {size}")
        if item_id in self._ids:
            return InvalidItemIdError("another photo with this id is in flight: give each its own")
        self._ids.add(item_id)
        return None

    async def _answer(self, item: _StreamItem, number: int, fault: GatewayError | None) -> None:
        """Answer one photo and release its place for the next."""
        item_id, photo = item
        try:
            async with self._rpc.photo(number, model=photo.model) as rpc:
                if fault is not None:
                    raise fault
                rpc.answer = await self._classifier.classify(photo, rpc)
            answer = classifier_pb2.ClassifyStreamResponse(id=item_id)
            if rpc.error is None:
                answer.response.CopyFrom(rpc.answer)
            else:
                answer.error.CopyFrom(to_status(rpc.error, request_id=rpc.request_id))
            self._answers.put_nowait(answer)
        finally:
            if fault is None:
                self._ids.discard(item_id)
            self._slots.release()


def _write_model(model: KnownModel, *, cards: bool) -> classifier_pb2.Model:
    """Write a model as last seen in the API's words, with or without the cards of its versions."""
    versions = [
        classifier_pb2.ModelVersion(
            version=version.number,
            state=version.state,
            labels=sorted(label for label, number in model.labels.items() if number == version.number),
            card=version.card if cards else None,
            ready=version.ready,
        )
        for version in model.versions
    ]
    return classifier_pb2.Model(name=model.name, versions=versions)


def read_photo(request: classifier_pb2.ClassifyRequest) -> PhotoRequest:
    """Take a request's values, its photo's bytes copied once."""
    selector = request.model
    choice = selector.WhichOneof("choice")
    version = selector.version if choice == "version" else None
    label = selector.label if choice == "label" else None
    return PhotoRequest(selector.name, version, label, request.tta, request.include_rejected_classes, request.image)


def _read_item(item: classifier_pb2.ClassifyStreamRequest) -> _StreamItem:
    return item.id, read_photo(item.request)


def parser(message: type[_T], read: Callable[[_T], Any] = lambda parsed: parsed) -> Callable[[bytes], Any]:
    """Make what parses a message and reads it; None when the bytes are not one."""

    def parse(data: bytes) -> Any:
        try:
            return read(message.FromString(data))
        except DecodeError:
            return None

    return parse


def _render(message: Message) -> bytes:
    return message.SerializeToString()
