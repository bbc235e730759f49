"""Outputs of a network for views of photos, computed as in serving: a frozen graph with batch norm folded.

Each photo's outputs are cached in a file whose name is a digest of all that they depend on: ten views of a few thousand
photos take ResNet-50 an hour on two cores. A second evaluation, or one that was interrupted, reads these files.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from dermserve.imaging import STANDARD_VIEWS, Measures, make_views
from dermserve.models.training.data.cache import imaging_version
from dermserve.models.training.data.samples import Sample
from dermserve.models.training.evaluate.no_skin import draw_no_skin
from dermserve.models.training.evaluate.verdicts import measure_all
from dermserve.models.training.files import replacing
from dermserve.models.training.train.loop import Labelled, Progress
from dermserve.models.training.train.network import training_copy

ONE_VIEW = STANDARD_VIEWS[:1]
_VIEWS_AT_ONCE = 64

Infer: TypeAlias = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Outputs:
    """Outputs of a network for N photos."""

    logits: NDArray[np.float32]
    """float32 [N, V, C], before the temperature."""
    features: NDArray[np.float32]
    """float32 [N, F], of the first view."""


@dataclass(frozen=True)
class Predictions:
    """Photos with the network's outputs and their lesions."""

    outputs: Outputs
    photos: Labelled
    lesions: list[str]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each photo, int64 [N]."""
        return self.photos.labels

    @functools.cached_property
    def measures(self) -> list[Measures]:
        """Brightness, sharpness and so on of each photo."""
        return measure_all(self.photos)

    def first_view(self) -> "Predictions":
        """Keep only the first view of each photo."""
        return Predictions(Outputs(self.outputs.logits[:, :1], self.outputs.features), self.photos, self.lesions)


@dataclass(frozen=True, slots=True)
class PartPredictions:
    """Predictions for one part of a data set: one view of every photo, and ten of all or of every Nth."""

    one: Predictions
    ten: Predictions
    name: str
    """Of the data set."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Runs a network over views of photos, and caches its outputs."""

    network: keras.Model
    cache: Path
    """Folder of the cached outputs; made when absent."""
    precision: str
    """Of the arithmetic: "float32", as served, or "mixed_bfloat16", about twice as fast where the CPU knows it."""
    progress: Progress
    """Called with the name of the step, photos done and photos in all."""

    def predict_part(
        self, photos: Labelled, samples: Sequence[Sample], what: str, *, name: str, thin: int = 1
    ) -> PartPredictions:
        """Run ten views of every `thin`-th photo and one view of all, of the data set called `name`."""
        ten = self.predict(photos.every(thin), samples, what)
        one = ten.first_view() if thin == 1 else self.predict(photos, samples, f"{what}, one view", views=ONE_VIEW)
        return PartPredictions(one, ten, name)

    def predict(
        self, photos: Labelled, samples: Sequence[Sample], what: str, *, views: Sequence[str] = STANDARD_VIEWS
    ) -> Predictions:
        """Run views of photos.

        Args:
            photos: N of them; their rows are indices into `samples`.
            samples: the data set's photos, for their lesions.
            what: name of the step, for the progress.
            views: names of standard views.
        """
        outputs = self._outputs(photos, what, views)
        return Predictions(outputs, photos, [samples[row].lesion for row in photos.rows])

    @property
    def side(self) -> int:
        """Height and width of the network's input."""
        return int(self.network.inputs[0].shape[1])

    def features(self, photos: Labelled, what: str) -> NDArray[np.float32]:
        """Return the features of one view of photos, float32 [N, F]."""
        return self._outputs(photos, what, ONE_VIEW).features

    def no_skin_features(self, *, seed: int) -> dict[str, NDArray[np.float32]]:
        """Return the features of drawn pictures without skin, float32 [N, F] by kind."""
        found = {}
        for kind, images in draw_no_skin(self.side, seed=seed).items():
            rows = np.arange(len(images))
            found[kind] = self.features(Labelled(images, rows, np.zeros_like(rows)), kind)
        return found

    @functools.cached_property
    def _infer(self) -> Infer:
        return frozen_function(self.network, precision=self.precision)

    @functools.cached_property
    def _weights(self) -> list[str]:
        """Digest of each array of the network's."""
        return [_digest(np.ascontiguousarray(weight).tobytes()) for weight in self.network.get_weights()]

    def _outputs(self, photos: Labelled, what: str, views: Sequence[str]) -> Outputs:
        """Read the outputs of photos from the cache; compute and cache those that are missing."""
        settings = [self.network.name, self._weights, list(views), self.precision, imaging_version()]
        folder = self.cache / f"outputs-{_digest(json.dumps(settings).encode())}"
        folder.mkdir(parents=True, exist_ok=True)
        parts, step = [], max(1, _VIEWS_AT_ONCE // len(views))
        for start in range(0, len(photos), step):
            chunk = Labelled(photos.images, photos.rows[start : start + step], photos.labels[start : start + step])
            files = [folder / f"{_digest(photos.images[row].tobytes())}.npz" for row in chunk.rows]
            if not all(file.is_file() for file in files):
                _save(run_views(self._infer, chunk, views=views), files)
            parts += [_load(file) for file in files]
            self.progress(what, start + len(chunk), len(photos))
        return Outputs(np.stack([part[0] for part in parts]), np.stack([part[1] for part in parts]))


def frozen_function(network: keras.Model, *, precision: str = "float32") -> Infer:
    """Freeze a network into a function from uint8 [N, S, S, 3] to {"logits", "features"}, float32."""
    copy = training_copy(network, folded=True, precision=precision)
    side = network.inputs[0].shape[1]

    @tf.function(input_signature=[tf.TensorSpec([None, side, side, 3], tf.uint8)])
    def infer(images: Any) -> Any:
        outputs = copy(tf.cast(images, tf.float32), training=False)
        return {name: tf.cast(value, tf.float32) for name, value in outputs.items()}

    concrete = infer.get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete)
    names = sorted(concrete.structured_outputs)  # tf.nest flattens a dict in the order of its keys

    def run(images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return {name: value.numpy() for name, value in zip(names, frozen(tf.constant(images)), strict=True)}

    return run


def run_views(
    infer: Infer,
    photos: Labelled,
    *,
    views: Sequence[str] = ONE_VIEW,
    progress: Callable[[int, int], None] = lambda done, whole: None,
) -> Outputs:
    """Run what `frozen_function` returns over views of photos; `progress` gets photos done and photos in all."""
    step = max(1, _VIEWS_AT_ONCE // len(views))
    logits, features = [], []
    for start in range(0, len(photos), step):
        rows = photos.rows[start : start + step]
        outputs = infer(np.concatenate([make_views(photos.images[row], views) for row in rows]))
        logits.append(outputs["logits"].reshape(len(rows), len(views), -1))
        features.append(outputs["features"].reshape(len(rows), len(views), -1)[:, 0])
        progress(start + len(rows), len(photos))
    return Outputs(np.concatenate(logits), np.concatenate(features))


def _save(outputs: Outputs, files: Sequence[Path]) -> None:
    for logits, features, file in zip(outputs.logits, outputs.features, files, strict=True):
        with replacing(file) as partial, partial.open("wb") as stream:
            np.savez(stream, logits=logits, features=features)


def _load(file: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with np.load(file) as arrays:
        return arrays["logits"], arrays["features"]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:24]
