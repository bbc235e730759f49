"""Teachers: larger networks that are trained to teach a model by distillation (Hinton et al. 2015), and never shipped.

EfficientNet-Lite (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) is EfficientNet
without squeeze-excite and with ReLU6. Its ImageNet weights come as an .npz of torch-style arrays: `_conv_stem.weight`
[out, in, h, w], `_bn0.running_mean`, `_blocks.3._expand_conv.weight`, and so on.
"""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from dermserve.models.architectures import build
from dermserve.models.catalogue import SPECS
from dermserve.models.training.train.experiment import Distillation, Experiment

_SCALES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
)
"""Width and depth, relative to EfficientNet-B0's."""
# EfficientNet-B0's stages (Tan & Le 2019, table 1): blocks, kernel, first stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_NORM = ("weight", "bias", "running_mean", "running_var")


def build_network(experiment: Experiment, *, backbone_weights: str | None = None) -> keras.Model:
    """Build an experiment's network: its model's, or a teacher with the same input, classes and layer names.

    Args:
        experiment: which.
        backbone_weights: "imagenet" or None, as for architectures.build; a teacher's are loaded from a file.
    """
    if experiment.teacher is None:
        return build(experiment.model, backbone_weights=backbone_weights, dropout=experiment.dropout, l2=experiment.l2)
    spec = SPECS[experiment.model]
    images = keras.Input((spec.input_side, spec.input_side, 3), name="rgb")
    backbone = _efficientnet_lite(experiment.teacher, spec.input_side)
    features = keras.layers.GlobalAveragePooling2D(name="features")(backbone(images))
    rate = 0.4 if experiment.dropout is None else experiment.dropout
    x = keras.layers.Dropout(rate, name="features_dropout")(features)
    logits = keras.layers.Dense(len(spec.classes), name="logits")(x)
    return keras.Model(images, {"logits": logits, "features": features}, name=experiment.teacher)


def is_teacher(network: keras.Model) -> bool:
    """Tell whether a network is one that teaches alone."""
    return network.name in _SCALES


def set_efficientnet_lite(backbone: keras.Model, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Set a teacher's backbone from torch-style arrays.

    Raises:
        KeyError: an array is missing.
        ValueError: an array has another shape.
    """
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.asarray(arrays[f"{layer.name}.{part}"], np.float32) for part in _NORM])
        elif layer.weights:
            axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
            layer.set_weights([np.asarray(arrays[f"{layer.name}.weight"], np.float32).transpose(axes)])


def soft_targets(teachers: Sequence[keras.Model], photos: Any, away: Any, temperature: float) -> Any:
    """Give the mean of the teachers' probabilities for photos as a student sees them; float32 [N, C].

    Args:
        teachers: training copies.
        photos: float32 [N, side, side, 3].
        away: float32 [N, C], added to the logits: far below zero for classes that a photo can't have.
        temperature: their logits are divided by.
    """
    given = [tf.nn.softmax((teacher(photos, training=False)["logits"] + away) / temperature) for teacher in teachers]
    return tf.add_n(given) / len(given)


def distillation_losses(targets: Any, soft: Any, logits: Any, settings: Distillation) -> Any:
    """Mix the loss by the labels with that by the teachers, whose gradient grows with the temperature squared.

    Args:
        targets: float32 [N, C], by the labels.
        soft: float32 [N, C], what `soft_targets` returns.
        logits: float32 [N, C], of the student.
        settings: temperature and the teachers' share.

    Returns:
        float32 [N].
    """
    temperature, share = settings.temperature, settings.weight
    own = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    taught = tf.nn.softmax_cross_entropy_with_logits(soft, logits / temperature)
    return (1 - share) * own + share * temperature**2 * taught


def _efficientnet_lite(name: str, side: int) -> keras.Model:
    """Build a backbone whose layers are called as its arrays are; RGB 0..255 in, normalised within."""
    width, depth = _SCALES[name]
    inputs = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 128, -127 / 128, name="preprocess")(inputs)
    x = _normalised(keras.layers.Conv2D(_STEM, 3, 2, "same", use_bias=False, name="_conv_stem")(x), "_bn0")
    number = 0
    for index, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES):
        ends = index in (0, len(_STAGES) - 1)  # the first and the last stage are never deepened
        for block in range(blocks if ends else math.ceil(blocks * depth)):
            steps = stride if block == 0 else 1
            x = _block(x, f"_blocks.{number}.", kernel, steps, expansion, _rounded(channels * width))
            number += 1
    x = _normalised(keras.layers.Conv2D(_HEAD, 1, use_bias=False, name="_conv_head")(x), "_bn1")
    return keras.Model(inputs, x, name="backbone")


def _block(x: Any, name: str, kernel: int, stride: int, expansion: int, channels: int) -> Any:
    """Append one inverted residual: expand, filter each channel, project."""
    before, wide = x, x
    if expansion > 1:
        expand = keras.layers.Conv2D(x.shape[-1] * expansion, 1, use_bias=False, name=f"{name}_expand_conv")
        wide = _normalised(expand(x), f"{name}_bn0")
    filters = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_depthwise_conv")
    wide = _normalised(filters(wide), f"{name}_bn1")
    project = keras.layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")
    after = _normalised(project(wide), f"{name}_bn2", active=False)
    if stride == 1 and before.shape[-1] == channels:
        return keras.layers.Add(name=f"{name}_add")([before, after])
    return after


def _normalised(x: Any, name: str, *, active: bool = True) -> Any:
    x = keras.layers.BatchNormalization(epsilon=1e-3, name=name)(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu")(x) if active else x


def _rounded(channels: float) -> int:
    """Round channels to a multiple of eight, by no more than a tenth down."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
