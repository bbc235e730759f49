"""The papers' tables IV and V (the grid) and VII (backbones), by heads on the pooled features of frozen backbones.

Only photos outside of test in the experiment's split are used. Accuracies are on validation photos, one view.
"""

import csv
import hashlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.architectures import fitting
from dermserve.models.catalogue import SPECS
from dermserve.models.durable import replacing
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part, require_parts, split
from dermserve.models.training.errors import json_digest, read_json, write_json
from dermserve.models.training.evaluate.predictions import Predictor
from dermserve.models.training.terminal import say
from dermserve.models.training.train.backbones import load_backbone
from dermserve.models.training.train.checkpoint import fingerprint
from dermserve.models.training.train.dataset import prepare
from dermserve.models.training.train.experiment import Experiment
from dermserve.models.training.train.loop import accuracies

GRID: tuple[tuple[float, float, int], ...] = tuple(itertools.product((0.7, 0.8), (0.4, 0.5, 0.6), (16, 32, 64)))
"""Training share, dropout and batch of every cell."""
_APPLICATIONS = keras.applications
BACKBONES: Mapping[str, tuple[Callable[..., keras.Model], Callable[[Any], Any]]] = {
    "mobilenet": (_APPLICATIONS.MobileNet, _APPLICATIONS.mobilenet.preprocess_input),
    "inception_v3": (_APPLICATIONS.InceptionV3, _APPLICATIONS.inception_v3.preprocess_input),
    "resnet50": (_APPLICATIONS.ResNet50, _APPLICATIONS.resnet.preprocess_input),
    "mobilenet_v3_small": (_APPLICATIONS.MobileNetV3Small, _APPLICATIONS.mobilenet_v3.preprocess_input),
}
"""For each backbone, functions that build it and preprocess photos for it."""
_COLUMNS = (
    "backbone", "parameters", "training_share", "dropout", "batch", "accuracy", "balanced_accuracy", "minutes",
)  # fmt: skip
"""Of a table: parameters of the backbone alone, the share of the photos that do not test, minutes without features."""
# Features are standardised, so that one learning rate suits the scales of all backbones.
_EPSILON = 1e-3


def fill_table(
    experiment: Experiment,
    directory: Path,
    table: Path,
    *,
    backbones: Mapping[str, Path | str | None],
    settings: Sequence[tuple[float, float, int]],
    cache: Path,
) -> list[tuple[Any, ...]]:
    """Train a head for each backbone, by its initial weights, and each setting as in GRID; write the accuracies.

    What came of a head is cached by what it depends on, so that a stopped command continues.
    """
    photos, networks, rows = prepare(experiment, directory, cache=cache).part(Part.TRAIN, Part.VALIDATION), [], []
    for name, weights in backbones.items():
        keras.utils.set_random_seed(experiment.seed)
        networks.append(load(name, weights, side=SPECS[experiment.model].input_side))
    known = fingerprint(experiment, dict.fromkeys(photos.samples, Part.TRAIN), None)
    table.parent.mkdir(parents=True, exist_ok=True)
    for network in networks:
        name, size = network.name, network.get_layer("backbone").count_params()
        features = Predictor(network=network, cache=cache).predict(photos, name).features
        features_digest = hashlib.sha256(features.tobytes()).hexdigest()
        for setting in settings:
            share, dropout, batch = setting
            head = cache / f"head-{json_digest([known, features_digest, setting])[:24]}.json"
            if not head.is_file():
                write_json(head, _train_head(experiment, photos, features, *setting))
            accuracy, balanced, minutes = read_json(head, list)
            rows.append((name, size, *setting, accuracy, balanced, minutes))
            with replacing(table) as partial, partial.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([_COLUMNS, *rows])
            what = f"{name}, {share:.0%} training, dropout {dropout}, batch {batch}"
            say(f"{what}: accuracy {accuracy:.4f}, balanced {balanced:.4f}, {minutes:.1f} min")
    return rows


def _train_head(
    experiment: Experiment, photos: Labelled, features: NDArray[np.float32], share: float, dropout: float, batch: int
) -> tuple[float, float, float]:
    """Train ResNet-50's head as the paper trains the network; return both accuracies, and the minutes."""
    started, codes, shares = time.monotonic(), SPECS[experiment.model].codes, {"validation": 1 - share, "test": 0.0}
    parts = split(photos.samples, protocol=experiment.protocol, seed=experiment.seed, **shares)
    require_parts(parts, codes, **shares)
    trains = np.asarray([parts[sample] is Part.TRAIN for sample in photos.samples])
    mean, deviation = features[trains].mean(axis=0), features[trains].std(axis=0)
    scaled = np.asarray((features - mean) / (deviation + _EPSILON), np.float32)
    keras.utils.set_random_seed(experiment.seed)
    head = keras.Sequential(
        [
            keras.Input(features.shape[1:]),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(1024, "relu", kernel_regularizer=keras.regularizers.L2(experiment.l2)),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(len(codes)),
        ]
    )
    head.compile(keras.optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    training, validation = ((scaled[rows], photos.labels[rows]) for rows in (trains, ~trains))
    how = {"validation_data": validation, "batch_size": batch, "epochs": experiment.stages[0].epochs, "verbose": 0}
    head.fit(*training, callbacks=[keras.callbacks.EarlyStopping(patience=4, restore_best_weights=True)], **how)
    accuracy, balanced = accuracies(np.asarray(head(validation[0])).argmax(axis=1), validation[1])
    return round(accuracy, 4), round(balanced, 4), round((time.monotonic() - started) / 60, 2)


def load(name: str, weights: Path | str | None, *, side: int) -> keras.Model:
    """Build one of BACKBONES, of RGB in 0..255 to pooled features; weights are a file, "imagenet" or random."""
    build, preprocess = BACKBONES[name]
    named = weights if isinstance(weights, str) else None
    with fitting(str(named), name):
        backbone = build(include_top=False, weights=named, input_shape=(side, side, 3), name="backbone")
    images = keras.Input((side, side, 3), name="rgb")
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(preprocess(images)))
    network = keras.Model(images, {"features": pooled, "logits": pooled[:, :1]}, name=name)  # a Predictor takes both
    if isinstance(weights, Path):
        load_backbone(network, weights)
    return network
