"""The Classifier service: the four methods, and many photos over one stream.

The generated `add_ClassifierServicer_to_server` is not used: with it, bytes that are not the method's message end as
UNKNOWN with the parser's message, and a stack trace on stderr. Here bytes are received and parsed. All methods are
registered as streams of messages, which are the same on the wire, so that a message is received when it is read.
"""

import asyncio
import functools
import operator
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message
from grpc_health.v1.health import aio as health_service
from grpc_health.v1.health_pb2 import HealthCheckRequest

from dermserve.gateway.admission import Receiving
from dermserve.gateway.catalog import check_target
from dermserve.gateway.classify import CLASSIFY, CLASSIFY_STREAM, Classifier, PhotoRequest
from dermserve.gateway.errors import GatewayError
from dermserve.gateway.model_servers import KnownModel
from dermserve.gateway.rpc import Context, Rpc, Rpcs, stopping_error, to_status
from dermserve.gateway.tfserving import Target
from dermserve.v1 import classifier_pb2 as api

SERVICE = api.DESCRIPTOR.services_by_name["Classifier"].full_name
HEALTH = "grpc.health.v1.Health"
_MOST_WITHOUT_PHOTO = 65_536  # bytes of a request that has no photo
_MAX_ID_BYTES = 128
_MOST_UNREAD = 1000  # answers of a stream that its caller has not read; further photos wait
_LAST_READS = 0.5  # seconds for which a stream is still read when the gateway stops: photos may be on their way

_T = TypeVar("_T", bound=Message)
_OnePhoto: TypeAlias = api.ClassifyRequest | api.ClassifyPhotoRequest
_WITH_PHOTO = {api.ClassifyRequest, api.ClassifyPhotoRequest, api.ClassifyStreamRequest}


class ClassifierService:
    """dermserve.v1.Classifier."""

    def __init__(self, classifier: Classifier, *, rpcs: Rpcs, receiving: Receiving, stream_at_once: int) -> None:
        self._classifier, self._rpcs, self._receiving = classifier, rpcs, receiving
        self._stream_at_once = stream_at_once

    def add_to(self, server: grpc.aio.Server, health: health_service.HealthServicer) -> None:
        """Add the methods to a server, and those of health checks."""
        render = operator.methodcaller("SerializeToString")
        unary = functools.partial(grpc.stream_unary_rpc_method_handler, response_serializer=render)
        stream = functools.partial(grpc.stream_stream_rpc_method_handler, response_serializer=render)
        receive = functools.partial(functools.partial, self._receive)
        ours: dict[str, Any] = {
            CLASSIFY: unary(receive(CLASSIFY, self.classify, api.ClassifyRequest)),
            "ClassifyPhoto": unary(receive(CLASSIFY, self.classify, api.ClassifyPhotoRequest)),
            CLASSIFY_STREAM: stream(self.classify_stream),
            "ListModels": unary(receive("ListModels", self.list_models, api.ListModelsRequest)),
            "GetModel": unary(receive("GetModel", self.get_model, api.GetModelRequest)),
        }
        checks: dict[str, Any] = {
            "Check": unary(receive("Check", health.Check, HealthCheckRequest)),
            "Watch": stream(receive("Watch", health.Watch, HealthCheckRequest)),
        }
        for name, handlers in ((SERVICE, ours), (HEALTH, checks)):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    async def _receive(
        self, name: str, method: Callable[[_T, Context], Awaitable[Any]], kind: type[_T], _: object, context: Context
    ) -> Any:
        """Receive the request of a method, and call it. Neither its bytes nor the message are kept here."""
        try:
            answer = method(parse(kind, await self._receiving.receive(read(context)) or b""), context)
        except GatewayError:
            async with self._rpcs.open(name, context):
                raise
        return await answer

    async def classify(self, request: _OnePhoto, context: Context) -> api.ClassifyResponse:
        """Classify one photo."""
        async with self._rpcs.open(CLASSIFY, context) as rpc:
            answering = self._classifier.classify(read_photo(request), rpc)
            # gRPC keeps the error of a call, and so this frame, until the next full collection: not with the photo.
            del request
            rpc.answer = await answering
            return rpc.answer

    async def classify_stream(self, _: object, context: Context) -> AsyncIterator[api.ClassifyStreamResponse]:
        """Classify many photos."""
        async with self._rpcs.open(CLASSIFY_STREAM, context, model=None) as rpc:
            photos = _PhotoStream(self._classifier, rpc, self._rpcs.stopping, at_once=self._stream_at_once)
            async for answer in photos.answers(lambda: self._receiving.receive(read(context))):
                yield answer

    async def list_models(self, _: api.ListModelsRequest, context: Context) -> api.ListModelsResponse:
        """List all models."""
        async with self._rpcs.open("ListModels", context):
            models = self._classifier.catalog.models.values()
            return api.ListModelsResponse(models=[_write_model(model, cards=False) for model in models])

    async def get_model(self, request: api.GetModelRequest, context: Context) -> api.GetModelResponse:
        """Return one model with its cards."""
        async with self._rpcs.open("GetModel", context) as rpc:
            rpc.model = name = request.name
            check_target(Target(name))
            return api.GetModelResponse(model=_write_model(self._classifier.catalog.find(name), cards=True))


