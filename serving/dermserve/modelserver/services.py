"""The gRPC services: each call finds its version and is answered, and errors become TensorFlow Serving's statuses."""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import grpc

from dermserve.modelserver.errors import ServingError, internal, invalid_argument
from dermserve.modelserver.manager import Manager
from dermserve.modelserver.protos import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from dermserve.modelserver.servable import Servable

_READ_COUNT = "/tensorflow/core/saved_model/read/count"
Answer = TypeVar("Answer")
Handler = Callable[[Any, Any, grpc.ServicerContext], Answer]


def _answering(handler: Handler[Answer]) -> Handler[Answer]:
    """Refuse a call beyond `--grpc_max_threads`, as gRPC's C++ server does, and turn errors into statuses."""

    @functools.wraps(handler)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Answer:
        if not self.slots.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        try:
            return handler(self, request, context)
        except ServingError as error:
            failure = error
        except Exception as error:
            failure = internal(error)
        finally:
            self.slots.release()
        return context.abort(failure.code, failure.message)

    return answer


class _Service:
    def __init__(self, manager: Manager, *, slots: threading.Semaphore) -> None:
        self._manager = manager
        self.slots = slots


class PredictionService(_Service, prediction_service_pb2_grpc.PredictionServiceServicer):  # type: ignore[misc]
    """Predict and GetModelMetadata; the calls on tf.Example are UNIMPLEMENTED."""

    @_answering
    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the service's name for it
        """Run a signature."""
        response = predict_pb2.PredictResponse()
        with self._borrow(request, into=response) as servable:
            servable.predict(request, timeout_ms=_timeout_ms(context), into=response)
        return response

    @_answering
    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Return the signatures of a version."""
        _check_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        with self._borrow(request, into=response) as servable:
            signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=servable.signatures)
        response.metadata["signature_def"].Pack(signatures)
        return response

    @contextlib.contextmanager
    def _borrow(self, request: Any, *, into: Any) -> Iterator[Servable]:
        """Lend the version that a request names, and name it in the response."""
        _check_spec(request)
        with self._manager.borrow(request.model_spec) as (version, servable):
            into.model_spec.name, into.model_spec.version.value = request.model_spec.name, version
            yield servable


class ModelService(_Service, model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """The states of versions, and a new configuration while serving."""

    @_answering
    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Return the state of one version, or of all that were ever managed, the highest first; labels are ignored."""
        _check_spec(request)
        spec = request.model_spec
        wanted = spec.version.value if spec.HasField("version") else None
        versions = [one for one in self._manager.versions(spec.name) if wanted in {None, one.number}]
        if not versions:
            which = "any versions" if wanted is None else f"version {wanted}"
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find {which} of model {spec.name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for one in versions:
            status = response.model_version_status.add(version=one.number, state=int(one.state)).status
            status.SetInParent()
            if one.error:
                status.error_code, status.error_message = one.error.code.value[0], one.error.message
        return response

    @_answering
    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Serve another list of models. Of the metrics asked for only the number of loads is counted."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        loaded = self._manager.reload(request.config.model_config_list)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name in sorted(set(request.metric_names)):
            response.metric.add(name=name, int64_value_increase=loaded if name == _READ_COUNT else 0)
        return response


def _check_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _timeout_ms(context: grpc.ServicerContext) -> int:
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, contrary to grpc's types
    if remaining is None or remaining * 1000 > 2**31 - 1:
        return 0
    return max(int(remaining * 1000), 1)  # 0 would mean no timeout.
