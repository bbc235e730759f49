"""The run folder: everything one training leaves behind, and the order in which it comes about.

RUN/fingerprint.json  what the training depends on: experiment, photos, split, initial weights
RUN/experiment.json   the experiment, every field
RUN/split.csv         which photo was for what: its path within the data set, lesion_id, part, sha256
RUN/checkpoint.npz    where an unfinished training goes on from
RUN/frozen.npy        what frozen layers made of the photos, while training lasts
RUN/history.json      every epoch
RUN/run.json          data, times, seeds; later metrics and calibration
RUN/weights.weights.h5  the network's weights once training has ended
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.architectures import build
from dermserve.models.catalogue import SPECS
from dermserve.models.training import checkpoint
from dermserve.models.training.cache import load_pixels
from dermserve.models.training.checkpoint import Fingerprint, write_json
from dermserve.models.training.errors import DataError, RunError
from dermserve.models.training.experiment import Experiment
from dermserve.models.training.frozen import compute_frozen, forget_frozen, split_frozen
from dermserve.models.training.imagenet import load_backbone
from dermserve.models.training.layouts import Sample, Say, count_classes, read_samples, require_samples
from dermserve.models.training.loop import Epoch, Labelled, Progress, train
from dermserve.models.training.network import copy_back, estimate_batch_norm, training_copy
from dermserve.models.training.provenance import Provenance
from dermserve.models.training.splits import Part, Recorded, own_parts, require_parts, split, write_split

WEIGHTS = "weights.weights.h5"
EXPERIMENT = "experiment.json"
SPLIT = "split.csv"
HISTORY = "history.json"
SUMMARY = "run.json"
COMPACT = "weights.npz"

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
        chosen = [index for index, sample in enumerate(self.samples) if self.parts.get(sample) is part]
        labels = [self.samples[index].label for index in chosen]
        return Labelled(self.pixels, np.asarray(chosen, np.int64), np.asarray(labels, np.int64))

    def without_test(self) -> "Data":
        """Leave the photos that anything may be chosen by; what has no test photos can't look at them."""
        return replace(self, parts={sample: part for sample, part in self.parts.items() if part is not Part.TEST})


def prepare(
    experiment: Experiment,
    directory: Path,
    *,
    cache: Path,
    progress: Callable[[int], None] | None = None,
    say: Say = lambda _: None,
) -> Data:
    """Read, check, split and decode a data set; nothing is trained before all of it has been read.

    Args:
        experiment: whose model, split and seed to take.
        directory: the data set.
        cache: where decoded photos lie.
        progress: called with the number of photos decoded since the last call.
        say: told what was left out.

    Raises:
        DataError: a wrong layout, an unreadable photo, a class with too few lesions.
    """
    spec = SPECS[experiment.model]
    codes = [item.code for item in spec.classes]
    samples = read_samples(directory, codes, say=say)
    require_samples(samples, codes, minimum=experiment.minimum)
    parts = split(
        samples,
        protocol=experiment.protocol,
        validation=experiment.validation,
        test=experiment.test,
        seed=experiment.seed,
    )
    require_parts(parts, codes, _shares(experiment, samples))
    pixels = load_pixels(samples, folder=cache, side=spec.input_side, progress=progress)
    return Data(samples, pixels, parts)


def finished_data(experiment: Experiment, directory: Path, recorded: Mapping[str, Recorded], *, cache: Path) -> Data:
    """Read a run's data again, divided as its split.csv says.

    Raises:
        DataError: the data set lacks photos of the split, or has others under their names.
    """
    spec = SPECS[experiment.model]
    found = read_samples(directory, [item.code for item in spec.classes])
    samples = [sample for sample in found if sample.name in recorded]
    missing = recorded.keys() - {sample.name for sample in samples}
    if missing:
        raise DataError(
            f"{directory} lacks {len(missing)} photos of the run's split, such as {min(missing)}: pass its data"
        )
    changed = [sample.name for sample in samples if recorded[sample.name].digest != sample.digest]
    if changed:
        raise DataError(
            f"{directory} has {len(changed)} photos that are not those of the run's split, such as {changed[0]}: pass "
            "the data the run was trained from"
        )
    parts = {sample: recorded[sample.name].part for sample in samples}
    return Data(samples, load_pixels(samples, folder=cache, side=spec.input_side), parts)


