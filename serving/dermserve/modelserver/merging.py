"""Merging the rows of several requests into one tensor and parting the answer again: pure functions on `Value`."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import grpc
import numpy as np

from dermserve.modelserver._protos import types_pb2
from dermserve.modelserver.errors import ServingError, failed_precondition, invalid_argument
from dermserve.modelserver.tensors import Value


def count_rows(feeds: Mapping[str, Value]) -> int:
    """Count the rows of a request, which all its tensors must share.

    Raises:
        ServingError: INVALID_ARGUMENT, they don't, or one has no rows at all.
    """
    if not feeds:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if not all(value.shape for value in feeds.values()):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    counts = {value.shape[0] for value in feeds.values()}
    if len(counts) > 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return counts.pop()


def padded_size(rows: int, *, allowed: Sequence[int]) -> int:
    """Give the batch size to run: the first allowed one that holds the rows, or just as many as there are."""
    return next((size for size in allowed if size >= rows), rows)


def merge(values: Sequence[Value], *, name: str, size: int, pad: bool) -> Value:
    """Put the rows of several tensors below each other, then copies of the last one's first row up to `size` rows.

    Tensors of different lengths are filled up with their own first element when `pad` is set.

    Raises:
        ServingError: their shapes differ without `pad`, or their dtypes do.
    """
    if pad:
        values = _aligned(values)
    first = values[0]
    if any(value.shape[1:] != first.shape[1:] for value in values):
        raise failed_precondition(
            f"Tensors with name '{name}' from different tasks have different shapes and padding is turned off. Set "
            "pad_variable_length_inputs to true, or ensure that all tensors with the same name have equal dimensions "
            "starting with the first dim."
        )
    for value in values:
        if value.dtype != first.dtype:
            raise ServingError(
                grpc.StatusCode.INTERNAL,
                "Tensor concat operation failed: INVALID_ARGUMENT: Cannot concatenate tensors that have different data "
                f"types. Got {_name(first.dtype)} and {_name(value.dtype)}.",
            )
    missing = size - sum(value.shape[0] for value in values)
    return concatenate([*values, *[part_rows(values[-1], start=0, stop=1)] * missing])


def concatenate(values: Sequence[Value]) -> Value:
    """Put the rows of tensors of one dtype and width below each other."""
    first = values[0]
    data: bytes | list[bytes]
    if isinstance(first.data, list):
        data = [item for value in values for item in value.data if isinstance(item, bytes)]
    else:
        data = b"".join(value.data for value in values if isinstance(value.data, bytes))
    return Value(first.dtype, (sum(value.shape[0] for value in values), *first.shape[1:]), data)


def part(value: Value, *, sizes: Sequence[int], size: int) -> list[Value]:
    """Give each request its rows of an output of a batch of `size` rows.

    Raises:
        ServingError: FAILED_PRECONDITION, the output has no rows, or not one for each that went in.
    """
    if not value.shape:
        raise failed_precondition("Batched output tensor has 0 dimensions")
    if value.shape[0] != size:
        raise failed_precondition(
            "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
            "tensors"
        )
    starts = [0, *np.cumsum(sizes, dtype=int).tolist()]
    return [part_rows(value, start=start, stop=stop) for start, stop in pairwise(starts)]


def part_rows(value: Value, *, start: int, stop: int) -> Value:
    """Take the rows from `start` up to `stop`."""
    width = len(value.data) // max(value.shape[0], 1)
    return Value(value.dtype, (stop - start, *value.shape[1:]), value.data[start * width : stop * width])


def _aligned(values: Sequence[Value]) -> list[Value]:
    """Fill tensors up at their ends to the largest size of each dimension but the first."""
    if len({len(value.shape) for value in values}) > 1:
        return list(values)
    widest = tuple(max(sizes) for sizes in zip(*[value.shape for value in values], strict=True))[1:]
    return [_filled(value, shape=(value.shape[0], *widest)) for value in values]


def _filled(value: Value, *, shape: tuple[int, ...]) -> Value:
    if value.shape == shape or not math.prod(shape):
        return value
    if not value.data:
        raise invalid_argument("Got empty tensor in batch of non-empty tensors.")
    if isinstance(value.data, list):
        array = np.array(value.data, dtype=object).reshape(value.shape)
    else:
        array = np.frombuffer(value.data, f"V{len(value.data) // math.prod(value.shape)}").reshape(value.shape)
    filled = np.full(shape, array.flat[0], array.dtype)
    filled[tuple(slice(size) for size in value.shape)] = array
    return Value(value.dtype, shape, filled.ravel().tolist() if isinstance(value.data, list) else filled.tobytes())


def _name(dtype: int) -> str:
    return str(types_pb2.DataType.Name(dtype)).removeprefix("DT_").lower()
