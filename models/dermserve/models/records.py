"""The files beside a version's graph: warm-up requests, golden predictions, and the files in model.tflite.

Those are in an uncompressed zip archive at its end (https://ai.google.dev/edge/litert/conversion/tensorflow/metadata).
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from tensorflow_serving.apis import prediction_log_pb2

from dermserve.contract import Input, Signature
from dermserve.models.architectures import weights_digest
from dermserve.models.graph import FeatureDistance
from dermserve.models.lifecycle.manifest import GOLDEN, WARMUP
from dermserve.models.verify import LoadedVersion, png

LABELS = "labels.txt"  # class codes in the order of the probabilities, one a line
CARD = "card.json"  # the card that `describe` returns; in a version's model.tflite, not in a run's
SOURCE = "source.txt"  # the `source_digest` of the network that it was converted from
_PICTURES = 2
_PATCHES = 7
_Request: TypeAlias = tuple[Signature, dict[str, Any]]


def write_warmup_records(version_folder: Path, *, model: str, side: int) -> None:
    """Write the requests that TensorFlow Serving replays when it loads a version (tfx/serving/saved_model_warmup).

    TensorFlow optimises a graph for each set of requested outputs: as the gateway, they request all.
    """
    gray = np.full((10, side, side, 3), 127, np.uint8)
    _write(version_folder / WARMUP, model, [(Signature.SERVING_DEFAULT, {Input.IMAGES: gray}), *_of_each(gray[:1])])


def write_golden_predictions(version_folder: Path, run: LoadedVersion, *, model: str, side: int) -> None:
    """Run every signature of a loaded version on made-up pictures, and write the answers into its folder."""
    _write(version_folder / GOLDEN, model, _of_each(pictures(_PICTURES, side=side)), run)


def pictures(count: int, *, side: int) -> NDArray[np.uint8]:
    """Make pictures of coloured patches, always the same ones: uint8 [count, side, side, 3]."""
    patches = np.random.default_rng(0).integers(0, 256, (count, _PATCHES, _PATCHES, 3), np.uint8)
    images = map(Image.fromarray, patches)
    return np.stack([np.asarray(one.resize((side, side), Image.Resampling.BICUBIC)) for one in images])


def _of_each(images: NDArray[np.uint8]) -> list[_Request]:
    """Make a request to each signature, of all images or, where it makes views itself, of the first."""
    return [
        (Signature.SERVING_DEFAULT, {Input.IMAGES: images}),
        (Signature.ENCODED, {Input.IMAGE_BYTES: np.array([png(image) for image in images], object)}),
        (Signature.TTA, {Input.IMAGES: images[:1]}),
        (Signature.DESCRIBE, {Input.QUERY: np.array([b""], object)}),
    ]


def _write(file: Path, model: str, asked: list[_Request], run: LoadedVersion | None = None) -> None:
    """Write a PredictionLog of each request, with its answer where there is something to run it."""
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, inputs in asked:
            log = prediction_log_pb2.PredictLog()
            log.request.model_spec.name = model
            log.request.model_spec.signature_name = signature
            for name, value in inputs.items():
                log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            for name, value in run(signature, inputs).items() if run else ():
                log.response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def with_files(model: bytes, files: Mapping[str, str]) -> bytes:
    """Append files, text by name, to a model."""
    file = io.BytesIO(model)
    file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return file.getvalue()


def read_file(model: bytes, name: str) -> str | None:
    """Read a file of a model; None if it has no such file."""
    try:
        with zipfile.ZipFile(io.BytesIO(model)) as archive:
            return archive.read(name).decode()
    except (zipfile.BadZipFile, KeyError):
        return None


def source_digest(network: keras.Model, *, temperature: float, distance: FeatureDistance | None) -> str:
    """Return the SHA-256, hexadecimal, of everything that determines a converted model's answers."""
    digest = hashlib.sha256(f"{weights_digest(network)} {temperature!r}".encode())
    if distance is not None:
        for array in (distance.centers, distance.projection, distance.scope):
            digest.update(b"" if array is None else array.astype("<f4").tobytes())
        digest.update(f"{distance.unit} {distance.limit!r}".encode())
    return digest.hexdigest()
