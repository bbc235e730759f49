"""Start, serve and stop; the gRPC services, with TensorFlow Serving's statuses for errors."""

import argparse
import contextlib
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dermserve.modelserver.errors import ServingError, internal, invalid_argument
from dermserve.modelserver.flags import parse_flags
from dermserve.modelserver.manager import Manager
from dermserve.modelserver.servable import load, predict
from dermserve.modelserver.session import Session
from dermserve.modelserver.versions import list_models, read_models
from dermserve.tfserving.v1 import management_pb2, serving_pb2, session_pb2

_logger = logging.getLogger(__name__)
_READ_COUNT = "/tensorflow/core/saved_model/read/count"
_REFUSING_THREADS = 8  # Refuse calls while all other threads are busy.
_DRAIN_S = 30.0
_START_FAILED = 255
_PREDICTION, _MODEL = "/tensorflow.serving.PredictionService", "/tensorflow.serving.ModelService"


def run(argv: Sequence[str], *, stop: threading.Event) -> int:
    """Run the model server until `stop` is set. Return the exit code: 0, or 255 when it could not start."""
    form = "%(asctime)s: %(levelname).1s %(name)s:%(lineno)d] %(message)s"
    logging.basicConfig(format=form, level=logging.INFO, stream=sys.stderr)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow enables oneDNN by itself only on some processors (AVX-512 VNNI); others gain as much.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        serve(parse_flags(argv), stop=stop)
    except ServingError as error:
        if not stop.is_set():
            sys.stderr.write(f"Failed to start server. Error: {error}\n")
            return _START_FAILED
    return 0


def serve(flags: argparse.Namespace, *, stop: threading.Event) -> None:
    """Serve until `stop` is set, and let the calls in flight finish."""
    if flags.model_config_file:
        models = read_models(Path(flags.model_config_file))
    elif flags.model_base_path:
        models = list_models(**{flags.model_name: flags.model_base_path})
    else:
        raise invalid_argument("Both server_options.model_base_path and server_options.model_config_file are empty!")
    server, period = None, flags.model_config_file_poll_wait_seconds
    manager = Manager(load=functools.partial(load, flags=flags), flags=flags, stop=stop)
    try:
        manager.start(models)
        server = _listen(manager, flags)
        while not stop.wait(period if period > 0 and flags.model_config_file else None):
            try:
                manager.reload(read_models(Path(flags.model_config_file)))
            except ServingError as error:
                _logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", error)
    finally:
        _logger.info("Stopping: calls in flight may finish within %.0f s", _DRAIN_S)
        if server is not None:
            server.stop(_DRAIN_S).wait()
        manager.stop()


def _listen(manager: Manager, flags: argparse.Namespace) -> grpc.Server:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    services = Services(manager, most=flags.grpc_max_threads)
    threads = ThreadPoolExecutor(flags.grpc_max_threads + _REFUSING_THREADS, "grpc")
    server = grpc.server(threads, handlers=[services], options=options)
    if flags.enable_grpc_healthcheck_service:
        checks = health.HealthServicer()
        for name in ("", "PredictionService", "ModelService"):  # Always, as in TensorFlow Serving.
            checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    try:
        port = server.add_insecure_port(f"{flags.host}:{flags.port}")
    except RuntimeError as error:
        raise invalid_argument(f"can't listen on {flags.host}:{flags.port}: is the port taken? ({error})") from error
    server.start()
    _logger.info("Running gRPC ModelServer at %s:%d ...", flags.host, port)
    return server


