"""The papers' tables IV and V: accuracy and minutes over a grid of settings, on validation photos.

Test photos are measured once, at the end, with the cell that validation photos chose.

To fit a machine without a GPU, the backbone stays frozen as a whole, its pooled features are computed once, and each
cell trains the head on them. A cell that trains the whole network is a `dermserve train` with an experiment of its own.
"""

import csv
import dataclasses
import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.catalogue import SPECS
from dermserve.models.training.data.samples import Sample
from dermserve.models.training.data.splits import Part, require_parts, split
from dermserve.models.training.errors import RunError
from dermserve.models.training.evaluate.predictions import Predictor
from dermserve.models.training.files import replacing
from dermserve.models.training.train import checkpoint
from dermserve.models.training.train.experiment import Experiment
from dermserve.models.training.train.loop import Labelled, Progress, accuracies
from dermserve.models.training.train.run import Data

SHARES = (0.7, 0.8)
DROPOUTS = (0.4, 0.5, 0.6)
BATCHES = (16, 32, 64)
GRID: tuple[tuple[float, float, int], ...] = tuple(itertools.product(SHARES, DROPOUTS, BATCHES))
"""Training share, dropout and batch of every cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One training of the grid."""

    training_share: float
    """Of the photos; the rest is divided evenly into validation and test."""
    dropout: float
    batch: int
    accuracy: float
    """On the validation photos, one view."""
    balanced_accuracy: float
    """Mean recall over the classes, of the same."""
    minutes: float
    """Of training, without the features that all cells share."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """The cell that did best on validation photos, on its test photos."""

    cell: Cell
    accuracy: float
    """On the test photos, one view."""
    balanced_accuracy: float
    """Mean recall over the classes, of the same."""


@dataclass(frozen=True, slots=True)
class Features:
    """Pooled features of every photo, of a frozen backbone."""

    values: NDArray[np.float32]
    """float32 [N, F], in the order of the samples."""
    labels: NDArray[np.int64]


def compute_features(network: keras.Model, data: Data, *, cache: Path, precision: str, progress: Progress) -> Features:
    """Run the frozen backbone over every photo once, at the serving preprocessing, or read what an earlier run did."""
    labels = np.asarray([sample.label for sample in data.samples], np.int64)
    predictor = Predictor(network=network, cache=cache, precision=precision, progress=progress)
    photos = Labelled(data.pixels, np.arange(len(labels)), labels)
    return Features(predictor.features(photos, "features"), labels)


def run_grid(
    experiment: Experiment,
    data: Data,
    features: Features,
    table: Path,
    *,
    report: Callable[[Cell], None],
    grid: Sequence[tuple[float, float, int]] = GRID,
) -> list[Cell]:
    """Train the head of every cell on features of the frozen backbone; those the table has are not trained again.

    Raises:
        DataError: a cell's split leaves a class without photos in a part.
        RunError: the table is of another experiment, other photos or other features.
    """
    _claim(table, experiment, data, features)
    cells = _read_table(table) if table.is_file() else []
    done = {(cell.training_share, cell.dropout, cell.batch) for cell in cells}
    for share, dropout, batch in (setting for setting in grid if setting not in done):
        parts = _divide(experiment, data, share)
        started = time.monotonic()
        head = _train_cell(experiment, features, parts, dropout, batch)
        minutes = (time.monotonic() - started) / 60
        judged = _judge_head(head, features, parts[Part.VALIDATION])
        cells.append(_cell(share, dropout, batch, judged, minutes))
        write_table(cells, table)
        report(cells[-1])
    return cells


def measure_best(experiment: Experiment, data: Data, features: Features, cells: Sequence[Cell]) -> Chosen:
    """Train the best cell's head once more, which gives the same, and measure it on its test photos."""
    best = _best(cells)
    parts = _divide(experiment, data, best.training_share)
    head = _train_cell(experiment, features, parts, best.dropout, best.batch)
    accuracy, balanced = _judge_head(head, features, parts[Part.TEST])
    return Chosen(cell=best, accuracy=accuracy, balanced_accuracy=balanced)


