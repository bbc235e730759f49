"""A gateway in this process, over a real channel, whose answers a test chooses."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from dermserve.v1 import card_pb2, classifier_pb2, classifier_pb2_grpc

NOTICE = "A screening aid, not a diagnosis."


def answer(request: classifier_pb2.ClassifyRequest, *, request_id: str = "r-1") -> classifier_pb2.ClassifyResponse:
    full = request.tta == classifier_pb2.TTA_MODE_FULL
    std = 0.05 if full else 0
    return classifier_pb2.ClassifyResponse(
        request_id=request_id,
        model=request.model.name,
        version=request.model.version or 3,
        classes=[
            classifier_pb2.ClassScore(code="mel", name="melanoma", malignant=True, probability=0.75, std=std),
            classifier_pb2.ClassScore(
                code="nv", name="melanocytic nevus", common_name="mole", probability=0.25, std=std
            ),
        ],
        verdict=classifier_pb2.VERDICT_UNCERTAIN,
        reasons=[classifier_pb2.REASON_LOW_CONFIDENCE],
        views_asked=10 if full else 1,
        views_used=9 if full else 1,
        timings=classifier_pb2.Timings(decode_ms=1.5, plan_ms=0.5, predict_ms=20, reduce_ms=0.25, total_ms=23),
        notice=NOTICE,
        malignancy=classifier_pb2.MalignancyRisk(
            level=classifier_pb2.RISK_LEVEL_INTERMEDIATE, probability=0.75, std=std
        ),
        weights_digest="0123456789abcdef",
        gateway_version="0.1.0",
    )


def reject(response: classifier_pb2.ClassifyResponse) -> None:
    """Make it what a photo gets that is not of skin: neither classes nor a risk."""
    for field in ("classes", "malignancy", "reasons"):
        response.ClearField(field)
    response.verdict = classifier_pb2.VERDICT_REJECTED
    response.reasons.append(classifier_pb2.REASON_NOT_SKIN)


def rich_status(
    code: int, message: str, *, reason: str = "", request_id: str | None = None, retry_after: float | None = None
) -> status_pb2.Status:
    status = status_pb2.Status(code=code, message=message)
    if reason:
        metadata = {"request_id": request_id} if request_id else {}
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="dermserve.v1", metadata=metadata))
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(retry_after * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def abort(context: grpc.ServicerContext, status: status_pb2.Status) -> None:
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, status.message)


class FakeGateway(classifier_pb2_grpc.ClassifierServicer):
    """Answers as told: `classify` and `item` may be replaced, and what came in is remembered."""

    def __init__(self) -> None:
        self.requests: list[classifier_pb2.ClassifyRequest] = []
        self.metadata: list[dict[str, Any]] = []
        self.remaining: list[float | None] = []
        self.cancelled = threading.Event()
        self.classify: Callable[[classifier_pb2.ClassifyRequest, grpc.ServicerContext], Any] = self.at_once
        self.stream: Callable[[Iterator[Any], grpc.ServicerContext], Iterator[Any]] = self.in_order

    def _note(self, context: grpc.ServicerContext) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        self.remaining.append(context.time_remaining())

    def Classify(self, request: classifier_pb2.ClassifyRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._note(context)
        self.requests.append(request)
        return self.classify(request, context)

    def ClassifyStream(self, request_iterator: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        self._note(context)
        yield from self.stream(request_iterator, context)

    def at_once(self, request: classifier_pb2.ClassifyRequest, context: grpc.ServicerContext) -> Any:
        if request.image == b"bad":
            abort(context, _damaged())
        response = answer(request, request_id=f"r-{request.image.decode(errors='replace')[:20]}")
        if request.image == b"beach":
            reject(response)
        return response

    def in_order(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            yield self.item(request)

    def item(self, request: classifier_pb2.ClassifyStreamRequest) -> classifier_pb2.ClassifyStreamResponse:
        self.requests.append(request.request)
        if request.request.image == b"bad":
            return classifier_pb2.ClassifyStreamResponse(id=request.id, error=_damaged())
        return classifier_pb2.ClassifyStreamResponse(id=request.id, response=answer(request.request))

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._note(context)
        return classifier_pb2.ListModelsResponse(models=[model(cards=False)])

    def GetModel(self, request: classifier_pb2.GetModelRequest, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._note(context)
        if request.name != "resnet50":
            status = rich_status(
                code_pb2.NOT_FOUND, "no model has that name; there are: resnet50", reason="MODEL_NOT_FOUND"
            )
            abort(context, status)
        return classifier_pb2.GetModelResponse(model=model(cards=True))


def _damaged() -> status_pb2.Status:
    message = "damaged: send it again"
    return rich_status(code_pb2.INVALID_ARGUMENT, message, reason="UNDECODABLE_IMAGE", request_id="r-bad")


def model(*, cards: bool) -> classifier_pb2.Model:
    card = card_pb2.Card(
        schema_version=2,
        model="resnet50",
        classes=[card_pb2.ClassInfo(code="mel", name="melanoma", malignant=True)],
        parameters=25693063,
        provenance=card_pb2.Provenance(training=card_pb2.TRAINING_NONE, initialization="random (seed 0)"),
    )
    loading = classifier_pb2.ModelVersion(version=4, state=classifier_pb2.VERSION_STATE_LOADING)
    available = classifier_pb2.ModelVersion(
        version=3,
        state=classifier_pb2.VERSION_STATE_AVAILABLE,
        labels=["stable"],
        ready=True,
        card=card if cards else None,
    )
    return classifier_pb2.Model(name="resnet50", versions=[loading, available])


@contextlib.contextmanager
def serving(
    gateway: classifier_pb2_grpc.ClassifierServicer,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
    options: tuple[tuple[str, Any], ...] = (("grpc.max_receive_message_length", -1),),
) -> Iterator[int]:
    """Serve a gateway on a loopback port; yield the port."""
    with futures.ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, options=options)
        classifier_pb2_grpc.add_ClassifierServicer_to_server(gateway, server)  # type: ignore[no-untyped-call]
        address = f"{host}:{port}"
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        try:
            yield bound
        finally:
            server.stop(None).wait()
