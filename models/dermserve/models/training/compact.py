"""Weights in a quarter or half of the space: kernels as int8 or float16, vectors as float32.

int8 is symmetric with a scale for each output channel, as in Jacob et al., CVPR 2018, of the weights alone; loading
gives float32 again, so the network computes as before. What that costs in accuracy is measured when a run is packed.
"""

from pathlib import Path
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.training.checkpoint import replacing
from dermserve.models.training.errors import RunError

Kind: TypeAlias = Literal["int8", "float16"]


def save_compact(network: keras.Model, file: Path, *, kind: Kind) -> None:
    """Write a network's weights, in model order, as a compressed .npz.

    Args:
        network: any.
        file: to write.
        kind: what kernels become.
    """
    arrays: dict[str, Any] = {}
    for index, variable in enumerate(network.weights):
        value = np.asarray(variable, np.float32)
        if value.ndim < 2:
            arrays[f"{index}"] = value
        elif kind == "float16":
            arrays[f"{index}"] = value.astype(np.float16)
        else:
            arrays[f"{index}.int8"], arrays[f"{index}.scale"] = quantize(value)
    with replacing(file) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def load_compact(network: keras.Model, file: Path) -> None:
    """Set a network's weights from what `save_compact` wrote.

    Raises:
        RunError: the file is missing, damaged or of another architecture.
    """
    try:
        with np.load(file) as arrays:
            network.set_weights([_restored(arrays, index) for index in range(len(network.weights))])
    except (OSError, KeyError, ValueError) as error:
        raise RunError(f"{file} does not hold compact weights of {network.name}: {error}") from error


def quantize(value: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantise a kernel to int8 in -127..127, with a float32 scale for each output channel that broadcasts to it.

    A depthwise kernel [h, w, channels, 1] has its output channels on the axis before the last.
    """
    axis = value.ndim - 2 if value.shape[-1] == 1 else value.ndim - 1
    others = tuple(index for index in range(value.ndim) if index != axis)
    largest = np.abs(value).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(value / scale).astype(np.int8), scale


def _restored(arrays: "np.lib.npyio.NpzFile", index: int) -> NDArray[np.float32]:
    if f"{index}" in arrays:
        return np.asarray(arrays[f"{index}"], np.float32)
    return np.asarray(arrays[f"{index}.int8"] * arrays[f"{index}.scale"], np.float32)
