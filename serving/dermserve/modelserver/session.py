"""A loaded SavedModel and its tensors, through TensorFlow's C library (tensorflow/c/c_api.h) by ctypes.

TensorFlow Serving uses the same loader and session, so errors have the same codes and messages; TensorFlow's Python
loader gives others. ctypes releases the interpreter lock during a call, so calls run side by side.
"""

import contextlib
import ctypes
import functools
import importlib.util
import math
import os
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from dermserve.modelserver.errors import CODES, ServingError, invalid_argument
from dermserve.tfserving.v1 import session_pb2, tensor_pb2

_STRING_BYTES = 24  # sizeof(TF_TString), fixed by TensorFlow's ABI
_MAX_ELEMENTS = 2**29  # TensorFlow Serving fills any size, even terabytes, for a message of twenty bytes.
_FIELDS = {
    tensor_pb2.DATA_TYPE_FLOAT: ("<f4", "float_val"),
    tensor_pb2.DATA_TYPE_DOUBLE: ("<f8", "double_val"),
    tensor_pb2.DATA_TYPE_UINT8: ("u1", "int_val"),
    tensor_pb2.DATA_TYPE_INT32: ("<i4", "int_val"),
    tensor_pb2.DATA_TYPE_INT64: ("<i8", "int64_val"),
}
"""For each dtype but strings the layout of its elements in memory, and the field of TensorProto that carries them."""


class Buffer(ctypes.Structure):
    """TF_Buffer: bytes that another object owns."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


class Output(ctypes.Structure):
    """TF_Output: one output of one operation of a graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


