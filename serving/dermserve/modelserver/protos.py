"""TensorFlow Serving's own messages, imported without running TensorFlow's Python package.

The generated modules import `tensorflow.core...`, which takes seconds and hundreds of megabytes; the server calls
TensorFlow's C library (`session`). While they are imported, an empty package with the same path replaces `tensorflow`.
"""

import contextlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path


def tensorflow_directory() -> Path:
    """Find the installed TensorFlow without importing it. Raises ModuleNotFoundError: it is not installed."""
    spec = (
        importlib.util.find_spec("tensorflow")
        if "tensorflow" not in sys.modules
        else sys.modules["tensorflow"].__spec__
    )
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the model server needs TensorFlow: pip install '.[local]' in a clone")
    return Path(next(iter(spec.submodule_search_locations)))


@contextlib.contextmanager
def _bare_tensorflow() -> Iterator[None]:
    if "tensorflow" in sys.modules:
        yield
        return
    bare = types.ModuleType("tensorflow")
    bare.__path__ = [str(tensorflow_directory())]
    sys.modules["tensorflow"] = bare
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


with _bare_tensorflow():
    from tensorflow.core.framework import types_pb2
    from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_log_pb2,
        prediction_service_pb2_grpc,
    )
    from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

__all__ = [
    "config_pb2", "file_system_storage_path_source_pb2", "get_model_metadata_pb2", "get_model_status_pb2",
    "meta_graph_pb2", "model_management_pb2", "model_server_config_pb2", "model_service_pb2_grpc", "predict_pb2",
    "prediction_log_pb2", "prediction_service_pb2_grpc", "tensorflow_directory", "types_pb2",
]  # fmt: skip
