"""Start, serve, stop: the life of the process."""

import argparse
import functools
import logging
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from dermserve.modelserver import protos, services, tensorflow_c
from dermserve.modelserver.config import list_models, read_models
from dermserve.modelserver.errors import ServingError, invalid_argument
from dermserve.modelserver.flags import parse_flags
from dermserve.modelserver.manager import Manager
from dermserve.modelserver.servable import load

_logger = logging.getLogger(__name__)
_REFUSING_THREADS = 8  # Refuse calls while all other threads are busy.
_DRAIN_S = 30.0
_START_FAILED = 255


def run(argv: Sequence[str], *, stop: threading.Event) -> int:
    """Run the model server until `stop` is set. Return the exit code: 0, or 255 when it could not start."""
    logging.basicConfig(
        format="%(asctime)s: %(levelname).1s %(name)s:%(lineno)d] %(message)s", level=logging.INFO, stream=sys.stderr
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow turns oneDNN on by itself only on some processors (AVX-512 VNNI); others gain as much.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    try:
        serve(parse_flags(argv), stop=stop)
    except ServingError as error:
        if not stop.is_set():
            sys.stderr.write(f"Failed to start server. Error: {error}\n")
            return _START_FAILED
    return 0


def serve(flags: argparse.Namespace, *, stop: threading.Event) -> None:
    """Serve until `stop` is set, and let the calls in flight finish.

    Raises:
        ServingError: it can't start, or was stopped before it could.
    """
    if flags.version:
        sys.stdout.write(f"dermserve.modelserver, a stand-in\nTensorFlow Library: {tensorflow_c.version()}\n")
        return
    models, server = _initial_models(flags), None
    manager = Manager(load=functools.partial(load, flags=flags), flags=flags, stop=stop)
    try:
        manager.start(models)
        server = _listen(manager, flags)
        _poll_config(manager, flags, stop=stop)
    finally:
        _logger.info("Stopping: calls in flight may finish within %.0f s", _DRAIN_S)
        if server is not None:
            server.stop(_DRAIN_S).wait()
        manager.stop()


def _initial_models(flags: argparse.Namespace) -> Any:
    if flags.model_config_file:
        return read_models(Path(flags.model_config_file))
    if flags.model_base_path:
        return list_models(**{flags.model_name: flags.model_base_path})
    raise invalid_argument("Both server_options.model_base_path and server_options.model_config_file are empty!")


def _listen(manager: Manager, flags: argparse.Namespace) -> grpc.Server:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(flags.grpc_max_threads + _REFUSING_THREADS, "grpc"), options=options)
    slots = threading.Semaphore(flags.grpc_max_threads)
    prediction, model = services.PredictionService(manager, slots=slots), services.ModelService(manager, slots=slots)
    protos.prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(prediction, server)
    protos.model_service_pb2_grpc.add_ModelServiceServicer_to_server(model, server)
    if flags.enable_grpc_healthcheck_service:
        checks = health.HealthServicer()
        for name in ("", "PredictionService", "ModelService"):  # As TensorFlow Serving, whatever the models do.
            checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    try:
        port = server.add_insecure_port(f"{flags.host}:{flags.port}")
    except RuntimeError as error:
        raise invalid_argument(f"can't listen on {flags.host}:{flags.port}: is the port taken? ({error})") from error
    server.start()
    _logger.info("Running gRPC ModelServer at %s:%d ...", flags.host, port)
    return server


def _poll_config(manager: Manager, flags: argparse.Namespace, *, stop: threading.Event) -> None:
    """Reload the configuration file at each interval, if one is set, until `stop` is set."""
    period = flags.model_config_file_poll_wait_seconds
    while not stop.wait(period if period > 0 and flags.model_config_file else None):
        try:
            manager.reload(read_models(Path(flags.model_config_file)))
        except ServingError as error:
            _logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", error)