class Services(grpc.GenericRpcHandler):
    """PredictionService and ModelService; `most` calls are in flight at once, and those on tf.Example are refused."""

    def __init__(self, manager: Manager, *, most: int) -> None:
        self._manager = manager
        self._slots = threading.Semaphore(most)
        self._methods: dict[str, tuple[Any, Callable[[Any, grpc.ServicerContext], Any]]] = {
            f"{_PREDICTION}/Predict": (serving_pb2.PredictRequest, self._predict),
            f"{_PREDICTION}/GetModelMetadata": (serving_pb2.GetModelMetadataRequest, self._metadata),
            f"{_MODEL}/GetModelStatus": (serving_pb2.GetModelStatusRequest, self._status),
            f"{_MODEL}/HandleReloadConfigRequest": (management_pb2.ReloadConfigRequest, self._reload),
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, None for one that does not exist: gRPC calls this."""
        if details.method in {f"{_PREDICTION}/{name}" for name in ("Classify", "Regress", "MultiInference")}:
            return grpc.unary_unary_rpc_method_handler(_refuse)
        if details.method not in self._methods:
            return None
        request, handler = self._methods[details.method]
        answer: Any = functools.partial(self._answer, handler)
        return grpc.unary_unary_rpc_method_handler(answer, request.FromString, lambda made: made.SerializeToString())

    def _answer(self, handler: Callable[..., Any], request: Any, context: grpc.ServicerContext) -> Any:
        """Refuse calls beyond `--grpc_max_threads`, as gRPC's C++ server does, and turn errors into statuses."""
        if not self._slots.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Server Threadpool Exhausted")
        try:
            return handler(request, context)
        except ServingError as error:
            failure = error
        except Exception as error:
            failure = internal(error)
        finally:
            self._slots.release()
        return context.abort(failure.code, failure.message)

    def _predict(self, request: Any, context: grpc.ServicerContext) -> Any:
        response = serving_pb2.PredictResponse()
        with self._borrow(request, into=response) as session:
            predict(session, request, timeout_ms=_timeout_ms(context), into=response)
        return response

    def _metadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return the signatures of a version."""
        _check_spec(request)
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != "signature_def":
                raise invalid_argument(f"Metadata field {field} is not supported")
        response = serving_pb2.GetModelMetadataResponse()
        with self._borrow(request, into=response) as session:
            signatures = session_pb2.SignatureDefMap(signature_def=session.signatures)
        response.metadata["signature_def"].type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        response.metadata["signature_def"].value = signatures.SerializeToString()
        return response

    @contextlib.contextmanager
    def _borrow(self, request: Any, *, into: Any) -> Iterator[Session]:
        """Lend the version that a request names, and name it in the response."""
        _check_spec(request)
        with self._manager.borrow(request.model_spec) as (version, session):
            into.model_spec.name, into.model_spec.version.value = request.model_spec.name, version
            yield session

    def _status(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Return the state of one version, or of all that were ever managed, the highest first. Labels are ignored."""
        _check_spec(request)
        spec = request.model_spec
        wanted = spec.version.value if spec.HasField("version") else None
        versions = [one for one in self._manager.versions(spec.name) if wanted in {None, one.number}]
        if not versions:
            which = "any versions" if wanted is None else f"version {wanted}"
            raise ServingError(grpc.StatusCode.NOT_FOUND, f"Could not find {which} of model {spec.name}")
        response = serving_pb2.GetModelStatusResponse()
        for one in versions:
            status = response.model_version_status.add(version=one.number, state=one.state).status
            status.SetInParent()
            if one.error:
                status.error_code, status.error_message = one.error.code.value[0], one.error.message
        return response

    def _reload(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Serve another list of models. Of the requested metrics only the number of loads is counted."""
        if request.config.WhichOneof("config") != "model_config_list":
            what = "ServerModelConfig type not supported by HandleReloadConfigRequest"
            raise invalid_argument(f"{what}. Only ModelConfigList is currently supported")
        loaded = self._manager.reload(request.config.model_config_list)
        response = management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name in sorted(set(request.metric_names)):
            response.metric.add(name=name, int64_value_increase=loaded if name == _READ_COUNT else 0)
        return response


def _refuse(request: Any, context: grpc.ServicerContext) -> Any:
    what = "calls on tf.Example are not served by dermserve.modelserver, the local stand-in for TensorFlow Serving"
    return context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{what}; use Predict, or the real server")


def _check_spec(request: Any) -> None:
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _timeout_ms(context: grpc.ServicerContext) -> int:
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, contrary to grpc's types
    if remaining is None or remaining * 1000 > 2**31 - 1:
        return 0
    return max(int(remaining * 1000), 1)  # 0 would mean no timeout.
