"""The command line: TensorFlow Serving's flags under TensorFlow Serving's names, with its defaults."""

import argparse
import logging
import os
from collections.abc import Sequence
from typing import Any, NoReturn

from dermserve.modelserver.errors import invalid_argument

_logger = logging.getLogger(__name__)


def usable_cores() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


SERVED: dict[str, tuple[bool | int | str, str]] = {
    "port": (8500, "TCP port of the gRPC API; 0 takes a free one and logs it (TensorFlow Serving refuses 0)"),
    "host": ("127.0.0.1", "address to listen on; the stand-in's own flag: TensorFlow Serving listens on 0.0.0.0"),
    "model_config_file": ("", "ModelServerConfig in text format; the two flags for one model are then ignored"),
    "model_config_file_poll_wait_seconds": (0, "seconds between two reads of it; 0 means once"),
    "model_name": ("default", "name of the one model"),
    "model_base_path": ("", "directory of the one model's versions"),
    "file_system_poll_wait_seconds": (1, "seconds between two scans for new versions; 0 means once"),
    "max_num_load_retries": (5, "retries of a load that failed"),
    "load_retry_interval_micros": (60_000_000, "pause before a retry, in microseconds"),
    "num_load_threads": (0, "0 loads one version after the other; any other number loads each on a thread of its own"),
    "grpc_max_threads": (4 * usable_cores(), "calls in flight beyond this many are refused with RESOURCE_EXHAUSTED"),
    "allow_version_labels_for_unavailable_models": (False, "let a new label point to a version that is not loaded"),
    "enable_model_warmup": (True, "replay a version's warm-up records before it is served"),
    "enable_grpc_healthcheck_service": (False, "serve grpc.health.v1"),
    "tensorflow_intra_op_parallelism": (0, "threads that share one operation; 0 lets TensorFlow choose"),
    "tensorflow_inter_op_parallelism": (0, "threads that run operations in parallel; 0 lets TensorFlow choose"),
}
"""The flags that work here: default and help."""

REFUSED = {
    "batching_parameters_file", "enable_batching", "enable_per_model_batching_parameters",
    "enable_serialization_as_tensor_content", "grpc_socket_path", "monitoring_config_file",
    "num_tflite_interpreters_per_pool", "num_tflite_pools", "platform_config_file", "prefer_tflite_model",
    "rest_api_enable_cors_support", "rest_api_num_threads", "rest_api_port", "rest_api_timeout_in_ms",
    "saved_model_tags", "ssl_config_file", "tensorflow_session_config_file", "use_alts_credentials",
}  # fmt: skip
"""Flags of TensorFlow Serving that callers would notice. The server does not start with them."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise invalid_argument(message)


def parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Read `--name=value` (also `--name value`, and `--name` alone for a switch) into an attribute for each flag.

    An unknown flag is logged and ignored, as in TensorFlow Serving; so are its flags that tune what does not exist
    here. A refused one raises INVALID_ARGUMENT.
    """
    about = "Run the local stand-in for TensorFlow Serving, with TensorFlow Serving's flags and defaults."
    parser = _Parser(prog="python -m dermserve.modelserver", description=about, allow_abbrev=False)
    for name, (default, text) in SERVED.items():
        kind: Any = {bool: _boolean, int: _number}.get(type(default), str)
        more: Any = {"nargs": "?", "const": True} if kind is _boolean else {}
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default: {default!r})", **more)
    flags, others = parser.parse_known_args(arguments)
    for argument in others:
        name, _, value = argument.removeprefix("--").partition("=")
        if name in REFUSED and value.lower() not in {"false", "0", "serve"}:  # what the stand-in does anyway
            what = f"--{name} is not supported by dermserve.modelserver, the local stand-in"
            raise invalid_argument(f"{what}. Remove it, or run the real server: the image tensorflow/serving")
        _logger.warning("unknown argument: %s (it changes nothing in this stand-in)", argument)
    if not 0 <= flags.port < 2**16 or flags.grpc_max_threads < 1 or flags.tensorflow_intra_op_parallelism < 0:
        least = "--grpc_max_threads at least 1, and --tensorflow_intra_op_parallelism at least 0"
        raise invalid_argument(f"--port must be in 0 to 65535, {least}")
    return flags


def _number(text: str) -> int:
    if abs(value := int(text)) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text!r} is too large")
    return value


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "1", "false", "0"}:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in {"true", "1"}
