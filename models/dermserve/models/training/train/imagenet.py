"""Initial backbones: Keras's own ImageNet weights, a Keras weights file, or a folded torch-style ResNet-50.

The last is an .npz of `1.conv1.weight`, `1.layerL.B.convC.weight`, … [out, in, h, w] with biases, batch norm folded,
for RGB input (x/255 - mean)/std. Keras's ResNet50 takes BGR minus the caffe means; the difference is linear, so conv1
takes it up exactly. Only the zero padding of conv1 differs: caffe's zero is another gray than torch's by at most half a
level.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.training.errors import RunError
from dermserve.models.training.train.teachers import is_teacher, set_efficientnet_lite

_MEAN = np.array((0.485, 0.456, 0.406)) * 255
_DEVIATION = np.array((0.229, 0.224, 0.225)) * 255
_CAFFE_MEAN = np.array((123.68, 116.779, 103.939))
_BLOCKS = (3, 4, 6, 3)

Arrays = Mapping[str, NDArray[np.float32]]


def load_backbone(network: keras.Model, file: Path) -> None:
    """Load ImageNet weights into a network's backbone.

    Args:
        network: what teachers.build_network returns.
        file: Keras weights of the backbone (.h5), a folded torch-style ResNet-50 or a teacher's (.npz).

    Raises:
        RunError: the file can't be read or is of another backbone.
    """
    backbone = network.get_layer("backbone")
    try:
        if file.suffix == ".npz":
            set_arrays = set_efficientnet_lite if is_teacher(network) else set_folded_resnet50
            with np.load(file) as arrays:
                set_arrays(backbone, arrays)
        else:
            backbone.load_weights(file)
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise RunError(f"{file} does not hold weights for the backbone of {network.name}: {reason}") from error


def set_folded_resnet50(backbone: keras.Model, arrays: Arrays) -> None:
    """Set keras.applications.ResNet50 (without its top) from a folded torch-style network.

    Batch norm becomes the identity: give it statistics (network.estimate_batch_norm) before training it in train mode.

    Raises:
        KeyError: an array is missing.
        ValueError: an array has another shape.
    """
    for layer, name in _pairs():
        kernel = np.asarray(arrays[f"{name}.weight"], np.float32).transpose(2, 3, 1, 0)
        bias = np.asarray(arrays[f"{name}.bias"], np.float32)
        if layer == "conv1":
            kernel, bias = _for_caffe_input(kernel, bias)
        backbone.get_layer(f"{layer}_conv").set_weights([kernel, bias])
        norm = backbone.get_layer(f"{layer}_bn")
        ones = np.ones_like(bias)
        norm.set_weights([np.sqrt(1 + norm.epsilon) * ones, 0 * ones, 0 * ones, ones])


def _pairs() -> Iterator[tuple[str, str]]:
    """Name each convolution in Keras and in the file."""
    yield "conv1", "1.conv1"
    for stage, blocks in enumerate(_BLOCKS, start=1):
        yield f"conv{stage + 1}_block1_0", f"1.layer{stage}.0.downsample.0"
        for block in range(blocks):
            for index in (1, 2, 3):
                yield f"conv{stage + 1}_block{block + 1}_{index}", f"1.layer{stage}.{block}.conv{index}"


def _for_caffe_input(
    kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rewrite conv1 [h, w, RGB, out] for BGR input minus the caffe means.

    With t = (x - mean)/deviation and c = x - caffe: t = (c + caffe - mean)/deviation, in each channel.
    """
    scaled = kernel / _DEVIATION[:, None]
    offset = np.einsum("hwco,c->o", scaled, _CAFFE_MEAN - _MEAN)
    return scaled[:, :, ::-1].astype(np.float32), (bias + offset).astype(np.float32)
