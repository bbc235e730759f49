"""Copy a network for training, for crops of any size and with fused batch norm; estimate batch norm; choose layers."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from dermserve.models.training.errors import ExperimentError

_ANY_SIDE = (None, None, 3)
# MobileNetV3's momentum of 0.999 needs more steps than a small data set has in all its epochs.
_MOST_MOMENTUM = 0.99


class FusedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
    """keras.layers.BatchNormalization over the last axis, by TensorFlow's fused operation, in a third of the time.

    It takes bfloat16, with float32 statistics (www.tensorflow.org/api_docs/python/tf/raw_ops/FusedBatchNormV3).
    """

    def __init__(self, **config: Any) -> None:
        super().__init__(autocast=False, **config)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        """Normalise [N, H, W, C]; in training by the batch, and update the moving statistics."""
        learning = bool(training) and self.trainable
        stored = (tf.zeros([0]), tf.zeros([0])) if learning else (self.moving_mean.value, self.moving_variance.value)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=stored[0],
            variance=stored[1],
            epsilon=self.epsilon,
            is_training=learning,
        )
        if learning:
            for moving, found in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving.value * self.momentum + found * (1 - self.momentum))
        return outputs


def training_copy(network: keras.Model, *, precision: str) -> keras.Model:
    """Copy a network for RGB of any size, with fused batch norm, by a Keras dtype policy; logits are float32."""

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return training_copy(layer, precision=precision)
        if isinstance(layer, keras.layers.BatchNormalization) and len(layer.output.shape) == 4:  # maps, not vectors
            momentum = min(layer.momentum, _MOST_MOMENTUM)
            return FusedBatchNormalization(name=layer.name, momentum=momentum, epsilon=layer.epsilon, dtype="float32")
        config = layer.get_config()
        if "dtype" in config and not isinstance(layer, keras.layers.InputLayer) and layer.name != "logits":
            config["dtype"] = precision
        return layer.__class__.from_config(config)

    inputs = keras.tree.map_structure(lambda _: keras.Input(_ANY_SIDE), network.input)
    copy = keras.models.clone_model(network, input_tensors=inputs, clone_function=clone)
    copy.set_weights(network.get_weights())
    return copy


def estimate_batch_norm(network: keras.Model, images: NDArray[np.uint8], *, batch: int = 32) -> None:
    """Set the statistics of the backbone's batch norm by photos, uint8 [N, S, S, 3]; its outputs stay the same."""
    backbone = network.get_layer("backbone")
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    probe = keras.Model(backbone.input, [norm.input for norm in norms])
    entry = keras.Model(network.input, backbone._inbound_nodes[-1].input_tensors[0])  # preprocessing

    @tf.function
    def moments(pixels: Any) -> Any:
        outputs = probe(entry(tf.cast(pixels, tf.float32), training=False), training=False)
        return [(tf.reduce_mean(x, (0, 1, 2)), tf.reduce_mean(x * x, (0, 1, 2))) for x in outputs]

    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    for norm, found in zip(norms, zip(*map(moments, parts), strict=True), strict=True):
        mean, square = np.average(np.asarray(found, np.float64), axis=0, weights=[len(part) for part in parts])
        variance = np.maximum(square - mean**2, 0)
        gamma, beta, before, spread = (np.asarray(weight, np.float64) for weight in norm.get_weights())
        scale = gamma / np.sqrt(spread + norm.epsilon)
        deviation = np.sqrt(variance + norm.epsilon)
        norm.set_weights([scale * deviation, scale * mean + (beta - before * scale), mean, variance])


def select_trainable(copy: keras.Model, trainable: str, *, batch_norm: str) -> None:
    """Set which layers of a copy a stage trains, as in Stage. Raises ExperimentError: there is no such layer."""
    layers, (kind, _, argument) = copy.get_layer("backbone").layers, trainable.partition(":")
    found = [index for index, layer in enumerate(layers) if argument and layer.name.startswith(argument)]
    if kind in ("all", "head") and not argument:
        first = 0 if kind == "all" else len(layers)
    elif kind == "top" and argument.isdecimal():
        first = max(0, len(layers) - int(argument))
    elif kind == "from" and found:
        first = found[0]
    else:
        raise ExperimentError(f'trainable = {trainable!r} is none of "all", "head", "top:N" and "from:LAYER"')
    copy.trainable = True
    for index, layer in enumerate(layers):
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = index >= first and not (norm and batch_norm == "frozen")
