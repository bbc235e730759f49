"""Tensors to and from TF Serving's TensorProto, without TensorFlow."""

import math

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.errors import InvalidModelOutputError
from dermserve.tfserving.v1 import tensor_pb2

_MAX_ELEMENTS = 1_000_000
"""No answer of a classifier is larger; a shape alone could otherwise claim any memory."""


def uint8_tensor(array: NDArray[np.uint8]) -> tensor_pb2.TensorProto:
    """Encode as `tensor_content`, which is some fifty times cheaper than a `*_val` field."""
    dims = [tensor_pb2.TensorShapeProto.Dim(size=size) for size in array.shape]
    return tensor_pb2.TensorProto(
        dtype=tensor_pb2.DATA_TYPE_UINT8,
        tensor_shape=tensor_pb2.TensorShapeProto(dim=dims),
        tensor_content=array.tobytes(),
    )


def float_array(tensor: tensor_pb2.TensorProto, *, name: str) -> NDArray[np.float32]:
    """Decode a float32 tensor from `tensor_content` or `float_val`, of which the last value fills up the shape.

    Raises:
        InvalidModelOutputError: another dtype, or content that does not fit the shape.
    """
    if tensor.dtype != tensor_pb2.DATA_TYPE_FLOAT:
        raise InvalidModelOutputError(f"{name} is not float32")
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if tensor.tensor_shape.unknown_rank or min(shape, default=1) < 0 or size > _MAX_ELEMENTS:
        raise InvalidModelOutputError(f"{name} has the shape {shape}")
    if tensor.tensor_content:
        values = _from_content(tensor.tensor_content, size=size, name=name)
    else:
        values = _from_values(np.asarray(tensor.float_val, np.float32), size=size, name=name)
    return values.reshape(shape)


def string_scalar(tensor: tensor_pb2.TensorProto, *, name: str) -> bytes:
    """Decode a tensor of one string.

    Raises:
        InvalidModelOutputError: it is anything else.
    """
    if tensor.dtype != tensor_pb2.DATA_TYPE_STRING or len(tensor.string_val) != 1:
        raise InvalidModelOutputError(f"{name} is not one string")
    return tensor.string_val[0]


def _from_content(content: bytes, *, size: int, name: str) -> NDArray[np.float32]:
    if len(content) != size * 4:
        raise InvalidModelOutputError(f"{name} has {len(content)} bytes for {size} values")
    return np.frombuffer(content, "<f4").astype(np.float32, copy=False)


def _from_values(values: NDArray[np.float32], *, size: int, name: str) -> NDArray[np.float32]:
    if values.size > size:
        raise InvalidModelOutputError(f"{name} has {values.size} values for {size}")
    if values.size == size:
        return values
    return np.pad(values, (0, size - values.size), mode="edge" if values.size else "constant")
