"""The papers' comparison of backbones: MobileNet, InceptionV3 and ResNet-50, and MobileNetV3Small beside them.

Each stays frozen with its ImageNet weights, its pooled features of every photo are computed once, and the same head
is trained on them: the reduced setting of the grid, which takes minutes on two cores. They are compared on validation
photos; test photos are measured once, with the backbone that those chose.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from dermserve.models.papers import scenarios
from dermserve.models.training.data.splits import Part
from dermserve.models.training.errors import RunError
from dermserve.models.training.train.experiment import Experiment
from dermserve.models.training.train.imagenet import load_backbone
from dermserve.models.training.train.loop import Progress, accuracies
from dermserve.models.training.train.run import Data

_BATCH = 64
# The heads see standardised features, so that one learning rate serves backbones of different scales.
_EPSILON = 1e-3


@dataclass(frozen=True, slots=True)
class _Backbone:
    build: Callable[..., keras.Model]
    preprocess: Callable[[Any], Any]


BACKBONES: Mapping[str, _Backbone] = MappingProxyType(
    {
        "mobilenet": _Backbone(keras.applications.MobileNet, keras.applications.mobilenet.preprocess_input),
        "inception_v3": _Backbone(keras.applications.InceptionV3, keras.applications.inception_v3.preprocess_input),
        "resnet50": _Backbone(keras.applications.ResNet50, keras.applications.resnet.preprocess_input),
        "mobilenet_v3_small": _Backbone(
            keras.applications.MobileNetV3Small, keras.applications.mobilenet_v3.preprocess_input
        ),
    }
)
"""By name; all of them take the same photos."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """One backbone's row."""

    backbone: str
    parameters: int
    """Of the backbone alone."""
    accuracy: float
    """On the validation photos, one view."""
    balanced_accuracy: float
    """Mean recall over the classes, of the same."""
    features_minutes: float
    """To run the backbone over every photo once."""
    head_minutes: float
    """To train the head."""
    test_accuracy: float | None = None
    """On the test photos, of the backbone that did best on validation photos."""


def load(name: str, weights: Path | str | None, *, side: int) -> keras.Model:
    """Build a backbone with its preprocessing and weights.

    Args:
        name: of BACKBONES.
        weights: "imagenet" (Keras downloads it), a file, or None for random ones.
        side: of the photos, in pixels.

    Returns:
        float32 [N, side, side, 3] RGB in 0..255 → pooled features float32 [N, F].

    Raises:
        RunError: the weights can't be had or are of another backbone.
    """
    entry = BACKBONES[name]
    named = weights if isinstance(weights, str) else None
    try:
        backbone = entry.build(include_top=False, weights=named, input_shape=(side, side, 3), name="backbone")
    except Exception as error:  # Keras downloads with urllib, and raises a bare Exception when that fails
        raise RunError(f"the {named} weights of {name} can't be had: {str(error).partition(chr(10))[0]}") from error
    images = keras.Input((side, side, 3), name="rgb")
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(entry.preprocess(images)))
    network = keras.Model(images, pooled, name=name)
    if isinstance(weights, Path):
        load_backbone(network, weights)
    return network


def compare(
    experiment: Experiment, data: Data, networks: Iterable[keras.Model], *, progress: Progress
) -> list[Compared]:
    """Train the experiment's head on the features of each backbone, on one split.

    Args:
        experiment: whose head, dropout, batch and epochs to take.
        data: decoded and split.
        networks: what `load` returns.
        progress: called with what is going on, photos done and photos in all.
    """
    trained = []
    for network in networks:
        started = time.monotonic()
        features = _features(network, data, progress)
        minutes = round((time.monotonic() - started) / 60, 2)
        trained.append(_train(experiment, data, network, features, minutes))
    best = max(range(len(trained)), key=lambda index: trained[index][0].accuracy)
    rows = [row for row, _ in trained]
    accuracy, _ = trained[best][1](data.part(Part.TEST).rows)
    rows[best] = replace(rows[best], test_accuracy=round(accuracy, 4))
    return rows


def _features(network: keras.Model, data: Data, progress: Progress) -> scenarios.Features:
    infer = tf.function(lambda images: network(tf.cast(images, tf.float32), training=False))
    parts, whole = [], len(data.pixels)
    for start in range(0, whole, _BATCH):
        parts.append(infer(tf.constant(data.pixels[start : start + _BATCH])).numpy())
        progress(network.name, min(start + _BATCH, whole), whole)
    labels = np.asarray([sample.label for sample in data.samples], np.int64)
    return scenarios.Features(np.concatenate(parts), labels)


def _train(
    experiment: Experiment, data: Data, network: keras.Model, features: scenarios.Features, features_minutes: float
) -> tuple[Compared, Callable[[NDArray[np.int64]], tuple[float, float]]]:
    """Train a head; give its row, and what judges it on rows of photos."""
    parts = {part: data.part(part).rows for part in (Part.TRAIN, Part.VALIDATION)}
    values = _standardised(features.values, parts[Part.TRAIN])
    features = scenarios.Features(values, features.labels)
    keras.utils.set_random_seed(experiment.seed)
    started = time.monotonic()
    stage = experiment.stages[0]
    head = scenarios.build_head(experiment, values.shape[1], 0.4 if experiment.dropout is None else experiment.dropout)
    scenarios.train_head(head, features, parts, batch=stage.batch, epochs=stage.epochs)
    minutes = (time.monotonic() - started) / 60

    def judge(rows: NDArray[np.int64]) -> tuple[float, float]:
        return accuracies(np.asarray(head(values[rows])).argmax(axis=1), features.labels[rows])

    accuracy, balanced = judge(parts[Part.VALIDATION])
    row = Compared(
        backbone=network.name,
        parameters=network.get_layer("backbone").count_params(),
        accuracy=round(accuracy, 4),
        balanced_accuracy=round(balanced, 4),
        features_minutes=features_minutes,
        head_minutes=round(minutes, 2),
    )
    return row, judge


def _standardised(values: NDArray[np.float32], training: NDArray[np.int64]) -> NDArray[np.float32]:
    mean, deviation = values[training].mean(axis=0), values[training].std(axis=0)
    standardised: NDArray[np.float32] = ((values - mean) / (deviation + _EPSILON)).astype(np.float32)
    return standardised
