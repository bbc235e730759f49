"""TensorFlow's C library (tensorflow/c/c_api.h) through ctypes, as far as the server needs it.

TensorFlow Serving uses the same loader and session, so a wrong tensor, a corrupt file or a failing kernel gives the
same code and message; TensorFlow's Python loader gives others. ctypes releases the interpreter lock during a call, so
calls run side by side.
"""

import contextlib
import ctypes
import functools
import sys
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_void_p
from typing import Any

from dermserve.modelserver import protos
from dermserve.modelserver.errors import CODES, ServingError


class Buffer(ctypes.Structure):
    """TF_Buffer: bytes that another object owns."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


class Output(ctypes.Structure):
    """TF_Output: one output of one operation of a graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


_BUFFER = POINTER(Buffer)
_NAMED_TENSORS = (POINTER(Output), POINTER(c_void_p), c_int)
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "TF_Version": (c_char_p, []),
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


@functools.cache
def library() -> Any:
    """Load the C library once (0.3 to 0.5 s) and declare the functions used."""
    suffix = ".2.dylib" if sys.platform == "darwin" else ".so.2"
    names = [f"libtensorflow_framework{suffix}", f"libtensorflow_cc{suffix}"]
    directory = protos.tensorflow_directory()
    # Without RTLD_GLOBAL: the library contains its own OpenSSL, on which Python's hashlib would crash.
    loaded = [ctypes.CDLL(str(directory / name)) for name in names][-1]
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def version() -> str:
    """Name TensorFlow's version."""
    return str(library().TF_Version().decode())


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