def run_training(
    experiment: Experiment,
    data: Data,
    folder: Path,
    *,
    backbone: Path | str | None,
    progress: Progress,
    report: Callable[[Epoch], None],
    provenance: Provenance | None = None,
) -> None:
    """Train, from the folder's checkpoint where it has one, and leave the run in the folder.

    Args:
        experiment: what to do.
        data: what `prepare` returns.
        folder: of the run.
        backbone: initial weights: a file, "imagenet", or None for random ones.
        progress: called during an epoch.
        report: called after each epoch.
        provenance: the data set in words; nothing is stated when None.

    Raises:
        RunError: the folder holds a finished run, or one of another experiment, photos, split or initial weights.
        DivergedError: a loss is not finite.
    """
    if any((folder / name).exists() for name in (WEIGHTS, COMPACT)):
        raise RunError(f"{folder} holds a finished run: pass another --out")
    fingerprint = checkpoint.fingerprint(experiment, data.parts, backbone)
    checkpoint.claim(folder, fingerprint)
    started, stated = time.monotonic(), provenance or Provenance()
    keras.utils.set_random_seed(experiment.seed)
    network = initial_network(experiment, backbone)
    training = data.part(Part.TRAIN)
    statistics = training.thinned(_STATISTICS_PHOTOS)
    if not experiment.fold_batch_norm and any(stage.batch_norm == "train" for stage in experiment.stages):
        estimate_batch_norm(network, np.asarray(statistics.images[statistics.rows]))
    copy = training_copy(network, folded=experiment.fold_batch_norm, precision=experiment.precision)
    write_json(folder / EXPERIMENT, asdict(experiment))
    codes = [item.code for item in SPECS[experiment.model].classes]
    write_split(folder / SPLIT, data.parts)
    history = _train(copy, experiment, data, folder, fingerprint, progress=progress, report=report)
    copy_back(copy, network)
    if experiment.fold_batch_norm:
        estimate_batch_norm(network, np.asarray(statistics.images[statistics.rows]))
    write_json(folder / HISTORY, [asdict(epoch) for epoch in history])
    summary = {
        "model": experiment.model,
        "data": stated.data,
        "license": stated.weights_license,
        "experiment": experiment.name,
        "initialization": _describe_backbone(backbone, experiment.seed),
        "photos": {
            part.value: count_classes((s for s in data.samples if data.parts[s] is part), codes) for part in Part
        },
        "training_minutes": round(sum(epoch.seconds for epoch in history) / 60, 1),
        "last_session_minutes": round((time.monotonic() - started) / 60, 1),
    }
    write_json(folder / SUMMARY, summary)
    partial = folder / f"partial-{os.getpid()}-{WEIGHTS}"
    network.save_weights(partial)
    partial.rename(folder / WEIGHTS)


def _train(
    copy: keras.Model,
    experiment: Experiment,
    data: Data,
    folder: Path,
    fingerprint: Fingerprint,
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
        fingerprint=fingerprint,
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


def _shares(experiment: Experiment, samples: Sequence[Sample]) -> dict[Part, float | None]:
    """Give the share of each part that is to have every class; a data set's own test photos may lack some."""
    own, test = own_parts(samples), experiment.test
    validation = None if Part.VALIDATION in own else experiment.validation
    drawn = {Part.TRAIN: 1 - experiment.validation - test, Part.VALIDATION: validation}
    return drawn if Part.TEST in own else {**drawn, Part.TEST: test}


def _describe_backbone(backbone: Path | str | None, seed: int) -> str:
    if backbone is None:
        return f"random (seed {seed})"
    return f"imagenet backbone ({backbone if isinstance(backbone, str) else backbone.name}), random head (seed {seed})"
