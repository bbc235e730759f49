"""Load a network's weights, and compute the digest that names them."""

import contextlib
import hashlib
import pathlib
import warnings
from collections.abc import Iterator

import keras
import numpy as np


class WeightsError(ValueError):
    """Weights that don't fit or can't be read. The message names the file and the layer."""


def load_weights(network: keras.Model, file: pathlib.Path) -> None:
    """Load a whole network's weights, as Keras saved them: `.weights.h5` or `.keras`.

    Raises WeightsError: the file is missing, unreadable or of another architecture.
    """
    if not file.is_file():
        raise WeightsError(f"{file}: no such weights file")
    with fitting(str(file), network.name):
        network.load_weights(file)


@contextlib.contextmanager
def fitting(source: str, model: str) -> Iterator[None]:
    """Turn whatever Keras and h5py raise when weights do not fit a model into a WeightsError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of every layer before it raises
            yield
    except AssertionError:
        raise
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise WeightsError(f"weights from {source} do not fit {model}: {first_line}") from error


def weights_digest(network: keras.Model) -> str:
    """Return the SHA-256, hexadecimal, over each weight's path, shape and float32 bytes, in model order."""
    digest = hashlib.sha256()
    for variable in network.weights:
        value = np.ascontiguousarray(variable.numpy(), "<f4")
        digest.update(f"{variable.path} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
