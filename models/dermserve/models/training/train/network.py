"""The copy of a network that training works on, and the way back.

Training may want other things of a network than serving: crops of another size, bfloat16 arithmetic, batch norm fused
or folded away. The copy has them; what it learns goes back into the network as architectures.build made it, with its
parameter count.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from dermserve.models.folding import fold_batch_norm
from dermserve.models.training.errors import ExperimentError
from dermserve.models.training.train.batch_norm import FusedBatchNormalization

_ANY_SIDE = (None, None, 3)


def training_copy(network: keras.Model, *, folded: bool, precision: str) -> keras.Model:
    """Copy a network for training.

    Args:
        network: what architectures.build returns.
        folded: fold batch norm into the convolutions.
        precision: a Keras dtype policy; weights and logits are float32 in any.

    Returns:
        A network of the same layers (without the folded ones) and weights, for RGB input of any side.
    """
    source = fold_batch_norm(network) if folded else network
    copy = _any_side(source, precision)
    for layer in _leaves(source):
        if layer.weights:
            _leaf(copy, layer.name).set_weights(layer.get_weights())
    return copy


def copy_back(copy: keras.Model, network: keras.Model) -> None:
    """Put what a training copy has learned into the network it was made from.

    Batch norm that was folded away becomes the identity plus the bias its convolution has learned, until
    `estimate_batch_norm` gives it statistics again.
    """
    names = {layer.name for layer in _leaves(copy)}
    for layer in _leaves(network):
        if isinstance(layer, keras.layers.BatchNormalization) and layer.name not in names:
            _set_identity(layer, _learned_bias(layer, copy))
        elif layer.weights:
            learned = _leaf(copy, layer.name).get_weights()
            layer.set_weights(learned[: len(layer.weights)])  # a folded convolution may have a bias its original lacks


def estimate_batch_norm(network: keras.Model, images: NDArray[np.uint8], *, batch: int = 32) -> None:
    """Give every batch norm after a convolution statistics measured on photos, leaving what the network computes alone.

    Batch norm that is the identity in inference is anything but in training mode. With mean and variance as measured,
    γ = old scale · σ and β = old shift at the mean, both modes compute (nearly) the same.

    Args:
        network: what architectures.build returns.
        images: uint8 [N, S, S, 3].
        batch: photos at once.
    """
    backbone = network.get_layer("backbone")
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    moments = _moments(network, norms, images, batch)
    for norm, (mean, variance) in zip(norms, moments, strict=True):
        scale, shift = _affine(norm)
        deviation = np.sqrt(variance + norm.epsilon)
        norm.set_weights([scale * deviation, scale * mean + shift, mean, variance])


def select_trainable(copy: keras.Model, trainable: str, *, batch_norm: str) -> None:
    """Mark the layers a stage trains.

    Args:
        copy: of a network.
        trainable: "all", "head", "top:N" or "from:NAME", as in Stage.
        batch_norm: "frozen" leaves the backbone's batch norm in inference mode and as it is.

    Raises:
        ExperimentError: `trainable` is none of these, or names a layer the backbone does not have.
    """
    backbone = copy.get_layer("backbone")
    first = first_trainable(backbone, trainable)
    copy.trainable = True
    for index, layer in enumerate(backbone.layers):
        norm = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = index >= first and not (norm and batch_norm == "frozen")


def first_trainable(backbone: keras.Model, trainable: str) -> int:
    """Give the index of the first backbone layer that `trainable` names; the number of layers for the head alone.

    Raises:
        ExperimentError: `trainable` is none of what Stage knows, or names a layer the backbone does not have.
    """
    kind, _, argument = trainable.partition(":")
    names = [layer.name for layer in backbone.layers]
    if kind in ("all", "head") and not argument:
        return 0 if kind == "all" else len(names)
    if kind == "top" and argument.isdecimal():
        return max(0, len(names) - int(argument))
    if kind == "from" and argument:
        found = [index for index, name in enumerate(names) if name.startswith(argument)]
        if found:
            return found[0]
        raise ExperimentError(f"trainable = {trainable!r}: the backbone has no layer of that name")
    raise ExperimentError(f'trainable = {trainable!r} is none of "all", "head", "top:N" and "from:NAME"')


def _any_side(model: keras.Model, precision: str) -> keras.Model:
    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return _any_side(layer, precision)
        if isinstance(layer, keras.layers.BatchNormalization) and len(layer.output.shape) == 4:  # maps, not vectors
            return FusedBatchNormalization.like(layer)
        config = layer.get_config()
        if "dtype" in config and not isinstance(layer, keras.layers.InputLayer) and layer.name != "logits":
            config["dtype"] = precision
        return layer.__class__.from_config(config)

    inputs = keras.tree.map_structure(lambda _: keras.Input(_ANY_SIDE), model.input)
    return keras.models.clone_model(model, input_tensors=inputs, clone_function=clone)


def _leaves(model: keras.Model) -> list[keras.layers.Layer]:
    leaves = []
    for layer in model.layers:
        leaves += _leaves(layer) if isinstance(layer, keras.Model) else [layer]
    return leaves


def _leaf(model: keras.Model, name: str) -> keras.layers.Layer:
    return next(layer for layer in _leaves(model) if layer.name == name)


def _learned_bias(norm: keras.layers.BatchNormalization, copy: keras.Model) -> NDArray[np.float32]:
    convolution = norm.input._keras_history.operation
    if convolution.use_bias:
        return np.zeros(norm.moving_mean.shape, np.float32)  # copied into the convolution itself
    bias: NDArray[np.float32] = _leaf(copy, convolution.name).get_weights()[1]
    return bias


def _set_identity(norm: keras.layers.BatchNormalization, shift: NDArray[np.float32]) -> None:
    ones = np.ones_like(shift)
    norm.set_weights([np.sqrt(1 + norm.epsilon) * ones, shift, 0 * ones, ones])


def _affine(norm: keras.layers.BatchNormalization) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gamma, beta, mean, variance = (np.asarray(weight, np.float64) for weight in norm.get_weights())
    scale = gamma / np.sqrt(variance + norm.epsilon)
    return scale, beta - mean * scale


def _moments(
    network: keras.Model, norms: list[keras.layers.Layer], images: NDArray[np.uint8], batch: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Measure mean and variance of each batch norm's input, by channel, in inference mode."""
    backbone = network.get_layer("backbone")
    probe = keras.Model(backbone.input, [norm.input for norm in norms])
    entry = keras.Model(network.input, backbone_call(network)[0])

    @tf.function
    def sums(pixels: Any) -> Any:
        outputs = probe(entry(tf.cast(pixels, tf.float32), training=False), training=False)
        return [(tf.reduce_mean(x, (0, 1, 2)), tf.reduce_mean(x * x, (0, 1, 2))) for x in outputs]

    totals: list[NDArray[np.float64]] = []
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        found = [np.stack(pair).astype(np.float64) * len(part) for pair in sums(part)]
        totals = found if not totals else [a + b for a, b in zip(totals, found, strict=True)]
    means = [total / len(images) for total in totals]
    return [(mean, np.maximum(square - mean**2, 0)) for mean, square in means]


def backbone_call(network: keras.Model) -> tuple[Any, Any]:
    """Return the tensor the network hands to its backbone (the preprocessed photo) and the one it gets back."""
    node = network.get_layer("backbone")._inbound_nodes[-1]
    return node.input_tensors[0], node.output_tensors[0]
