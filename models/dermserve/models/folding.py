"""Folding batch normalisation into the convolution before it, for inference.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018,
section 3.2: with γ, β, μ, σ² fixed, BN(conv(x, W) + b) = conv(x, W·γ/σ) + (b - μ)·γ/σ + β.
"""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def fold_batch_norm(network: keras.Model) -> keras.Model:
    """Copy a network with every batch normalisation that directly follows a convolution folded into it.

    Nested models are folded too. Others, such as one before a dense layer, stay as they are. The copy computes the same
    in inference, to rounding; it is of no use in training.
    """
    folded = _foldable(network)
    by_convolution = {convolution.name: norm for norm, convolution in folded.items()}
    gone = {norm.name for norm in folded}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return fold_batch_norm(layer)
        config = layer.get_config()
        if layer.name in by_convolution:
            config["use_bias"] = True
        return layer.__class__.from_config(config)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer.name in gone else layer(*args, **kwargs)

    copy = keras.models.clone_model(network, clone_function=clone, call_function=call)
    _copy_weights(network, copy, by_convolution, gone)
    return copy


def _foldable(network: keras.Model) -> dict[keras.layers.Layer, keras.layers.Layer]:
    """Map each batch normalisation that can go to the convolution it goes into."""
    pairs = {}
    for layer in network.layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            continue
        before = layer.input._keras_history.operation
        alone = sum(len(node.outputs) for node in before._outbound_nodes) == 1
        if isinstance(before, _CONVOLUTIONS) and alone and before.activation is keras.activations.linear:
            pairs[layer] = before
    return pairs


def _copy_weights(
    network: keras.Model, copy: keras.Model, by_convolution: dict[str, keras.layers.Layer], gone: set[str]
) -> None:
    for layer in network.layers:
        if isinstance(layer, keras.Model) or layer.name in gone or not layer.weights:
            continue  # nested models have theirs already
        target = copy.get_layer(layer.name)
        norm = by_convolution.get(layer.name)
        target.set_weights(layer.get_weights() if norm is None else _folded_weights(layer, norm))


def _folded_weights(convolution: keras.layers.Layer, norm: keras.layers.Layer) -> list[NDArray[np.float32]]:
    kernel, *bias = convolution.get_weights()
    mean, variance = np.asarray(norm.moving_mean), np.asarray(norm.moving_variance)
    scale = 1 / np.sqrt(variance.astype(np.float64) + norm.epsilon)
    if norm.scale:
        scale *= np.asarray(norm.gamma)
    shift = (bias[0] if bias else 0) - mean
    offset = shift * scale + (np.asarray(norm.beta) if norm.center else 0)
    if isinstance(convolution, keras.layers.DepthwiseConv2D):  # kernel [h, w, channels, multiplier]
        scale = scale.reshape(kernel.shape[2:])
    return [(kernel * scale).astype(np.float32), offset.astype(np.float32)]
