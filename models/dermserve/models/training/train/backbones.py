"""Build an experiment's network and load its ImageNet weights: Keras' own, a Keras file, or torch-style arrays.

A folded torch-style ResNet-50 has `1.conv1.weight`, `1.layerL.B.convC.weight`, … [out, in, h, w] and biases, for RGB
(x/255 - mean)/std. A teacher, EfficientNet-Lite (github.com/tensorflow/tpu, models/official/efficientnet/lite), is
EfficientNet without squeeze-excite and with ReLU6, with arrays `_conv_stem.weight`, `_bn0.running_mean` and so on.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.architectures import CAFFE_MEANS, build, fitting
from dermserve.models.catalogue import SPECS
from dermserve.models.training.errors import RunError, read_arrays
from dermserve.models.training.train.experiment import Experiment

_MEAN = np.array((0.485, 0.456, 0.406)) * 255
_DEVIATION = np.array((0.229, 0.224, 0.225)) * 255
_RESNET50_BLOCKS = (3, 4, 6, 3)
# Width and depth, relative to EfficientNet-B0's.
_SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
# EfficientNet-B0's stages (Tan & Le 2019, table 1): blocks, kernel, first stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
_STEM, _HEAD = 32, 1280
_NORM = ("weight", "bias", "running_mean", "running_var")


def build_network(experiment: Experiment, backbone: Path | str | None = None) -> keras.Model:
    """Build a model or teacher; `backbone` is a file, Keras' "imagenet", or None. Raises RunError: it can't load."""
    named = backbone if isinstance(backbone, str) else None
    if experiment.teacher is None:
        network = build(experiment.model, backbone_weights=named, dropout=experiment.dropout, l2=experiment.l2)
    elif named is not None:
        raise RunError(f"Keras has no weights of {experiment.teacher}: pass their .npz file as --weights")
    else:
        network = _teacher(experiment)
    if isinstance(backbone, Path):
        load_backbone(network, backbone)
    return network


def _teacher(experiment: Experiment) -> keras.Model:
    spec = SPECS[experiment.model]
    images = keras.Input((spec.input_side, spec.input_side, 3), name="rgb")
    backbone = _efficientnet_lite(str(experiment.teacher), spec.input_side)
    features = keras.layers.GlobalAveragePooling2D(name="features")(backbone(images))
    rate = 0.4 if experiment.dropout is None else experiment.dropout
    x = keras.layers.Dropout(rate, name="features_dropout")(features)
    logits = keras.layers.Dense(len(spec.classes), name="logits")(x)
    return keras.Model(images, {"logits": logits, "features": features}, name=experiment.teacher)


def load_backbone(network: keras.Model, file: Path) -> None:
    """Load ImageNet weights of a backbone: Keras' (.h5), or arrays of a folded ResNet-50 or a teacher (.npz)."""
    backbone = network.get_layer("backbone")
    with fitting(str(file), f"the backbone of {network.name}"):
        if file.suffix == ".npz":
            set_arrays = _set_efficientnet_lite if network.name in _SCALES else _set_folded_resnet50
            set_arrays(backbone, read_arrays(file))
        else:
            backbone.load_weights(file)


def _set_folded_resnet50(backbone: keras.Model, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Set keras.applications.ResNet50. Batch norm becomes the identity, until network.estimate_batch_norm."""
    for layer, name in _resnet50_pairs():
        kernel = np.asarray(arrays[f"{name}.weight"], np.float32).transpose(2, 3, 1, 0)
        bias = np.asarray(arrays[f"{name}.bias"], np.float32)
        if layer == "conv1":
            # For BGR minus the caffe means, exact but for the zero padding: with t = (x - mean)/deviation and
            # c = x - caffe, in each channel t = (c + caffe - mean)/deviation.
            scaled = kernel / _DEVIATION[:, None]
            offset = np.einsum("hwco,c->o", scaled, CAFFE_MEANS[::-1] - _MEAN)
            kernel, bias = scaled[:, :, ::-1].astype(np.float32), (bias + offset).astype(np.float32)
        backbone.get_layer(f"{layer}_conv").set_weights([kernel, bias])
        norm, ones = backbone.get_layer(f"{layer}_bn"), np.ones_like(bias)
        norm.set_weights([np.sqrt(1 + norm.epsilon) * ones, 0 * ones, 0 * ones, ones])


def _resnet50_pairs() -> Iterator[tuple[str, str]]:
    yield "conv1", "1.conv1"
    for stage, blocks in enumerate(_RESNET50_BLOCKS, start=1):
        yield f"conv{stage + 1}_block1_0", f"1.layer{stage}.0.downsample.0"
        for block in range(blocks):
            for index in (1, 2, 3):
                yield f"conv{stage + 1}_block{block + 1}_{index}", f"1.layer{stage}.{block}.conv{index}"


def _set_efficientnet_lite(backbone: keras.Model, arrays: Mapping[str, NDArray[Any]]) -> None:
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([np.asarray(arrays[f"{layer.name}.{part}"], np.float32) for part in _NORM])
        elif layer.weights:
            axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
            layer.set_weights([np.asarray(arrays[f"{layer.name}.weight"], np.float32).transpose(axes)])


def _efficientnet_lite(name: str, side: int) -> keras.Model:
    """Build a backbone for RGB in 0..255, with its layers named like its arrays."""
    width, depth = _SCALES[name]
    inputs = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 128, -127 / 128, name="preprocess")(inputs)
    x = _normalised(keras.layers.Conv2D(_STEM, 3, 2, "same", use_bias=False, name="_conv_stem")(x), "_bn0")
    number = 0
    for index, (blocks, kernel, stride, expansion, channels) in enumerate(_STAGES):
        ends = index in (0, len(_STAGES) - 1)  # the first and the last stage are never deepened
        rounded = max(8, int(channels * width + 4) // 8 * 8)  # to a multiple of eight, down by at most a tenth
        rounded += 8 if rounded < 0.9 * channels * width else 0
        for block in range(blocks if ends else math.ceil(blocks * depth)):
            x = _block(x, f"_blocks.{number}.", kernel, 1 if block else stride, expansion, rounded)
            number += 1
    x = _normalised(keras.layers.Conv2D(_HEAD, 1, use_bias=False, name="_conv_head")(x), "_bn1")
    return keras.Model(inputs, x, name="backbone")


def _block(x: Any, name: str, kernel: int, stride: int, expansion: int, channels: int) -> Any:
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