class _PhotoStream:
    """The photos of one stream: a bounded number of them at once, answered as they finish."""

    def __init__(self, classifier: Classifier, rpc: Rpc, stopping: asyncio.Event, *, at_once: int) -> None:
        self._classifier, self._rpc, self._stopping = classifier, rpc, stopping
        self._slots, self._unread = asyncio.Semaphore(at_once), asyncio.Semaphore(_MOST_UNREAD)
        self._ids: set[str] = set()
        self._answers: asyncio.Queue[api.ClassifyStreamResponse | None] = asyncio.Queue()

    async def answers(
        self, receive: Callable[[], Awaitable[bytes | None]]
    ) -> AsyncIterator[api.ClassifyStreamResponse]:
        """Answer every photo. Reading stops while enough are in flight, or not read by the caller.

        gRPC's flow control then slows the sender.

        Raises:
            GatewayError: a message is not a ClassifyStreamRequest, there is no memory for it, or the gateway stops;
                photos that were read before are answered.
        """
        running = asyncio.create_task(self._run(receive))
        running.add_done_callback(lambda _: self._answers.put_nowait(None))
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
                self._unread.release()
            await running  # raises what the reading ended in
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def _run(self, receive: Callable[[], Awaitable[bytes | None]]) -> None:
        """Read to the end or until the gateway stops, and answer what was read."""
        async with asyncio.TaskGroup() as tasks:
            reading, stopping = tasks.create_task(self._read(receive, tasks)), tasks.create_task(self._stopping.wait())
            await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({reading}, timeout=_LAST_READS)
            for task in (reading, stopping):
                task.cancel()
        if fault := stopping_error() if reading.cancelled() else reading.result():
            raise fault

    async def _read(
        self, receive: Callable[[], Awaitable[bytes | None]], photos: asyncio.TaskGroup
    ) -> GatewayError | None:
        """Begin a photo for each item; return the error that ended the reading."""
        number = 0
        await self._slots.acquire()
        while True:
            number += 1
            try:
                if (data := await receive()) is None:
                    return None
                item = parse(api.ClassifyStreamRequest, data)
            except GatewayError as error:
                return error
            photos.create_task(self._answer(item.id, read_photo(item.request), number))
            del data, item  # release the photo's bytes; the task that answers has them
            await self._unread.acquire()
            await self._slots.acquire()

    async def _answer(self, item_id: str, photo: PhotoRequest, number: int) -> None:
        """Answer one photo and release its place for the next."""
        answer, rpc = api.ClassifyStreamResponse(id=item_id), self._rpc.photo(number, model=photo.target.model)
        if is_first := item_id not in self._ids:
            self._ids.add(item_id)
        try:
            async with rpc:
                if self._stopping.is_set():
                    raise stopping_error()
                if not 0 < (size := len(item_id.encode())) <= _MAX_ID_BYTES:
                    text = f"a photo's id needs 1 to {_MAX_ID_BYTES} bytes, this one has {size}"
                    raise GatewayError("INVALID_ID", text)
                if not is_first:
                    raise GatewayError("INVALID_ID", "another photo with this id is in flight: give each its own")
                rpc.answer = await self._classifier.classify(photo, rpc)
            answer.response.CopyFrom(rpc.answer)
        except GatewayError as error:
            answer.error.CopyFrom(to_status(error, request_id=rpc.request_id))
        finally:
            if is_first:
                self._ids.remove(item_id)
            self._slots.release()
        self._answers.put_nowait(answer)


def _write_model(model: KnownModel, *, cards: bool) -> api.Model:
    """Write a model, as of the last poll, as the API's message, with or without cards."""
    versions = [
        api.ModelVersion(
            version=version.number,
            state=version.state,
            labels=sorted(label for label, number in model.labels.items() if number == version.number),
            card=version.card if cards else None,
            ready=version.ready,
        )
        for version in model.versions
    ]
    return api.Model(name=model.name, versions=versions)


async def read(context: Context) -> bytes | None:
    """Read the next message of a call; None if there is none."""
    data = await context.read()
    return data if isinstance(data, bytes) else None


def read_photo(request: _OnePhoto) -> PhotoRequest:
    """Read a request's values; the photo's bytes are copied once."""
    choice = request.model.WhichOneof("choice")
    target = Target(request.model.name, **{choice: getattr(request.model, choice)} if choice else {})
    image = request.photo.data if isinstance(request, api.ClassifyPhotoRequest) else request.image
    return PhotoRequest(target, request.tta, request.include_rejected_classes, image)


def parse(message: type[_T], data: bytes) -> _T:
    """Parse a message.

    Raises:
        GatewayError: the bytes are not such a message, or too many.
    """
    if len(data) > _MOST_WITHOUT_PHOTO and message not in _WITH_PHOTO:
        text = f"the request has {len(data)} bytes; without a photo, at most {_MOST_WITHOUT_PHOTO} make sense"
        raise GatewayError("MALFORMED_REQUEST", text)
    try:
        return message.FromString(data)
    except DecodeError as error:
        text = "the request is not a message of this method: was it made from another version of the API?"
        raise GatewayError("MALFORMED_REQUEST", text) from error
