"""The command line: TF Serving's flags under TF Serving's names, with its defaults."""

import dataclasses
import logging
import os
import typing
from collections.abc import Sequence
from dataclasses import dataclass

from dermserve.modelserver.errors import StartError, invalid_argument

_logger = logging.getLogger(__name__)

_IGNORED = {
    "enable_profiler", "enable_signature_method_name_check", "flush_filesystem_caches", "monitoring_config_file",
    "num_tflite_interpreters_per_pool", "num_tflite_pools", "per_process_gpu_memory_fraction",
    "remove_unused_fields_from_bundle_metagraph", "rest_api_enable_cors_support", "rest_api_num_threads",
    "rest_api_port", "rest_api_timeout_in_ms", "thread_pool_factory_config_file", "xla_cpu_compilation_enabled",
}  # fmt: skip
"""Real flags that change nothing here: what they tune does not exist in the stand-in."""
_REFUSED = {"grpc_socket_path", "platform_config_file", "ssl_config_file", "tensorflow_session_config_file",
            "use_alts_credentials"}  # fmt: skip
"""Real flags whose absence would be dangerous or surprising, so they are refused rather than ignored."""


def cores() -> int:
    """Count the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Flags:
    """The effective settings. A field's name is its flag's."""

    port: int = 8500
    """TCP port of the gRPC API; 0 chooses a free one and logs it (TF Serving refuses 0)."""
    host: str = "127.0.0.1"
    """Address to listen on. This stand-in's own: TF Serving always listens on 0.0.0.0."""
    model_config_file: str = ""
    """A ModelServerConfig in text format; the two flags for one model are then ignored."""
    model_config_file_poll_wait_seconds: int = 0
    """How often to read it again; 0 means never."""
    model_name: str = "default"
    """Name of the one model."""
    model_base_path: str = ""
    """Directory of the one model's versions."""
    file_system_poll_wait_seconds: int = 1
    """How often to look for new versions; 0 means once."""
    max_num_load_retries: int = 5
    """How often to retry a load that failed."""
    load_retry_interval_micros: int = 60_000_000
    """Pause before a retry, in microseconds."""
    num_load_threads: int = 0
    """Threads that load; 0 loads on the manager's thread, one version after the other."""
    num_unload_threads: int = 0
    """Accepted; unloading happens on the manager's thread."""
    grpc_max_threads: int = dataclasses.field(default_factory=lambda: 4 * cores())
    """Calls in flight beyond this many are refused with RESOURCE_EXHAUSTED."""
    grpc_channel_arguments: str = ""
    """Comma-separated `name=value` options for the gRPC server, such as grpc.max_connection_age_ms=2000."""
    allow_version_labels_for_unavailable_models: bool = False
    """Let a label that is new point to a version that is not loaded."""
    enable_batching: bool = False
    """Merge concurrent requests of one signature into one run."""
    batching_parameters_file: str = ""
    """BatchingParameters in text format."""
    enable_per_model_batching_parameters: bool = False
    """Read them from `batching_params.pbtxt` in the version directory instead."""
    enable_model_warmup: bool = True
    """Replay a version's warm-up records before it is served."""
    num_request_iterations_for_warmup: int = 0
    """How often to replay each record; 0 means once."""
    enable_grpc_healthcheck_service: bool = False
    """Serve grpc.health.v1."""
    enable_serialization_as_tensor_content: bool = False
    """Answer in `tensor_content`, rather than in `float_val` and its kin."""
    tensorflow_session_parallelism: int = 0
    """Threads for both kinds of parallelism; 0 lets TensorFlow choose."""
    tensorflow_intra_op_parallelism: int = 0
    """Threads that share one operation; 0 lets TensorFlow choose."""
    tensorflow_inter_op_parallelism: int = 0
    """Threads that run operations side by side; 0 lets TensorFlow choose."""
    saved_model_tags: str = "serve"
    """Comma-separated tags of the meta graph to load."""
    prefer_tflite_model: bool = False
    """Run `model.tflite` of a version that has one."""
    version: bool = False
    """Print the versions and exit."""


_TYPES = typing.get_type_hints(Flags)


def parse_flags(arguments: Sequence[str]) -> Flags:
    """Read `--name=value` (also `--name value`, and `--name` alone for a switch).

    An unknown flag is logged and passed over, as TF Serving does.

    Raises:
        StartError: a value of the wrong type, or a flag this stand-in refuses.
    """
    values: dict[str, object] = {}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        name, given, value = argument.removeprefix("--").partition("=")
        if name in _REFUSED:
            raise _refused(name)
        if not argument.startswith("--") or name not in _TYPES:
            _pass_over(argument, name)
            continue
        if not given:
            value = "true" if _TYPES[name] is bool else _next(queue, name)
        values[name] = _convert(name, value)
    return Flags(**values)  # type: ignore[arg-type]


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """Split `--grpc_channel_arguments`; a whole number is passed on as one.

    Raises:
        StartError: an entry without `=`.
    """
    pairs: list[tuple[str, int | str]] = []
    for entry in filter(None, text.split(",")):
        name, found, value = entry.partition("=")
        if not found:
            raise _bad(f"--grpc_channel_arguments: {entry!r} is not of the form name=value")
        pairs.append((name, int(value) if value.lstrip("-").isdecimal() else value))
    return pairs


def _pass_over(argument: str, name: str) -> None:
    if name in _IGNORED:
        _logger.warning("--%s is accepted and changes nothing in this stand-in", name)
    else:
        _logger.error("unknown argument: %s", argument)


def _next(queue: list[str], name: str) -> str:
    if not queue:
        raise _bad(f"--{name} needs a value: --{name}=...")
    return queue.pop(0)


def _convert(name: str, text: str) -> object:
    kind = _TYPES[name]
    if kind is bool and text.lower() in {"true", "1", "false", "0"}:
        return text.lower() in {"true", "1"}
    try:
        return text if kind is str else _number(kind, text)
    except ValueError as error:
        raise _bad(f"Couldn't interpret value {text} for flag {name}.") from error


def _number(kind: object, text: str) -> int:
    if kind is not int:
        raise ValueError(text)
    return int(text)


def _refused(name: str) -> StartError:
    return _bad(
        f"--{name} does nothing in this stand-in, and serving without it would not be what was asked; remove it"
    )


def _bad(message: str) -> StartError:
    error = invalid_argument(message)
    return StartError(error.code, error.message)
