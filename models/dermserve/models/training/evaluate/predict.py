"""Running a network over photos as serving does: frozen, batch norm folded, the gateway's own views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from dermserve.imaging import STANDARD_VIEWS, make_views
from dermserve.models.training.train.loop import Labelled
from dermserve.models.training.train.network import training_copy

Infer: TypeAlias = Callable[[NDArray[np.uint8]], dict[str, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a network says of photos."""

    logits: NDArray[np.float32]
    """float32 [N, V, C], before the temperature."""
    features: NDArray[np.float32]
    """float32 [N, F], of the first view."""


def predict(
    network: keras.Model,
    photos: Labelled,
    *,
    views: Sequence[str] = STANDARD_VIEWS,
    precision: str = "float32",
    batch: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Outputs:
    """Run a network over views of photos.

    Args:
        network: what architectures.build returns.
        photos: N of them.
        views: names of standard views.
        precision: "float32", as served, or "mixed_bfloat16", about twice as fast where the CPU knows it.
        batch: views at once, about.
        progress: called with the number of photos done since the last call.
    """
    return run_views(frozen_function(network, precision=precision), photos, views=views, batch=batch, progress=progress)


def run_views(
    infer: Infer,
    photos: Labelled,
    *,
    views: Sequence[str],
    batch: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Outputs:
    """Run what `frozen_function` returns over views of photos, about `batch` views at once."""
    step = max(1, batch // len(views))
    logits, features = [], []
    for start in range(0, len(photos), step):
        rows = photos.rows[start : start + step]
        pixels = np.concatenate([make_views(photos.images[row], views) for row in rows])
        outputs = infer(pixels)
        logits.append(outputs["logits"].reshape(len(rows), len(views), -1))
        features.append(outputs["features"].reshape(len(rows), len(views), -1)[:, 0])
        if progress is not None:
            progress(len(rows))
    return Outputs(np.concatenate(logits), np.concatenate(features))


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
