"""Recording golden predictions when a version is exported: what its signatures answer to a few made-up pictures."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2

from dermserve.contract import Input, Signature
from dermserve.models.lifecycle.manifest import GOLDEN
from dermserve.models.verify import Run, open_version, png

_PICTURES = 2
_PATCHES = 7


def write_golden_predictions(version_folder: pathlib.Path, *, model: str, side: int) -> None:
    """Ask every signature of an exported version, and keep the answers beside it.

    Args:
        version_folder: holds the SavedModel.
        model: model name.
        side: height and width of the input in pixels.

    Raises:
        VerificationError: a signature does not run.
    """
    images = pictures(_PICTURES, side=side)
    files = np.array([png(image) for image in images], object)
    asked: list[tuple[Signature, Mapping[str, NDArray[Any]]]] = [
        (Signature.SERVING_DEFAULT, {Input.IMAGES: images}),
        (Signature.ENCODED, {Input.IMAGE_BYTES: files}),
        (Signature.TTA, {Input.IMAGES: images[:1]}),
        (Signature.DESCRIBE, {Input.QUERY: np.array([b""], object)}),
    ]
    with open_version(version_folder) as run, tf.io.TFRecordWriter(str(version_folder / GOLDEN)) as writer:
        for signature, inputs in asked:
            writer.write(_record(run, model, signature, inputs).SerializeToString())


def pictures(count: int, *, side: int) -> NDArray[np.uint8]:
    """Make pictures of coloured patches, always the same: uint8 [count, side, side, 3]."""
    patches = np.random.default_rng(0).integers(0, 256, (count, _PATCHES, _PATCHES, 3), np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in patches]
    )


def _record(
    run: Run, model: str, signature: Signature, inputs: Mapping[str, NDArray[Any]]
) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictLog()
    log.request.model_spec.name = model
    log.request.model_spec.signature_name = signature
    _fill(log.request.inputs, inputs)
    _fill(log.response.outputs, run(signature, inputs))
    return prediction_log_pb2.PredictionLog(predict_log=log)


def _fill(tensors: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        tensors[name].CopyFrom(tf.make_tensor_proto(value))
