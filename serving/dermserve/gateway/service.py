"""The Classifier service: each RPC to the pipeline or the catalog."""

from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TypeVar

from google.protobuf import empty_pb2
from google.protobuf.message import Message

from dermserve.gateway.admission import CLASSIFY, CLASSIFY_STREAM
from dermserve.gateway.calls import Call, Calls, Context
from dermserve.gateway.choose import find_model
from dermserve.gateway.errors import GatewayError, MalformedRequestError, MissingModelError
from dermserve.gateway.listing import write_model
from dermserve.gateway.pipeline import Pipeline
from dermserve.gateway.status import to_status
from dermserve.gateway.stream import answer_stream
from dermserve.v1 import classifier_pb2

_T = TypeVar("_T", bound=Message)
_Classify = Callable[[classifier_pb2.ClassifyRequest, Call], Awaitable[classifier_pb2.ClassifyResponse]]


def read(request: _T | None) -> _T:
    """Return a request that could be parsed; `handlers` gives None for one that could not.

    Raises:
        MalformedRequestError: it could not.
    """
    if request is None:
        raise MalformedRequestError
    return request


def _model(request: classifier_pb2.ClassifyRequest | None) -> str:
    return request.model.name if request else ""


class ClassifierService:
    """dermserve.v1.Classifier; `handlers` ties it to gRPC."""

    def __init__(self, pipeline: Pipeline, *, calls: Calls, stream_at_once: int) -> None:
        self._pipeline = pipeline
        self._catalog = pipeline.catalog
        self._calls = calls
        self._stream_at_once = stream_at_once

    async def Classify(  # noqa: N802
        self, request: classifier_pb2.ClassifyRequest | None, context: Context
    ) -> classifier_pb2.ClassifyResponse:
        """Classify one photo."""
        return await self._calls.respond(
            CLASSIFY, context, lambda call: self._classify(read(request), call), model=_model(request)
        )

    async def ClassifyStream(  # noqa: N802
        self, request_iterator: AsyncIterable[classifier_pb2.ClassifyStreamRequest | None], context: Context
    ) -> None:
        """Classify many photos."""

        async def work(call: Call) -> empty_pb2.Empty:
            photos = _StreamedPhotos(self._calls, call, self._classify)
            await answer_stream(
                request_iterator, respond=photos.respond, write=context.write, at_once=self._stream_at_once
            )
            return empty_pb2.Empty()

        await self._calls.respond(CLASSIFY_STREAM, context, work, model=None)

    async def ListModels(  # noqa: N802
        self, request: classifier_pb2.ListModelsRequest | None, context: Context
    ) -> classifier_pb2.ListModelsResponse:
        """List all models."""

        async def work(_: Call) -> classifier_pb2.ListModelsResponse:
            read(request)
            models = [write_model(model, cards=False) for model in self._catalog.models.values()]
            return classifier_pb2.ListModelsResponse(models=models)

        return await self._calls.respond("ListModels", context, work)

    async def GetModel(  # noqa: N802
        self, request: classifier_pb2.GetModelRequest | None, context: Context
    ) -> classifier_pb2.GetModelResponse:
        """Return one model with its cards."""

        async def work(_: Call) -> classifier_pb2.GetModelResponse:
            name = read(request).name
            if not name:
                raise MissingModelError
            model = find_model(self._catalog, name)
            return classifier_pb2.GetModelResponse(model=write_model(model, cards=True))

        return await self._calls.respond("GetModel", context, work, model=request.name if request else "")

    async def _classify(self, request: classifier_pb2.ClassifyRequest, call: Call) -> classifier_pb2.ClassifyResponse:
        answer = await self._pipeline.classify(request, method=call.method, caller=call.caller, budget=call.budget)
        answer.request_id = call.request_id
        return answer


class _StreamedPhotos:
    """The photos of one stream, each answered as a call of its own."""

    def __init__(self, calls: Calls, stream: Call, classify: _Classify) -> None:
        self._calls = calls
        self._stream = stream
        self._classify = classify
        self._count = 0

    async def respond(
        self, item: classifier_pb2.ClassifyStreamRequest, fault: GatewayError | None
    ) -> classifier_pb2.ClassifyStreamResponse:
        self._count += 1
        call = self._calls.part(self._stream, self._count, model=_model(item.request))

        async def work(part: Call) -> classifier_pb2.ClassifyResponse:
            if fault is not None:
                raise fault
            return await self._classify(item.request, part)

        answer = await self._calls.settle(call, work)
        if isinstance(answer, GatewayError):
            error = to_status(answer, request_id=call.request_id)
            return classifier_pb2.ClassifyStreamResponse(id=item.id, error=error)
        return classifier_pb2.ClassifyStreamResponse(id=item.id, response=answer)