def _best(cells: Sequence[Cell]) -> Cell:
    return max(cells, key=lambda cell: cell.accuracy)


def _train_cell(
    experiment: Experiment, features: Features, parts: dict[Part, NDArray[np.int64]], dropout: float, batch: int
) -> keras.Model:
    keras.utils.set_random_seed(experiment.seed)
    head = build_head(experiment, features.values.shape[1], dropout)
    train_head(head, features, parts, batch=batch, epochs=experiment.stages[0].epochs)
    return head


def _judge_head(head: keras.Model, features: Features, rows: NDArray[np.int64]) -> tuple[float, float]:
    return accuracies(np.asarray(head(features.values[rows])).argmax(axis=1), features.labels[rows])


def train_head(
    head: keras.Model, features: Features, parts: dict[Part, NDArray[np.int64]], *, batch: int, epochs: int
) -> None:
    """Train a head with Adam at 1e-4 and early stopping, as the paper does the whole."""
    head.compile(keras.optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    train, validation = parts[Part.TRAIN], parts[Part.VALIDATION]
    head.fit(
        features.values[train],
        features.labels[train],
        validation_data=(features.values[validation], features.labels[validation]),
        batch_size=batch,
        epochs=epochs,
        verbose=0,
        callbacks=[keras.callbacks.EarlyStopping(patience=4, restore_best_weights=True)],
    )


def write_table(rows: Sequence[Any], path: Path) -> None:
    """Write rows, dataclass instances of one kind and at least one, as CSV, whole or not at all."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(rows[0])])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)


def _read_table(path: Path) -> list[Cell]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [Cell(**row | {"batch": int(row["batch"])}) for row in rows]  # type: ignore[arg-type]


def _claim(table: Path, experiment: Experiment, data: Data, features: Features) -> None:
    """Check that a table's cells are of these features and photos, and write down that its further ones are."""
    if table.is_file() and not (table.parent / checkpoint.FINGERPRINT).is_file():
        raise RunError(f"{table.parent} does not say what {table.name} is of: pass another --out")
    digest = hashlib.sha256(features.labels.tobytes())
    digest.update(np.ascontiguousarray(features.values).tobytes())
    mine = checkpoint.fingerprint(experiment, dict.fromkeys(data.samples, Part.TRAIN), None)
    del mine["split"], mine["initial weights"]  # each cell has a split of its own; features follow from the weights
    checkpoint.claim(table.parent, {**mine, "features": digest.hexdigest()})


def _split(experiment: Experiment, data: Data, share: float) -> dict[Sample, Part]:
    """Divide photos for a training share, the rest evenly into validation and test."""
    rest = (1 - share) / 2
    parts = split(data.samples, protocol=experiment.protocol, validation=rest, test=rest, seed=experiment.seed)
    codes = [item.code for item in SPECS[experiment.model].classes]
    require_parts(parts, codes, {Part.TRAIN: share, Part.VALIDATION: rest, Part.TEST: rest})
    return parts


def _divide(experiment: Experiment, data: Data, share: float) -> dict[Part, NDArray[np.int64]]:
    parts = _split(experiment, data, share)
    return {
        part: np.asarray([index for index, sample in enumerate(data.samples) if parts[sample] is part], np.int64)
        for part in Part
    }


def build_head(experiment: Experiment, width: int, dropout: float) -> keras.Model:
    """Build the head of DESIGN's ResNet-50 on its own."""
    return keras.Sequential(
        [
            keras.Input((width,)),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(1024, "relu", kernel_regularizer=keras.regularizers.L2(experiment.l2)),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(len(SPECS[experiment.model].classes)),
        ]
    )


def _cell(share: float, dropout: float, batch: int, judged: tuple[float, float], minutes: float) -> Cell:
    return Cell(
        training_share=share,
        dropout=dropout,
        batch=batch,
        accuracy=round(judged[0], 4),
        balanced_accuracy=round(judged[1], 4),
        minutes=round(minutes, 2),
    )
