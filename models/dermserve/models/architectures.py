"""The two networks in Keras, as in the papers; the errors of weights, and their digest."""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator

import keras
import numpy as np

from dermserve.models.catalogue import SPECS
from dermserve.models.training.errors import RunError

# Means of ImageNet in BGR order, which keras.applications.resnet.preprocess_input subtracts.
CAFFE_MEANS = (103.939, 116.779, 123.68)


def build(
    name: str, *, backbone_weights: str | None = None, dropout: float | None = None, l2: float = 0.01
) -> keras.Model:
    """Build a network of SPECS: RGB in 0..255 [N, S, S, 3] → {"logits": float32 [N, C], "features": float32 [N, F]}.

    `backbone_weights`: "imagenet" (Keras downloads them), a file or None (random); `dropout`: None is the paper's.
    """
    spec, resnet = SPECS[name], name == "resnet50"
    shape, rate = (spec.input_side, spec.input_side, 3), 0.4 if dropout is None else dropout
    application = keras.applications.ResNet50 if resnet else keras.applications.MobileNetV3Small
    with fitting(str(backbone_weights), name):
        backbone = application(include_top=False, weights=backbone_weights, input_shape=shape, name="backbone")
    x = images = keras.Input(shape, name="rgb")
    if resnet:  # MobileNetV3Small rescales 0..255 to -1..1 itself
        # A Normalization with a given mean has no weights, so the parameter count is the paper's.
        normalise = keras.layers.Normalization(mean=CAFFE_MEANS, variance=(1.0, 1.0, 1.0), name="preprocess")
        x = normalise(keras.ops.flip(images, axis=-1))
    x = features = keras.layers.GlobalAveragePooling2D(name="features")(backbone(x))
    if not resnet:
        x = keras.layers.BatchNormalization(name="features_norm")(features)
    x = keras.layers.Dropout(rate if resnet else 0.3, name="features_dropout")(x)
    penalty = keras.regularizers.L2(l2)
    x = keras.layers.Dense(1024 if resnet else 256, "relu", kernel_regularizer=penalty, name="hidden")(x)
    x = keras.layers.Dropout(rate, name="hidden_dropout")(x)
    logits = keras.layers.Dense(len(spec.classes), name="logits")(x)
    return keras.Model(images, {"logits": logits, "features": features}, name=name)


@contextlib.contextmanager
def fitting(source: str, model: str) -> Iterator[None]:
    """Turn whatever Keras and h5py raise when weights do not fit a model into a RunError of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of every layer before it raises
            yield
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        raise RunError(f"weights from {source} do not fit {model}: {first_line}") from error


def weights_digest(network: keras.Model) -> str:
    """Return the SHA-256, hexadecimal, over each weight's path, shape and float32 bytes, in model order."""
    digest = hashlib.sha256()
    for variable in network.weights:
        value = np.ascontiguousarray(variable.numpy(), "<f4")
        digest.update(f"{variable.path} {value.shape}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