_BUFFER = POINTER(Buffer)
_NAMED_TENSORS = (POINTER(Output), POINTER(c_void_p), c_int)
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "TF_NewStatus": (c_void_p, []),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewBuffer": (_BUFFER, []),
    "TF_DeleteBuffer": (None, [_BUFFER]),
    "TF_NewGraph": (c_void_p, []),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_OperationNumOutputs": (c_int, [c_void_p]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_SetConfig": (None, [c_void_p, c_char_p, c_size_t, c_void_p]),
    "TF_LoadSessionFromSavedModel": (
        c_void_p, [c_void_p, _BUFFER, c_char_p, POINTER(c_char_p), c_int, c_void_p, _BUFFER, c_void_p]
    ),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    # Session, run options; inputs, tensors, count; outputs, tensors, count; targets, count, metadata, status.
    "TF_SessionRun": (
        None, [c_void_p, _BUFFER, *_NAMED_TENSORS, *_NAMED_TENSORS, c_void_p, c_int, c_void_p, c_void_p]
    ),
    "TF_AllocateTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_TensorFromProto": (None, [_BUFFER, c_void_p, c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_TensorByteSize": (c_size_t, [c_void_p]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
    **{f"TF_Delete{kind}": (None, [c_void_p]) for kind in ("Graph", "SessionOptions", "Status", "Tensor")},
}  # fmt: skip
"""Result and arguments of each function that is used."""


def _tensorflow_directory() -> Path:
    """Find the installed TensorFlow without importing it. Raises ModuleNotFoundError: it is not installed."""
    spec = importlib.util.find_spec("tensorflow")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the model server needs TensorFlow: pip install '.[local]' in a clone")
    return Path(spec.submodule_search_locations[0])


@functools.cache
def library() -> Any:
    """Load the C library once (0.3 to 0.5 s) and declare the functions used."""
    suffix = ".2.dylib" if sys.platform == "darwin" else ".so.2"
    names = [f"libtensorflow_framework{suffix}", f"libtensorflow_cc{suffix}"]
    directory = _tensorflow_directory()
    # Without RTLD_GLOBAL: the library contains its own OpenSSL, on which Python's hashlib would crash.
    loaded = [ctypes.CDLL(str(directory / name)) for name in names][-1]
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


@contextlib.contextmanager
def checked_status() -> Iterator[c_void_p]:
    """Give a TF_Status for a call; at the end of the block, raise the error that it reports."""
    status = c_void_p(library().TF_NewStatus())
    try:
        yield status
        code, message = library().TF_GetCode(status), library().TF_Message(status).decode("utf-8", "replace")
    finally:
        library().TF_DeleteStatus(status)
    if code != 0:
        raise ServingError(CODES[code], message)


def buffer_of(data: bytes) -> Buffer:
    """View bytes as a TF_Buffer. The caller keeps `data` alive while the buffer is used."""
    return Buffer(ctypes.cast(c_char_p(data), c_void_p), len(data), None)


class Tensor:
    """One TF_Tensor, freed with this object."""

    def __init__(self, handle: int) -> None:
        self.handle = c_void_p(handle)
        weakref.finalize(self, library().TF_DeleteTensor, self.handle)

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension."""
        return tuple(library().TF_Dim(self.handle, axis) for axis in range(library().TF_NumDims(self.handle)))

    def content(self) -> bytes:
        """Copy the elements, in memory order; for strings, their descriptors."""
        if 0 in self.shape:  # Without a buffer, asking for its size ends the process.
            return b""
        return ctypes.string_at(library().TF_TensorData(self.handle), library().TF_TensorByteSize(self.handle))

    def strings(self) -> list[bytes]:
        """Copy the strings."""
        tf, size = library(), len(self.content())
        addresses = [tf.TF_TensorData(self.handle) + at for at in range(0, size, _STRING_BYTES)]
        return [ctypes.string_at(tf.TF_StringGetDataPointer(at), tf.TF_StringGetSize(at)) for at in addresses]


def parse(proto: Any, *, alias: str) -> Tensor:
    """Read a TensorProto as TensorFlow does: the last value fills missing ones, unless that would be very many."""
    if math.prod(max(dim.size, 0) for dim in proto.tensor_shape.dim) > _MAX_ELEMENTS:
        raise invalid_argument(f"tensor parsing error: {alias}")
    tf = library()
    tensor = Tensor(tf.TF_AllocateTensor(tensor_pb2.DATA_TYPE_FLOAT, None, 0, 4))
    serialized = proto.SerializeToString()
    try:
        with checked_status() as status:
            tf.TF_TensorFromProto(byref(buffer_of(serialized)), tensor.handle, status)
    except ServingError as error:
        raise invalid_argument(f"tensor parsing error: {alias}") from error
    return tensor


def render(tensor: Tensor, *, into: Any) -> None:
    """Fill the TensorProto `into`, in `float_val` and the like."""
    into.dtype = library().TF_TensorType(tensor.handle)
    into.tensor_shape.SetInParent()
    for size in tensor.shape:
        into.tensor_shape.dim.add().size = size
    if into.dtype == tensor_pb2.DATA_TYPE_STRING:
        into.string_val.extend(tensor.strings())
        return
    if into.dtype not in _FIELDS:
        what = f"this local stand-in can't answer a tensor of dtype {into.dtype}"
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"{what} (tensorflow/core/framework/types.proto)")
    layout, field = _FIELDS[into.dtype]
    getattr(into, field).extend(np.frombuffer(tensor.content(), layout).tolist())


class Session:
    """A SavedModel in memory. Any number of threads may call `run`; call `close` after the last one has returned."""

    def __init__(self, path: Path, *, config: Any) -> None:
        """Load the meta graph for serving; a `ServingError` has TensorFlow's code and message."""
        self._graph = c_void_p(library().TF_NewGraph())
        try:
            self._session, self.signatures = _load(path, config=config, graph=self._graph)
        except ServingError:
            library().TF_DeleteGraph(self._graph)
            raise
        self._output = functools.cache(functools.partial(_resolve, self._graph))

    def run(self, feeds: Mapping[str, Tensor], *, fetches: Sequence[str], timeout_ms: int = 0) -> list[Tensor]:
        """Feed tensors by name and fetch others, in the given order. A timeout of 0 waits for ever."""
        inputs = (Output * len(feeds))(*[self._output(name) for name in feeds])
        tensors = (c_void_p * len(feeds))(*[tensor.handle for tensor in feeds.values()])
        outputs = (Output * len(fetches))(*[self._output(name) for name in fetches])
        results = (c_void_p * len(fetches))()
        options = session_pb2.RunOptions(timeout_in_ms=timeout_ms).SerializeToString()
        with checked_status() as status:
            library().TF_SessionRun(
                *(self._session, byref(buffer_of(options)), inputs, tensors, len(feeds)),
                *(outputs, results, len(fetches), None, 0, None, status),
            )
        return [Tensor(handle) for handle in results if handle is not None]

    def close(self) -> None:
        """Free the session and its graph."""
        with checked_status() as status:
            library().TF_CloseSession(self._session, status)
        with checked_status() as status:
            library().TF_DeleteSession(self._session, status)
        library().TF_DeleteGraph(self._graph)


def _load(path: Path, *, config: Any, graph: c_void_p) -> tuple[c_void_p, dict[str, Any]]:
    tf, tags = library(), (c_char_p * 1)(b"serve")
    serialized = config.SerializeToString()
    options, meta_graph = c_void_p(tf.TF_NewSessionOptions()), tf.TF_NewBuffer()
    try:
        with checked_status() as status:
            tf.TF_SetConfig(options, serialized, len(serialized), status)
        where = os.fsencode(path)
        with checked_status() as status:
            session = tf.TF_LoadSessionFromSavedModel(options, None, where, tags, 1, graph, meta_graph, status)
        content = meta_graph.contents
        whole = session_pb2.MetaGraphDef.FromString(ctypes.string_at(content.data, content.length))
        # Copy only the signatures: the graph beside them is as large as the model.
        return c_void_p(session), dict(session_pb2.MetaGraphDef(signature_def=whole.signature_def).signature_def)
    finally:
        tf.TF_DeleteBuffer(meta_graph)
        tf.TF_DeleteSessionOptions(options)


def _resolve(graph: c_void_p, name: str) -> Output:
    operation, _, index = name.rpartition(":")
    if not operation or not index.isdecimal():
        operation, index = name, "0"
    found = library().TF_GraphOperationByName(graph, operation.encode())
    if found is None:
        where = "specified in either feed_devices or fetch_devices was not found in the Graph"
        raise invalid_argument(f"Tensor {operation}:{index}, {where}")
    count = library().TF_OperationNumOutputs(found)
    if int(index) >= count:
        raise invalid_argument(f"FetchOutputs {name}: output index too large, must be < {count}")
    return Output(found, int(index))
