"""TensorFlow Serving's own messages, imported without running TensorFlow's Python package, which takes seconds."""

import importlib.util
import sys
import types
from unittest import mock


def _bare_tensorflow() -> types.ModuleType:
    """An empty package in TensorFlow's place, for the generated modules, which import `tensorflow.core...`."""
    spec = importlib.util.find_spec("tensorflow")
    bare = types.ModuleType("tensorflow")
    bare.__path__ = list(spec.submodule_search_locations)
    return bare


with mock.patch.dict(sys.modules):
    sys.modules.setdefault("tensorflow", _bare_tensorflow())
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_management_pb2,
        predict_pb2,
        prediction_log_pb2,
    )

__all__ = [
    "get_model_metadata_pb2", "get_model_status_pb2", "model_management_pb2", "predict_pb2", "prediction_log_pb2",
]  # fmt: skip
