"""Fold batch normalisation, padding and activations into convolutions, for inference.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018,
section 3.2: with γ, β, μ, σ² fixed, BN(conv(x, W) + b) = conv(x, W·γ/σ) + (b - μ)·γ/σ + β. TensorFlow with oneDNN
computes hard swish within the convolution if it has the form that its optimiser looks for, which is not Keras's
(tensorflow/core/grappler/optimizers/remapper.cc, `_FusedHardSwish`). A convolution's own "same" padding costs nothing.
"""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

_CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def fold_batch_norm(network: keras.Model, *, fusible: bool = False) -> keras.Model:
    """Copy a network, with models in it, for inference, with batch norm right after a convolution folded into it.

    `fusible` also writes hard swish and padding as TensorFlow, but not TensorFlow Lite, computes them with a
    convolution.
    """
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    by_convolution = {
        before.name: norm
        for before, norm in ((_feeds_alone(norm), norm) for norm in norms)
        if isinstance(before, _CONVOLUTIONS) and before.activation is keras.activations.linear
    }
    padded = _padded(network) if fusible else {}
    gone = {norm.name for norm in by_convolution.values()} | set(padded.values())

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.Model):
            return fold_batch_norm(layer, fusible=fusible)
        config = layer.get_config()
        if layer.name in by_convolution:
            config["use_bias"] = True
        if layer.name in padded:
            config["padding"] = "same"
        if fusible and getattr(layer, "activation", None) is keras.activations.hard_silu:
            config["activation"] = _hard_swish
        return layer.__class__.from_config(config)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if layer.name in gone else layer(*args, **kwargs)

    copy = keras.models.clone_model(network, clone_function=clone, call_function=call)
    for layer in network.layers:
        if layer.weights and layer.name not in gone and not isinstance(layer, keras.Model):  # nested ones have theirs
            norm = by_convolution.get(layer.name)
            weights = layer.get_weights() if norm is None else _folded_weights(layer, norm)
            copy.get_layer(layer.name).set_weights(weights)
    return copy


def _feeds_alone(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """Return the layer before this one, if its output goes nowhere else."""
    before = layer.input._keras_history.operation
    return before if sum(len(node.outputs) for node in before._outbound_nodes) == 1 else None


def _padded(network: keras.Model) -> dict[str, str]:
    """Map each convolution to the padding layer before it, if "same" would pad equally."""
    pairs = {}
    for layer in network.layers:
        if isinstance(layer, _CONVOLUTIONS) and layer.padding == "valid":
            before = _feeds_alone(layer)
            if isinstance(before, keras.layers.ZeroPadding2D) and tuple(before.padding) == _same_padding(
                before.input.shape[1:3], layer.kernel_size, layer.strides
            ):
                pairs[layer.name] = before.name
    return pairs


def _same_padding(sizes: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...]) -> tuple[Any, ...]:
    """Return the zeros that "same" adds before and after each side (https://www.tensorflow.org/api_docs/python/tf/nn)."""
    triples = zip(sizes, kernel, strides, strict=True)
    whole = [max((-(-size // stride) - 1) * stride + extent - size, 0) for size, extent, stride in triples]
    return tuple((each // 2, each - each // 2) for each in whole)


def _hard_swish(values: Any) -> Any:
    """Compute x · min(max(x + 3, 0), 6) / 6 as TensorFlow's optimiser wants it: it sorts factors by their names."""
    return tf.multiply(tf.multiply(values, 1 / 6, name="a_sixth"), tf.nn.relu6(values + 3.0, name="gate"))


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
