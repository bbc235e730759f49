"""Start, serve, stop: the life of the process, in one place."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from dermserve.modelserver import _library, _protos, services
from dermserve.modelserver._signals import Stop
from dermserve.modelserver.batching import Batching
from dermserve.modelserver.batching_parameters import read_parameters
from dermserve.modelserver.config import listed_models, read_config, single_model_config
from dermserve.modelserver.core import Core
from dermserve.modelserver.errors import ServingError, StartError, invalid_argument
from dermserve.modelserver.flags import Flags, channel_arguments, cores, parse_flags
from dermserve.modelserver.manager import LoadOptions, Manager
from dermserve.modelserver.servable import Servable, ServableOptions, load, session_config

_logger = logging.getLogger(__name__)
_SPARE_THREADS = 8  # They answer the calls that are turned away while all others run.
_DRAIN_S = 30.0
_START_FAILED = 255
_REHEARSAL_S = 5.0


def run(argv: Sequence[str], *, stop: Stop) -> int:
    """Run the model server until it is asked to stop; give the exit code: 0 once it was, 255 if it could not start."""
    logging.basicConfig(
        format="%(asctime)s: %(levelname).1s %(name)s:%(lineno)d] %(message)s", level=logging.INFO, stream=sys.stderr
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow's own default is on for new processors alone, though older ones gain as much.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        flags = parse_flags(argv)
        if flags.version:
            sys.stdout.write(f"dermserve.modelserver, a stand-in\nTensorFlow Library: {_library.version()}\n")
            return 0
        _serve(flags, stop=stop)
    except ServingError as error:
        if not stop.asked.is_set():
            sys.stderr.write(f"Failed to start server. Error: {error}\n")
            return _START_FAILED
    return 0


def _serve(flags: Flags, *, stop: Stop) -> None:
    config = _initial_config(flags)
    batching = _build_batching(flags)
    core = _build_core(flags, batching)
    stop.then(core.let_go)
    server = None
    try:
        core.start(config.model_config_list, initial_threads=4 * cores())
        server = _listen(core, flags)
        _poll_config(core, flags, stop=stop)
    finally:
        _stop(server, core, batching)


def _initial_config(flags: Flags) -> Any:
    if flags.model_config_file:
        config = read_config(Path(flags.model_config_file))
        if config.WhichOneof("config") == "custom_model_config":
            raise _start_error("custom_model_config is not served by this stand-in; list models in model_config_list")
        return config
    if flags.model_base_path:
        return single_model_config(flags.model_name, base_path=flags.model_base_path)
    raise _start_error("Both server_options.model_base_path and server_options.model_config_file are empty!")


def _build_batching(flags: Flags) -> Batching | None:
    if not flags.enable_batching:
        return None
    path = Path(flags.batching_parameters_file) if flags.batching_parameters_file else None
    return Batching(read_parameters(path), per_model=flags.enable_per_model_batching_parameters)


def _build_core(flags: Flags, batching: Batching | None) -> Core:
    parallelism = flags.tensorflow_session_parallelism
    options = ServableOptions(
        session=session_config(
            intra_op=flags.tensorflow_intra_op_parallelism or parallelism,
            inter_op=flags.tensorflow_inter_op_parallelism or parallelism,
        ),
        tags=tuple(flags.saved_model_tags.split(",")),
        warmup=flags.enable_model_warmup,
        warmup_iterations=flags.num_request_iterations_for_warmup,
        batching=batching,
        prefer_lite=flags.prefer_tflite_model,
        as_content=flags.enable_serialization_as_tensor_content,
    )

    def load_version(model: str, version: int, path: Path) -> Servable:
        _logger.info("Loading servable version {name: %s version: %d} from %s", model, version, path)
        return load(path, options=options)

    retries = LoadOptions(
        threads=flags.num_load_threads,
        retries=flags.max_num_load_retries,
        retry_interval_s=flags.load_retry_interval_micros / 1e6,
    )
    return Core(
        Manager(load=load_version, options=retries),
        poll_wait_s=flags.file_system_poll_wait_seconds,
        allow_unavailable_labels=flags.allow_version_labels_for_unavailable_models,
    )


def _listen(core: Core, flags: Flags) -> grpc.Server:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    pool = ThreadPoolExecutor(flags.grpc_max_threads + _SPARE_THREADS, "grpc")
    server = grpc.server(pool, options=[*options, *channel_arguments(flags.grpc_channel_arguments)])
    slots = services.Slots(flags.grpc_max_threads)
    prediction, model = services.PredictionService(core, slots=slots), services.ModelService(core, slots=slots)
    _protos.prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    _protos.model_service_pb2_grpc.add_ModelServiceServicer_to_server(model, server)
    if flags.enable_grpc_healthcheck_service:
        health_pb2_grpc.add_HealthServicer_to_server(services.HealthService(), server)
    try:
        port = server.add_insecure_port(f"{flags.host}:{flags.port}")
    except RuntimeError as error:
        raise _start_error(f"can't listen on {flags.host}:{flags.port}: is the port taken? ({error})") from error
    server.start()
    _rehearse(f"{flags.host}:{port}")
    _logger.info("Running gRPC ModelServer at %s:%d ...", flags.host, port)
    return server


def _rehearse(address: str) -> None:
    """Answer a Predict of our own, with a photo of zeros for no model: the first call to a server pays for more.

    Starting a thread and making the classes of messages take milliseconds, which a small model's first caller would
    notice. What a model's own first call costs, its warm-up pays.
    """
    request = _protos.predict_pb2.PredictRequest(model_spec={"name": "rehearsal"})
    request.inputs["images"].tensor_content = bytes(224 * 224 * 3)
    with grpc.insecure_channel(address) as channel, contextlib.suppress(grpc.RpcError):
        stub = _protos.prediction_service_pb2_grpc.PredictionServiceStub(channel)
        stub.Predict(request, timeout=_REHEARSAL_S)


def _poll_config(core: Core, flags: Flags, *, stop: Stop) -> None:
    """Read the configuration again and again, if that is asked for, until asked to stop."""
    period = flags.model_config_file_poll_wait_seconds
    while not stop.asked.wait(period if period > 0 and flags.model_config_file else None):
        try:
            core.reload(listed_models(read_config(Path(flags.model_config_file))))
        except ServingError as error:
            _logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", error)


def _stop(server: grpc.Server | None, core: Core, batching: Batching | None) -> None:
    _logger.info("Stopping: calls in flight may finish within %.0f s", _DRAIN_S)
    ended = server.stop(_DRAIN_S) if server else None
    core.let_go()
    if ended:
        ended.wait()
    if batching:
        batching.stop()
    core.stop()


def _start_error(message: str) -> StartError:
    error = invalid_argument(message)
    return StartError(error.code, error.message)
