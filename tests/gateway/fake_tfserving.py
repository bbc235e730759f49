"""A TensorFlow Serving in this process, over real gRPC, whose versions, answers and faults a test chooses."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np
from google.protobuf import wrappers_pb2

from dermserve.contract import render_card
from dermserve.imaging import STANDARD_VIEWS, make_views
from dermserve.tfserving.v1 import serving_pb2, tensor_pb2
from dermserve.v1 import card_pb2

CODES = {"resnet50": ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"), "mobilenet_v3_small": ("bcc", "scc", "normal")}
MALIGNANT = frozenset({"akiec", "bcc", "mel", "scc"})
AVAILABLE = serving_pb2.ModelVersionStatus.STATE_AVAILABLE


def make_card(
    model: str = "resnet50", *, trained: bool = True, size: int = 224, rule_out: float = 0.5, **calibration: object
) -> card_pb2.Card:
    """Make a card; with any calibration it has a rule_out and, unless given, a rule_in of 0.9."""
    card = card_pb2.Card(
        schema_version=2,
        model=model,
        classes=[
            card_pb2.ClassInfo(code=code, name=f"full {code}", malignant=code in MALIGNANT) for code in CODES[model]
        ],
        weights_digest=f"digest of {model}",
        input=card_pb2.InputSpec(height=size, width=size, fit=card_pb2.FIT_CENTER_CROP),
        views=STANDARD_VIEWS,
        provenance=card_pb2.Provenance(training=card_pb2.TRAINING_TRAINED if trained else card_pb2.TRAINING_NONE),
    )
    if calibration:
        points = {"rule_out": {"threshold": rule_out}, "rule_in": {"threshold": 0.9}}
        card.calibration.CopyFrom(card_pb2.Calibration(**{"temperature": 1.0, **points, **calibration}))
    return card


def floats(array: np.ndarray, *, content: bool = False) -> tensor_pb2.TensorProto:
    array = np.asarray(array, np.float32)
    shape = tensor_pb2.TensorShapeProto(dim=[tensor_pb2.TensorShapeProto.Dim(size=size) for size in array.shape])
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_FLOAT, tensor_shape=shape)
    if content:
        tensor.tensor_content = array.tobytes()
    else:
        tensor.float_val.extend(array.ravel())
    return tensor


def images_of(request: serving_pb2.PredictRequest) -> np.ndarray:
    """The images that were sent."""
    tensor = request.inputs["images"]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    return np.frombuffer(tensor.tensor_content, np.uint8).reshape(shape)


def pixels_of(request: serving_pb2.PredictRequest) -> np.ndarray:
    """The views that were asked about: those that were sent, or that `tta` makes of the one image."""
    images = images_of(request)
    return make_views(images[0], STANDARD_VIEWS) if request.model_spec.signature_name == "tta" else images


@dataclass
class Version:
    """A version: its card, its state, and what it says of a batch of views."""

    card: card_pb2.Card | str
    state: int = AVAILABLE
    scores: Callable[[np.ndarray], np.ndarray] | None = None
    """uint8 [V, H, W, 3] to float [V, C]; the third class 0.7, the rest alike, when None."""
    ood: float = 0.0

    def probabilities(self, pixels: np.ndarray, model: str) -> np.ndarray:
        if self.scores:
            return self.scores(pixels)
        classes = len(CODES[model])
        return np.tile([0.7 if index == 2 else 0.3 / (classes - 1) for index in range(classes)], (len(pixels), 1))


@dataclass
class FakeTfServing:
    """See the module."""

    models: dict[str, dict[int, Version]] = field(
        default_factory=lambda: {name: {1: Version(make_card(name, min_confidence=0.5))} for name in CODES}
    )
    labels: dict[tuple[str, str], int] = field(default_factory=dict)
    faults: dict[str, tuple[grpc.StatusCode, str]] = field(default_factory=dict)
    """By method ("Predict", "Describe", "GetModelStatus", "GetModelMetadata"): how every call of it fails."""
    on_predict: Callable[[serving_pb2.PredictRequest], object] | None = None
    """Called at the start of each Predict for probabilities; awaited when it returns an awaitable."""
    mend: Callable[[serving_pb2.PredictResponse], None] | None = None
    """Called on each such answer before it is sent."""
    predicts: list[serving_pb2.PredictRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    """Of each of these."""
    describes: list[tuple[str, int]] = field(default_factory=list)
    describe_requests: list[serving_pb2.PredictRequest] = field(default_factory=list)
    garbled: set[str] = field(default_factory=set)
    """Methods ("Predict", "GetModelStatus", "GetModelMetadata") that answer with bytes that are no message."""
    looks: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """The model of each GetModelStatus."""
    refused: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a fault has been served."""
    in_flight: int = 0
    most_in_flight: int = 0

    @contextlib.asynccontextmanager
    async def serving(
        self, port: int = 0, *, host: str = "127.0.0.1", credentials: grpc.ServerCredentials | None = None
    ) -> AsyncIterator[str]:
        server = self._build()
        address = f"{host}:{port}"
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        await server.start()
        try:
            yield f"{host}:{bound}"
        finally:
            await server.stop(None)

    @contextlib.asynccontextmanager
    async def serving_at(self, address: str) -> AsyncIterator[str]:
        """Serve on an address of gRPC's own kind, as unix:PATH."""
        server = self._build()
        server.add_insecure_port(address)
        await server.start()
        try:
            yield address
        finally:
            await server.stop(None)

    def _build(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
        predict = {"Predict": self._predict, "GetModelMetadata": self._metadata}
        self._add(server, "tensorflow.serving.PredictionService", predict)
        self._add(server, "tensorflow.serving.ModelService", {"GetModelStatus": self._status})
        return server

    def _add(self, server: grpc.aio.Server, service: str, methods: dict[str, Callable[..., object]]) -> None:
        requests = {
            "Predict": serving_pb2.PredictRequest,
            "GetModelMetadata": serving_pb2.GetModelMetadataRequest,
            "GetModelStatus": serving_pb2.GetModelStatusRequest,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                requests[name].FromString,
                lambda response, name=name: b"\xff\xff" if name in self.garbled else response.SerializeToString(),
            )
            for name, method in methods.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))

    async def _find(self, spec: serving_pb2.ModelSpec, context: grpc.aio.ServicerContext) -> tuple[int, Version]:
        if spec.version_label and (spec.name, spec.version_label) not in self.labels:
            text = f"Unrecognized servable version label: {spec.version_label}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, text)
        live = {n: v for n, v in self.models.get(spec.name, {}).items() if v.state == AVAILABLE}
        number = self.labels.get((spec.name, spec.version_label)) or spec.version.value or max(live, default=0)
        if number not in live:
            await context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request")
        return number, live[number]

    async def _predict(
        self, request: serving_pb2.PredictRequest, context: grpc.aio.ServicerContext
    ) -> serving_pb2.PredictResponse:
        describing = request.model_spec.signature_name == "describe"
        await self._fail("Describe" if describing else "Predict", context)
        number, version = await self._find(request.model_spec, context)
        response = serving_pb2.PredictResponse(model_spec=serving_pb2.ModelSpec(name=request.model_spec.name))
        response.model_spec.version.CopyFrom(wrappers_pb2.Int64Value(value=number))
        if describing:
            query = request.inputs["query"]
            if query.dtype != tensor_pb2.DATA_TYPE_STRING or [dim.size for dim in query.tensor_shape.dim] != [1]:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, "input tensor alias not found in signature: query"
                )
            self.describes.append((request.model_spec.name, number))
            self.describe_requests.append(request)
            text = version.card if isinstance(version.card, str) else render_card(version.card)
            response.outputs["card"].dtype = tensor_pb2.DATA_TYPE_STRING
            response.outputs["card"].tensor_shape.dim.add(size=1)
            response.outputs["card"].string_val.append(text.encode())
            return response
        self.metadata.append(dict(context.invocation_metadata() or ()))
        return await self._score(request, version, response)

    async def _score(
        self, request: serving_pb2.PredictRequest, version: Version, response: serving_pb2.PredictResponse
    ) -> serving_pb2.PredictResponse:
        self.predicts.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.on_predict and asyncio.iscoroutine(waiting := self.on_predict(request)):
                await waiting
        finally:
            self.in_flight -= 1
        pixels = pixels_of(request)
        probabilities = version.probabilities(pixels, request.model_spec.name)
        if request.model_spec.signature_name == "tta":
            response.outputs["view_probabilities"].CopyFrom(floats(probabilities[np.newaxis]))
            probabilities, pixels = probabilities.mean(0, keepdims=True), pixels[:1]
        response.outputs["probabilities"].CopyFrom(floats(probabilities))
        response.outputs["ood_score"].CopyFrom(floats(np.full(len(pixels), version.ood)))
        if self.mend:
            self.mend(response)
        return response

    async def _status(
        self, request: serving_pb2.GetModelStatusRequest, context: grpc.aio.ServicerContext
    ) -> serving_pb2.GetModelStatusResponse:
        self.looks.put_nowait(request.model_spec.name)
        await self._fail("GetModelStatus", context)
        if request.model_spec.name not in self.models:
            text = f"Could not find any versions of model {request.model_spec.name}"
            await context.abort(grpc.StatusCode.NOT_FOUND, text)
        versions = self.models[request.model_spec.name]
        statuses = [serving_pb2.ModelVersionStatus(version=n, state=v.state) for n, v in versions.items()]
        return serving_pb2.GetModelStatusResponse(model_version_status=statuses)

    async def _metadata(
        self, request: serving_pb2.GetModelMetadataRequest, context: grpc.aio.ServicerContext
    ) -> serving_pb2.GetModelMetadataResponse:
        await self._fail("GetModelMetadata", context)
        number, _ = await self._find(request.model_spec, context)
        response = serving_pb2.GetModelMetadataResponse(model_spec=serving_pb2.ModelSpec(name=request.model_spec.name))
        response.model_spec.version.CopyFrom(wrappers_pb2.Int64Value(value=number))
        return response

    async def _fail(self, method: str, context: grpc.aio.ServicerContext) -> None:
        if method in self.faults:
            self.refused.set()
            await context.abort(*self.faults[method])


async def _main(port: int, seconds: float, host: str) -> None:
    fake = FakeTfServing(on_predict=lambda _: asyncio.sleep(seconds))
    async with fake.serving(port, host=host) as address:
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"))
