"""`model.tflite` of a version, run when `--prefer_tflite_model` asks for it.

TensorFlow's C library has no entry to its interpreter, so this part alone imports TensorFlow's Python (some five s).
"""

import logging
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dermserve.modelserver._protos import meta_graph_pb2, types_pb2
from dermserve.modelserver.errors import invalid_argument
from dermserve.modelserver.tensors import Tensor, Value, layout_of

MODEL_FILE = "model.tflite"
_logger = logging.getLogger(__name__)


class LiteSession:
    """One interpreter. Calls wait for each other."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load a model.

        Raises:
            ServingError: INVALID_ARGUMENT, it is no TensorFlow Lite model, or has no signatures.
        """
        self._interpreter = _interpreter(path, threads=threads)
        self._lock = threading.Lock()
        self._runners = {name: self._interpreter.get_signature_runner(name) for name in self._names(path)}
        self.signatures: Mapping[str, Any] = {name: _signature(name, run) for name, run in self._runners.items()}

    def run(self, feeds: Mapping[str, Tensor], *, fetches: Sequence[str], timeout_ms: int = 0) -> list[Value]:
        """Feed tensors by name and fetch others, in the order asked. A run that has begun knows no timeout.

        Raises:
            ServingError: INVALID_ARGUMENT, a dtype or shape that does not fit.
        """
        signature = fetches[0].partition("/")[0]
        arrays = {name.partition("/")[2]: _array(tensor.value()) for name, tensor in feeds.items()}
        with self._lock:
            try:
                outputs = self._runners[signature](**arrays)
            except (ValueError, RuntimeError) as error:
                raise invalid_argument(str(error)) from error
            return [_value(outputs[name.partition("/")[2]]) for name in fetches]

    def close(self) -> None:
        """Let the interpreter go; it is freed with this object."""
        self._runners.clear()

    def _names(self, path: Path) -> list[str]:
        names = list(self._interpreter.get_signature_list())
        if not names:
            raise invalid_argument(f"{path} has no signatures; convert it from a SavedModel or a concrete function")
        return names


def _interpreter(path: Path, *, threads: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It announces that it will move to another package.
        from tensorflow.lite.python.interpreter import OpResolverType

        try:
            return _allocated(path, threads=threads, resolver=OpResolverType.AUTO)
        except RuntimeError as error:  # XNNPACK refuses the scales of some int8 models; TensorFlow's own kernels don't.
            _logger.warning("%s runs without XNNPACK, which says: %s", path, error)
            return _allocated(path, threads=threads, resolver=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)


def _allocated(path: Path, *, threads: int, resolver: Any) -> Any:
    from tensorflow.lite.python.interpreter import Interpreter

    try:
        interpreter = Interpreter(str(path), num_threads=threads or None, experimental_op_resolver_type=resolver)
    except ValueError as error:
        raise invalid_argument(f"{path}: {error}") from error
    interpreter.allocate_tensors()
    return interpreter


def _signature(name: str, runner: Any) -> Any:
    """Describe a signature as a SignatureDef whose tensors are named SIGNATURE/ALIAS."""
    signature = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    for details, infos in (
        (runner.get_input_details(), signature.inputs),
        (runner.get_output_details(), signature.outputs),
    ):
        for alias, detail in details.items():
            infos[alias].name = f"{name}/{alias}"
            infos[alias].dtype = _dtype(np.dtype(detail["dtype"]))
            infos[alias].tensor_shape.SetInParent()
            for size in detail["shape_signature"]:
                infos[alias].tensor_shape.dim.add().size = int(size)
    return signature


def _dtype(dtype: np.dtype[Any]) -> int:
    if dtype.kind in "OS":
        return int(types_pb2.DT_STRING)
    names = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}
    return int(types_pb2.DataType.Value(f"DT_{names.get(dtype.name, dtype.name.upper())}"))


def _array(value: Value) -> Any:
    if isinstance(value.data, list):
        return np.array(value.data, dtype=object).reshape(value.shape)
    layout = "<f2" if value.dtype == types_pb2.DT_HALF else layout_of(value.dtype)
    return np.frombuffer(value.data, layout).reshape(value.shape)


def _value(array: Any) -> Value:
    dtype = _dtype(array.dtype)
    data = list(array.ravel()) if dtype == types_pb2.DT_STRING else array.tobytes()
    return Value(dtype, array.shape, data)
