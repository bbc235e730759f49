"""The two networks in Keras, as in the papers; loading their weights, and the digest of weights.

Each takes float32 RGB in 0..255, normalises it for its backbone, and returns logits and the pooled features, from which
the out-of-distribution score is computed. The softmax with its temperature is added at export.
"""

import contextlib
import hashlib
import pathlib
import warnings
from collections.abc import Iterator

import keras
import numpy as np

from dermserve.models.catalogue import SPECS

# Means of ImageNet in BGR order, which keras.applications.resnet.preprocess_input subtracts.
_CAFFE_MEANS = (103.939, 116.779, 123.68)


class WeightsError(ValueError):
    """Weights that don't fit or can't be read. The message names the file and the layer."""


def build(
    name: str, *, backbone_weights: str | None = None, dropout: float | None = None, l2: float = 0.01
) -> keras.Model:
    """Build a network.

    Args:
        name: a key of SPECS.
        backbone_weights: "imagenet" (Keras downloads them), a file of backbone weights, or None for random ones.
        dropout: rate before the logits; the paper's when None.
        l2: weight penalty of the hidden dense layer; only for training.

    Returns:
        float32 [N, 224, 224, 3] RGB in 0..255 → {"logits": float32 [N, C], "features": float32 [N, F]}. The backbone is
        the layer called "backbone".

    Raises:
        KeyError: no such architecture.
        WeightsError: the weights can't be read or don't fit.
    """
    with fitting(str(backbone_weights), name):
        network = _BUILDERS[name](backbone_weights, dropout, l2)
    assert network.count_params() == SPECS[name].parameters, (name, network.count_params())
    assert network.get_layer("backbone").count_params() == SPECS[name].backbone_parameters
    return network


def _resnet50(backbone_weights: str | None, dropout: float | None, l2: float) -> keras.Model:
    rate = 0.4 if dropout is None else dropout
    side = SPECS["resnet50"].input_side
    backbone = keras.applications.ResNet50(
        include_top=False, weights=backbone_weights, input_shape=(side, side, 3), name="backbone"
    )
    images = keras.Input((side, side, 3), name="rgb")
    bgr = keras.ops.flip(images, axis=-1)
    # A Normalization with a given mean has no weights, so the parameter count is the paper's.
    x = keras.layers.Normalization(mean=_CAFFE_MEANS, variance=(1.0, 1.0, 1.0), name="preprocess")(bgr)
    features = keras.layers.GlobalAveragePooling2D(name="features")(backbone(x))
    x = keras.layers.Dropout(rate, name="features_dropout")(features)
    x = keras.layers.Dense(1024, "relu", kernel_regularizer=keras.regularizers.L2(l2), name="hidden")(x)
    x = keras.layers.Dropout(rate, name="hidden_dropout")(x)
    logits = keras.layers.Dense(len(SPECS["resnet50"].classes), name="logits")(x)
    return keras.Model(images, {"logits": logits, "features": features}, name="resnet50")


def _mobilenet_v3_small(backbone_weights: str | None, dropout: float | None, l2: float) -> keras.Model:
    side = SPECS["mobilenet_v3_small"].input_side
    # include_preprocessing: this backbone rescales 0..255 to -1..1 itself.
    backbone = keras.applications.MobileNetV3Small(
        include_top=False, weights=backbone_weights, input_shape=(side, side, 3), name="backbone"
    )
    images = keras.Input((side, side, 3), name="rgb")
    features = keras.layers.GlobalAveragePooling2D(name="features")(backbone(images))
    x = keras.layers.BatchNormalization(name="features_norm")(features)
    x = keras.layers.Dropout(0.3, name="features_dropout")(x)
    x = keras.layers.Dense(256, "relu", kernel_regularizer=keras.regularizers.L2(l2), name="hidden")(x)
    x = keras.layers.Dropout(0.4 if dropout is None else dropout, name="hidden_dropout")(x)
    logits = keras.layers.Dense(len(SPECS["mobilenet_v3_small"].classes), name="logits")(x)
    return keras.Model(images, {"logits": logits, "features": features}, name="mobilenet_v3_small")


_BUILDERS = {"resnet50": _resnet50, "mobilenet_v3_small": _mobilenet_v3_small}


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
