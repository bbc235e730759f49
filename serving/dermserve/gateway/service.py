"""The Classifier service: each RPC to the pipeline or the catalog."""

from collections.abc import AsyncIterable

from google.protobuf import empty_pb2

from dermserve.gateway.admission import CLASSIFY, CLASSIFY_STREAM
from dermserve.gateway.calls import Call, Calls, Context
from dermserve.gateway.choose import find_model
from dermserve.gateway.errors import GatewayError, MissingModelError
from dermserve.gateway.listing import write_model
from dermserve.gateway.pipeline import Pipeline
from dermserve.gateway.status import to_status
from dermserve.gateway.stream import answer_stream
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc


class ClassifierService(classifier_pb2_grpc.ClassifierServicer):
    """dermserve.v1.Classifier."""

    def __init__(self, pipeline: Pipeline, *, calls: Calls, stream_at_once: int) -> None:
        self._pipeline = pipeline
        self._catalog = pipeline.catalog
        self._calls = calls
        self._stream_at_once = stream_at_once

    async def Classify(  # noqa: N802
        self, request: classifier_pb2.ClassifyRequest, context: Context
    ) -> classifier_pb2.ClassifyResponse:
        """Classify one photo."""
        return await self._calls.respond(CLASSIFY, context, lambda call: self._classify(request, call))

    async def ClassifyStream(  # noqa: N802
        self, request_iterator: AsyncIterable[classifier_pb2.ClassifyStreamRequest], context: Context
    ) -> None:
        """Classify many photos."""

        async def work(call: Call) -> empty_pb2.Empty:
            photos = _StreamedPhotos(self, call)
            await answer_stream(
                request_iterator, respond=photos.respond, write=context.write, at_once=self._stream_at_once
            )
            return empty_pb2.Empty()

        await self._calls.respond(CLASSIFY_STREAM, context, work, streaming=True)

    async def ListModels(  # noqa: N802
        self, request: classifier_pb2.ListModelsRequest, context: Context
    ) -> classifier_pb2.ListModelsResponse:
        """List all models."""
        del request

        async def work(_: Call) -> classifier_pb2.ListModelsResponse:
            models = [write_model(model, cards=False) for model in self._catalog.models.values()]
            return classifier_pb2.ListModelsResponse(models=models)

        return await self._calls.respond("ListModels", context, work)

    async def GetModel(  # noqa: N802
        self, request: classifier_pb2.GetModelRequest, context: Context
    ) -> classifier_pb2.GetModelResponse:
        """Return one model with its cards."""

        async def work(_: Call) -> classifier_pb2.GetModelResponse:
            if not request.name:
                raise MissingModelError
            model = find_model(self._catalog, request.name)
            return classifier_pb2.GetModelResponse(model=write_model(model, cards=True))

        return await self._calls.respond("GetModel", context, work)

    async def _classify(self, request: classifier_pb2.ClassifyRequest, call: Call) -> classifier_pb2.ClassifyResponse:
        answer = await self._pipeline.classify(request, method=call.method, budget=call.budget)
        answer.request_id = call.request_id
        return answer


class _StreamedPhotos:
    """The photos of one stream, each answered as a call of its own."""

    def __init__(self, service: ClassifierService, stream: Call) -> None:
        self._service = service
        self._stream = stream
        self._count = 0

    async def respond(
        self, item: classifier_pb2.ClassifyStreamRequest, fault: GatewayError | None
    ) -> classifier_pb2.ClassifyStreamResponse:
        self._count += 1
        call = self._service._calls.part(self._stream, self._count)

        async def work(part: Call) -> classifier_pb2.ClassifyResponse:
            if fault is not None:
                raise fault
            return await self._service._classify(item.request, part)

        answer = await self._service._calls.settle(call, work)
        if isinstance(answer, GatewayError):
            error = to_status(answer, request_id=call.request_id)
            return classifier_pb2.ClassifyStreamResponse(id=item.id, error=error)
        return classifier_pb2.ClassifyStreamResponse(id=item.id, response=answer)
