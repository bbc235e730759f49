"""TensorProto in, TensorProto out: TensorFlow reads the one, this module writes the other in TF Serving's two forms."""

import ctypes
import math
import weakref
from ctypes import c_void_p
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from dermserve.modelserver._library import Status, buffer_of, byref, library
from dermserve.modelserver._protos import tensor_pb2, types_pb2
from dermserve.modelserver.errors import ServingError, invalid_argument

_STRING_BYTES = 24  # sizeof(TF_TString), fixed by TensorFlow's ABI
_MAX_ELEMENTS = 2**29  # TF Serving would fill terabytes for a message of twenty bytes.
_FIELDS: dict[int, tuple[str, str]] = {
    types_pb2.DT_FLOAT: ("<f4", "float_val"),
    types_pb2.DT_DOUBLE: ("<f8", "double_val"),
    types_pb2.DT_HALF: ("<u2", "half_val"),
    types_pb2.DT_BFLOAT16: ("<u2", "half_val"),
    types_pb2.DT_COMPLEX64: ("<f4", "scomplex_val"),
    types_pb2.DT_COMPLEX128: ("<f8", "dcomplex_val"),
    types_pb2.DT_BOOL: ("?", "bool_val"),
    types_pb2.DT_INT8: ("i1", "int_val"),
    types_pb2.DT_UINT8: ("u1", "int_val"),
    types_pb2.DT_INT16: ("<i2", "int_val"),
    types_pb2.DT_UINT16: ("<u2", "int_val"),
    types_pb2.DT_INT32: ("<i4", "int_val"),
    types_pb2.DT_QINT8: ("i1", "int_val"),
    types_pb2.DT_QUINT8: ("u1", "int_val"),
    types_pb2.DT_QINT32: ("<i4", "int_val"),
    types_pb2.DT_INT64: ("<i8", "int64_val"),
    types_pb2.DT_UINT32: ("<u4", "uint32_val"),
    types_pb2.DT_UINT64: ("<u8", "uint64_val"),
}
"""For each dtype the layout of its elements in memory and the field of TensorProto that carries them."""


@dataclass(frozen=True)
class Value:
    """A tensor's content in Python: `data` is the elements in memory order, or for strings a list of them."""

    dtype: int
    shape: tuple[int, ...]
    data: bytes | list[bytes]


class Tensor:
    """One TF_Tensor, freed with this object."""

    def __init__(self, handle: int) -> None:
        self.handle = c_void_p(handle)
        weakref.finalize(self, library().TF_DeleteTensor, self.handle)

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension."""
        return tuple(library().TF_Dim(self.handle, axis) for axis in range(library().TF_NumDims(self.handle)))

    def value(self) -> Value:
        """Copy the content out."""
        tf, shape = library(), self.shape
        dtype = tf.TF_TensorType(self.handle)
        if 0 in shape:  # It may have no buffer, and asking a tensor without one for its size ends the process.
            return Value(dtype, shape, [] if dtype == types_pb2.DT_STRING else b"")
        size, address = tf.TF_TensorByteSize(self.handle), tf.TF_TensorData(self.handle)
        if dtype == types_pb2.DT_STRING:
            return Value(dtype, shape, [_string_at(address + at) for at in range(0, size, _STRING_BYTES)])
        return Value(dtype, shape, ctypes.string_at(address, size))


def _string_at(address: int) -> bytes:
    tf = library()
    return ctypes.string_at(tf.TF_StringGetDataPointer(address), tf.TF_StringGetSize(address))


def parse(proto: Any, *, alias: str) -> Tensor:
    """Read a TensorProto as TensorFlow reads it: values missing at the end repeat the last one, too many are dropped.

    Raises:
        ServingError: INVALID_ARGUMENT, it is no tensor (no dtype, a negative dimension, content of the wrong length),
            or one so large that only the repetition of its last value could fill it.
    """
    if math.prod(max(dim.size, 0) for dim in proto.tensor_shape.dim) > _MAX_ELEMENTS:
        raise invalid_argument(f"tensor parsing error: {alias}")
    tf = library()
    tensor = Tensor(tf.TF_AllocateTensor(types_pb2.DT_FLOAT, None, 0, 4))
    serialized = proto.SerializeToString()
    try:
        with Status() as status:
            tf.TF_TensorFromProto(byref(buffer_of(serialized)), tensor.handle, status)
    except ServingError as error:
        raise invalid_argument(f"tensor parsing error: {alias}") from error
    return tensor


def render(value: Value, *, as_content: bool, into: Any) -> None:
    """Fill the TensorProto `into`, in `float_val` and its kin, or in `tensor_content` when `as_content` is set.

    Raises:
        ServingError: UNIMPLEMENTED, a dtype that has no place in a TensorProto here.
    """
    into.dtype = value.dtype
    into.tensor_shape.SetInParent()
    for size in value.shape:
        into.tensor_shape.dim.add().size = size
    if isinstance(value.data, list):
        if as_content:
            into.tensor_content = b"".join([_varint(len(item)) for item in value.data]) + b"".join(value.data)
        else:
            into.string_val.extend(value.data)
    elif as_content:
        into.tensor_content = value.data
    else:
        layout, field = _field(value.dtype)
        getattr(into, field).extend(np.frombuffer(value.data, layout).tolist())


def proto_of(value: Value) -> Any:
    """Render as a new TensorProto that `parse` reads back."""
    proto = tensor_pb2.TensorProto()
    render(value, as_content=not isinstance(value.data, list), into=proto)
    return proto


def layout_of(dtype: int) -> str:
    """Name the numpy layout of one element of a numeric dtype (of half of one, for complex numbers).

    Raises:
        ServingError: UNIMPLEMENTED, a dtype without one.
    """
    return _field(dtype)[0]


def _field(dtype: int) -> tuple[str, str]:
    if dtype not in _FIELDS:
        name = types_pb2.DataType.Name(dtype)
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"dermserve.modelserver, the local stand-in, has no place for a tensor of {name}",
        )
    return _FIELDS[dtype]


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
