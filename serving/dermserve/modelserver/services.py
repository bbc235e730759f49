"""The gRPC services: each call finds its version, is answered, and errors leave as TF Serving words them."""

import functools
import threading
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dermserve.modelserver._protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from dermserve.modelserver.core import Core
from dermserve.modelserver.errors import ServingError, internal, invalid_argument

_SIGNATURE_DEF = "signature_def"
_READ_COUNT = "/tensorflow/core/saved_model/read/count"
_LONGEST_TIMEOUT_MS = 2**31 - 1
Answer = TypeVar("Answer")
Handler = Callable[[Any, Any, grpc.ServicerContext], Answer]


class Slots:
    """Counts the calls in flight and turns away those beyond the limit, as gRPC's C++ server does without threads."""

    def __init__(self, limit: int) -> None:
        self._free = threading.BoundedSemaphore(limit)

    def __enter__(self) -> None:
        if not self._free.acquire(blocking=False):
            raise ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")

    def __exit__(self, *_: object) -> None:
        self._free.release()


def _answering(handler: Handler[Answer]) -> Handler[Answer]:
    """Take a slot for the call and turn an error into its status."""

    @functools.wraps(handler)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Answer:
        try:
            with self.slots:
                return handler(self, request, context)
        except ServingError as error:
            failure = error
        except Exception as error:
            failure = internal(error)
        return context.abort(failure.code, failure.message)

    return answer


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Predict and GetModelMetadata; the calls on tf.Example are not served by this stand-in."""

    def __init__(self, core: Core, *, slots: Slots) -> None:
        self._core = core
        self.slots = slots

    @_answering
    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the service's name for it
        """Run a signature."""
        _check_spec(request)
        response = predict_pb2.PredictResponse()
        with self._core.borrow(request.model_spec) as (version, servable):
            servable.predict(request, timeout_ms=_timeout_ms(context), into=response)
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        return response

    @_answering
    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Give the signatures of a version."""
        _check_spec(request)
        _check_fields(request.metadata_field)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._core.borrow(request.model_spec) as (version, servable):
            signatures = get_model_metadata_pb2.SignatureDefMap()
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
        response.metadata[_SIGNATURE_DEF].Pack(signatures)
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = version
        return response

    @_answering
    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Refuse: not served here."""
        _not_served("Classify")

    @_answering
    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Refuse: not served here."""
        _not_served("Regress")

    @_answering
    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Refuse: not served here."""
        _not_served("MultiInference")


class ModelService(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """The states of versions, and the change of the configuration while serving."""

    def __init__(self, core: Core, *, slots: Slots) -> None:
        self._core = core
        self.slots = slots

    @_answering
    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Give the state of one version, or of all that were ever managed, the highest first. Labels mean nothing."""
        _check_spec(request)
        spec = request.model_spec
        states = self._core.monitor.versions(spec.name)
        if spec.HasField("version"):
            states = {number: state for number, state in states.items() if number == spec.version.value}
        if not states:
            which = f"version {spec.version.value}" if spec.HasField("version") else "any versions"
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find {which} of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for state in states.values():
            status = response.model_version_status.add(version=state.version, state=int(state.state))
            _set_status(status.status, state.error)
        return response

    @_answering
    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Serve another list of models. Of the metrics that may be asked for, the count of models read is kept."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        loaded = self._core.reload(request.config.model_config_list)
        response = model_management_pb2.ReloadConfigResponse()
        _set_status(response.status, None)
        for name in sorted(set(request.metric_names)):
            response.metric.add(name=name, int64_value_increase=loaded if name == _READ_COUNT else 0)
        return response


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """grpc.health as TF Serving has it: SERVING from the start to the end, whatever the models do."""

    def Check(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Say SERVING of the services that exist."""
        if request.service not in {"", "PredictionService", "ModelService"}:
            context.abort(grpc.StatusCode.NOT_FOUND, "service name unknown")
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def _check_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _check_fields(fields: Any) -> None:
    if not fields:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in fields:
        if field != _SIGNATURE_DEF:
            raise invalid_argument(f"Metadata field {field} is not supported")


def _set_status(proto: Any, error: ServingError | None) -> None:
    proto.SetInParent()
    if error:
        proto.error_code, proto.error_message = error.code.value[0], error.message


def _not_served(method: str) -> NoReturn:
    message = f"{method} is not served by dermserve.modelserver, the local stand-in for TensorFlow Serving; use Predict"
    raise ServingError(grpc.StatusCode.UNIMPLEMENTED, message)


def _timeout_ms(context: grpc.ServicerContext) -> int:
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, whatever the types say
    if remaining is None or remaining * 1000 > _LONGEST_TIMEOUT_MS:
        return 0
    # 0 would mean for ever.
    return max(int(remaining * 1000), 1)
