"""TensorFlow's C library (tensorflow/c/c_api.h), as far as the server needs it, through ctypes.

This is the loader and the session that TF Serving itself uses, so a wrong tensor, a corrupt file or a failing kernel
gives TF Serving's own code and message; TensorFlow's Python loader says other things. A foreign call releases the
interpreter lock, so calls run side by side.
"""

import ctypes
import functools
import sys
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_void_p
from types import TracebackType
from typing import Any

from dermserve.modelserver import _protos
from dermserve.modelserver.errors import from_code


class Buffer(ctypes.Structure):
    """TF_Buffer: bytes that belong to somebody else."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


class Output(ctypes.Structure):
    """TF_Output: one output of one operation of a graph."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


_NAMED_TENSORS = (POINTER(Output), POINTER(c_void_p), c_int)
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "TF_Version": (c_char_p, []),
    "TF_NewStatus": (c_void_p, []),
    "TF_DeleteStatus": (None, [c_void_p]),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewBuffer": (POINTER(Buffer), []),
    "TF_DeleteBuffer": (None, [POINTER(Buffer)]),
    "TF_NewGraph": (c_void_p, []),
    "TF_DeleteGraph": (None, [c_void_p]),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_OperationNumOutputs": (c_int, [c_void_p]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_DeleteSessionOptions": (None, [c_void_p]),
    "TF_SetConfig": (None, [c_void_p, c_char_p, c_size_t, c_void_p]),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [c_void_p, POINTER(Buffer), c_char_p, POINTER(c_char_p), c_int, c_void_p, POINTER(Buffer), c_void_p],
    ),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    "TF_SessionRun": (
        None,
        # session, run options; inputs, tensors, count; outputs, tensors, count; targets, count, metadata, status
        [c_void_p, POINTER(Buffer), *_NAMED_TENSORS, *_NAMED_TENSORS, c_void_p, c_int, c_void_p, c_void_p],
    ),
    "TF_AllocateTensor": (c_void_p, [c_int, POINTER(c_int64), c_int, c_size_t]),
    "TF_TensorFromProto": (None, [POINTER(Buffer), c_void_p, c_void_p]),
    "TF_DeleteTensor": (None, [c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_TensorByteSize": (c_size_t, [c_void_p]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
}


@functools.cache
def library() -> Any:
    """Load the C library once (0.3 to 0.5 s) and declare the functions used.

    Raises:
        OSError: the installed TensorFlow carries no C library this dermserve can load.
    """
    suffix = ".2.dylib" if sys.platform == "darwin" else ".so.2"
    names = [f"libtensorflow_framework{suffix}", f"libtensorflow_cc{suffix}"]
    directory = _protos.tensorflow_directory()
    # No RTLD_GLOBAL: it carries an OpenSSL of its own, and Python's hashlib would crash on that.
    loaded = [ctypes.CDLL(str(directory / name)) for name in names][-1]
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def version() -> str:
    """Name TensorFlow's version."""
    return str(library().TF_Version().decode())


class Status:
    """A TF_Status to hand to a call; leaving the `with` block raises what the call reported.

    Raises:
        ServingError: the call failed.
    """

    def __enter__(self) -> c_void_p:
        self._status = c_void_p(library().TF_NewStatus())
        return self._status

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        code = library().TF_GetCode(self._status)
        message = library().TF_Message(self._status).decode("utf-8", "replace")
        library().TF_DeleteStatus(self._status)
        if error is None and code != 0:
            raise from_code(code, message)


def buffer_of(data: bytes) -> Buffer:
    """View bytes as a TF_Buffer. The caller keeps `data` alive while the buffer is used."""
    return Buffer(ctypes.cast(c_char_p(data), c_void_p), len(data), None)


__all__ = ["Buffer", "Output", "Status", "buffer_of", "byref", "library", "version"]
