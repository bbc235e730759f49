"""The papers' tables IV and V (`run_grid`) and VII (`compare`), by heads on the pooled features of frozen backbones.

Only photos outside of test in the experiment's split are used. Accuracies are on validation photos, one view.
"""

import csv
import functools
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dermserve.models.catalogue import SPECS
from dermserve.models.durable import replacing
from dermserve.models.training.data.splits import Part, Sample, require_parts, split
from dermserve.models.training.errors import RunError
from dermserve.models.training.evaluate.predictions import Predictions
from dermserve.models.training.terminal import say, track
from dermserve.models.training.train import checkpoint
from dermserve.models.training.train.backbones import load_backbone
from dermserve.models.training.train.dataset import Data
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
_BATCH = 64
# Features are standardised, so that one learning rate suits the scales of all backbones.
_EPSILON = 1e-3


class Cell(NamedTuple):
    """One training of the grid."""

    training_share: float  # of the photos that do not test; the rest validates
    dropout: float
    batch: int
    accuracy: float
    balanced_accuracy: float  # mean recall over the classes
    minutes: float  # of training, without the features that all cells share


class Compared(NamedTuple):
    """The row of one backbone."""

    backbone: str
    parameters: int  # of the backbone alone
    accuracy: float
    balanced_accuracy: float  # mean recall over the classes
    features_minutes: float  # to run the backbone over every photo once
    head_minutes: float


def run_grid(
    experiment: Experiment, judged: Predictions, table: Path, *, grid: Sequence[tuple[float, float, int]] = GRID
) -> list[Cell]:
    """Train the head of every cell that the table lacks on a frozen backbone's features of photos outside of test."""
    samples = judged.photos.samples
    whole = checkpoint.fingerprint(experiment, dict.fromkeys(samples, Part.TRAIN), None)
    mine = {key: whole[key] for key in ("experiment", "photos")}  # each cell has a split of its own
    mine["features"] = hashlib.sha256(judged.features.tobytes()).hexdigest()
    cells: list[Cell] = []
    with checkpoint.claimed(table.parent, mine):
        if table.is_file():
            try:
                rows = [*csv.reader(table.read_text("utf-8").splitlines())][1:]
                cells = [Cell(*map(json.loads, row)) for row in rows]
            except (TypeError, ValueError, csv.Error) as error:
                raise RunError(f"{table} is damaged ({error}): remove it to begin again") from error
        done = {cell[:3] for cell in cells}
        for share, dropout, batch in (setting for setting in grid if setting not in done):
            shares: dict[str, float] = {"validation": 1 - share, "test": 0.0}
            parts = split(samples, protocol=experiment.protocol, seed=experiment.seed, **shares)
            require_parts(parts, SPECS[experiment.model].codes, **shares)
            accuracy, balanced, minutes = _train_head(experiment, judged, parts, dropout, batch)
            cells.append(Cell(share, dropout, batch, accuracy, balanced, minutes))
            write_table(cells, table)
            scores = f"accuracy {accuracy:.4f}, balanced {balanced:.4f}"
            say(f"{share:.0%} training, dropout {dropout}, batch {batch}: {scores}, {minutes:.1f} min")
    return cells


def _train_head(
    experiment: Experiment, judged: Predictions, parts: Mapping[Sample, Part], dropout: float, batch: int
) -> tuple[float, float, float]:
    """Train ResNet-50's head as the paper trains the network; return both accuracies, and the minutes."""
    started, features, labels = time.monotonic(), judged.features, judged.labels
    keras.utils.set_random_seed(experiment.seed)
    head = keras.Sequential(
        [
            keras.Input(features.shape[1:]),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(1024, "relu", kernel_regularizer=keras.regularizers.L2(experiment.l2)),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(len(SPECS[experiment.model].classes)),
        ]
    )
    head.compile(keras.optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rows = {part: np.flatnonzero([parts[sample] is part for sample in judged.photos.samples]) for part in Part}
    training, validation = ((features[rows[part]], labels[rows[part]]) for part in (Part.TRAIN, Part.VALIDATION))
    how = {"validation_data": validation, "batch_size": batch, "epochs": experiment.stages[0].epochs, "verbose": 0}
    head.fit(*training, callbacks=[keras.callbacks.EarlyStopping(patience=4, restore_best_weights=True)], **how)
    minutes = (time.monotonic() - started) / 60
    accuracy, balanced = accuracies(np.asarray(head(validation[0])).argmax(axis=1), validation[1])
    return round(accuracy, 4), round(balanced, 4), round(minutes, 2)


def write_table(rows: Sequence[Any], path: Path) -> None:
    """Write at least one named tuple as CSV, whole or not at all."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([rows[0]._fields, *rows])


def load(name: str, weights: Path | str | None, *, side: int) -> keras.Model:
    """Build one of BACKBONES, of RGB in 0..255 to pooled features; weights are a file, "imagenet" or random."""
    build, preprocess = BACKBONES[name]
    named = weights if isinstance(weights, str) else None
    try:
        backbone = build(include_top=False, weights=named, input_shape=(side, side, 3), name="backbone")
    except Exception as error:  # Keras downloads with urllib, and raises a bare Exception when that fails
        raise RunError(f"the {named} weights of {name} can't be loaded: {str(error).partition(chr(10))[0]}") from error
    images = keras.Input((side, side, 3), name="rgb")
    pooled = keras.layers.GlobalAveragePooling2D()(backbone(preprocess(images)))
    network = keras.Model(images, pooled, name=name)
    if isinstance(weights, Path):
        load_backbone(network, weights)
    return network


def compare(experiment: Experiment, data: Data, networks: Iterable[keras.Model]) -> list[Compared]:
    """Train the experiment's head on the features of each network of `load`, on one split."""
    stage, dropout, rows = experiment.stages[0], 0.4 if experiment.dropout is None else experiment.dropout, []
    photos = data.untested
    training = np.flatnonzero([data.parts[sample] is Part.TRAIN for sample in photos.samples])
    batches = [photos.rows[start : start + _BATCH] for start in range(0, len(photos), _BATCH)]
    for network in networks:
        started, infer = time.monotonic(), tf.function(functools.partial(network, training=False))
        values = np.concatenate([infer(photos.images[at].astype(np.float32)) for at in track(batches, network.name)])
        mean, deviation = values[training].mean(axis=0), values[training].std(axis=0)
        scaled = np.asarray((values - mean) / (deviation + _EPSILON), np.float32)
        minutes = round((time.monotonic() - started) / 60, 2)
        judged = Predictions(np.empty(0, np.float32), scaled, photos)
        accuracy, balanced, head_minutes = _train_head(experiment, judged, data.parts, dropout, stage.batch)
        size = network.get_layer("backbone").count_params()
        rows.append(Compared(network.name, size, accuracy, balanced, minutes, head_minutes))
        scores = f"accuracy {accuracy:.4f}, balanced {balanced:.4f}"
        say(f"{network.name}: {scores}; features {minutes:.1f} min, head {head_minutes:.1f} min")
    return rows
