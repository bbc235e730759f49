"""The run folder: everything one training leaves behind, and the order in which it comes about.

RUN/experiment.json   the experiment, every field
RUN/split.csv         which photo was for what: image_id, lesion_id, part
RUN/checkpoint.npz    where an unfinished training goes on from
RUN/frozen.npy        what frozen layers made of the photos, while training lasts
RUN/history.json      every epoch
RUN/run.json          data, times, seeds; later metrics and calibration
RUN/weights.weights.h5  the network's weights once training has ended
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.architectures import build
from dermserve.models.catalogue import SPECS
from dermserve.models.training import checkpoint
from dermserve.models.training.cache import load_pixels
from dermserve.models.training.errors import DataError, RunError
from dermserve.models.training.experiment import Experiment
from dermserve.models.training.frozen import compute_frozen, forget_frozen, split_frozen
from dermserve.models.training.imagenet import load_backbone
from dermserve.models.training.layouts import Sample, count_classes, read_samples, require_samples
from dermserve.models.training.loop import Epoch, Labelled, Progress, train
from dermserve.models.training.network import copy_back, estimate_batch_norm, training_copy
from dermserve.models.training.splits import Part, split, write_split

WEIGHTS = "weights.weights.h5"
EXPERIMENT = "experiment.json"
SPLIT = "split.csv"
HISTORY = "history.json"
SUMMARY = "run.json"

_STATISTICS_PHOTOS = 512


@dataclass(frozen=True, slots=True)
class Data:
    """A data set, decoded and split."""

    samples: Sequence[Sample]
    """Every photo."""
    pixels: NDArray[np.uint8]
    """uint8 [N, S, S, 3], in the order of the samples."""
    parts: Mapping[Sample, Part]
    """What each photo is for."""

    def part(self, part: Part) -> Labelled:
        """Return the photos of a part."""
        chosen = [index for index, sample in enumerate(self.samples) if self.parts[sample] is part]
        labels = [self.samples[index].label for index in chosen]
        return Labelled(self.pixels, np.asarray(chosen, np.int64), np.asarray(labels, np.int64))


def prepare(
    experiment: Experiment, directory: Path, *, cache: Path, progress: Callable[[int], None] | None = None
) -> Data:
    """Read, check, decode and split a data set; nothing is trained before all of it has been read.

    Raises:
        DataError: a wrong layout, an unreadable photo, a class with too few lesions.
    """
    spec = SPECS[experiment.model]
    codes = [item.code for item in spec.classes]
    samples = read_samples(directory, codes)
    require_samples(samples, codes, minimum=experiment.minimum)
    parts = split(
        samples,
        protocol=experiment.protocol,
        validation=experiment.validation,
        test=experiment.test,
        seed=experiment.seed,
    )
    pixels = load_pixels(samples, folder=cache, side=spec.input_side, progress=progress)
    return Data(samples, pixels, parts)


def finished_data(
    experiment: Experiment, directory: Path, recorded: Mapping[str, tuple[str, Part]], *, cache: Path
) -> Data:
    """Read a run's data again, divided as its split.csv says.

    Raises:
        DataError: the data set lacks photos of the split.
    """
    spec = SPECS[experiment.model]
    found = read_samples(directory, [item.code for item in spec.classes])
    samples = [sample for sample in found if sample.name in recorded]
    missing = recorded.keys() - {sample.name for sample in samples}
    if missing:
        raise DataError(
            f"{directory} lacks {len(missing)} photos of the run's split, such as {min(missing)}: pass its data"
        )
    parts = {sample: recorded[sample.name][1] for sample in samples}
    return Data(samples, load_pixels(samples, folder=cache, side=spec.input_side), parts)


def run_training(
    experiment: Experiment,
    data: Data,
    folder: Path,
    *,
    backbone: Path | str | None,
    progress: Progress,
    report: Callable[[Epoch], None],
) -> None:
    """Train, from the folder's checkpoint where it has one, and leave the run in the folder.

    Args:
        experiment: what to do.
        data: what `prepare` returns.
        folder: of the run.
        backbone: initial weights: a file, "imagenet", or None for random ones.
        progress: called during an epoch.
        report: called after each epoch.

    Raises:
        RunError: the folder holds a finished run, or one of another experiment.
    """
    if (folder / WEIGHTS).exists():
        raise RunError(f"{folder} holds a finished run: pass another --out")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    keras.utils.set_random_seed(experiment.seed)
    network = initial_network(experiment, backbone)
    training = data.part(Part.TRAIN)
    statistics = training.thinned(_STATISTICS_PHOTOS)
    if not experiment.fold_batch_norm and any(stage.batch_norm == "train" for stage in experiment.stages):
        estimate_batch_norm(network, np.asarray(statistics.images[statistics.rows]))
    copy = training_copy(network, folded=experiment.fold_batch_norm, precision=experiment.precision)
    (folder / EXPERIMENT).write_text(checkpoint.fingerprint(experiment) + "\n", encoding="utf-8")
    codes = [item.code for item in SPECS[experiment.model].classes]
    write_split(folder / SPLIT, data.parts)
    history = _train(copy, experiment, data, folder, progress=progress, report=report)
    copy_back(copy, network)
    if experiment.fold_batch_norm:
        estimate_batch_norm(network, np.asarray(statistics.images[statistics.rows]))
    _write_json(folder / HISTORY, [asdict(epoch) for epoch in history])
    summary = {
        "model": experiment.model,
        "experiment": experiment.name,
        "initialization": _describe_backbone(backbone, experiment.seed),
        "photos": {
            part.value: count_classes((s for s in data.samples if data.parts[s] is part), codes) for part in Part
        },
        "training_minutes": round(sum(epoch.seconds for epoch in history) / 60, 1),
        "last_session_minutes": round((time.monotonic() - started) / 60, 1),
    }
    _write_json(folder / SUMMARY, summary)
    partial = folder / f"partial-{WEIGHTS}"
    network.save_weights(partial)
    partial.rename(folder / WEIGHTS)


def _train(
    copy: keras.Model,
    experiment: Experiment,
    data: Data,
    folder: Path,
    *,
    progress: Progress,
    report: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train a copy, on what its frozen layers make of the photos where that is the same in every epoch."""
    training, validation = data.part(Part.TRAIN), data.part(Part.VALIDATION)
    halves = split_frozen(copy, experiment)
    if halves is not None:
        both = np.concatenate((training.rows, validation.rows))
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress("frozen layers", done, len(both))

        photos, side = Labelled(data.pixels, both, both), SPECS[experiment.model].input_side
        outputs = compute_frozen(halves.lower, photos, folder, side=side, progress=advance)
        training, validation = replace(training, images=outputs), replace(validation, images=outputs)
    history = train(
        copy if halves is None else halves.upper,
        experiment,
        training=training,
        validation=validation,
        folder=folder,
        progress=progress,
        report=report,
    )
    forget_frozen(folder)
    return history


def initial_network(experiment: Experiment, backbone: Path | str | None) -> keras.Model:
    """Build an experiment's network with its initial weights.

    Raises:
        RunError: the backbone's weights can't be had.
    """
    named = backbone if isinstance(backbone, str) else None
    network = build(experiment.model, backbone_weights=named, dropout=experiment.dropout, l2=experiment.l2)
    if isinstance(backbone, Path):
        load_backbone(network, backbone)
    return network


def _describe_backbone(backbone: Path | str | None, seed: int) -> str:
    if backbone is None:
        return f"random (seed {seed})"
    return f"imagenet backbone ({backbone if isinstance(backbone, str) else backbone.name}), random head (seed {seed})"


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
