"""The run folder: everything one training leaves behind, and the order in which it comes about.

RUN/fingerprint.json  what the training depends on: experiment, photos, split, initial weights, teachers
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
from typing import TYPE_CHECKING

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.catalogue import SPECS, Spec
from dermserve.models.training.data.cache import load_pixels
from dermserve.models.training.data.layouts import Say, read_samples
from dermserve.models.training.data.provenance import Provenance
from dermserve.models.training.data.samples import Sample, count_classes, require_samples
from dermserve.models.training.data.splits import Part, Recorded, own_parts, require_parts, split, write_split
from dermserve.models.training.errors import DataError, RunError
from dermserve.models.training.files import file_digest, write_json
from dermserve.models.training.train import checkpoint
from dermserve.models.training.train.checkpoint import Fingerprint
from dermserve.models.training.train.experiment import Experiment
from dermserve.models.training.train.frozen import compute_frozen, forget_frozen, split_frozen
from dermserve.models.training.train.imagenet import load_backbone
from dermserve.models.training.train.loop import Epoch, Labelled, Progress, train
from dermserve.models.training.train.network import copy_back, estimate_batch_norm, training_copy
from dermserve.models.training.train.teachers import build_network

if TYPE_CHECKING:
    from dermserve.models.training.train.finished import FinishedRun

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
    also: int = 0
    """How many of them, the last, are of another data set: the same lesions' photos at another resolution."""

    @property
    def own(self) -> dict[Sample, Part]:
        """The split of the data set's own photos."""
        return {sample: self.parts[sample] for sample in self.samples[: len(self.samples) - self.also]}

    def part(self, part: Part) -> Labelled:
        """Return the photos of a part."""
        chosen = np.asarray([i for i, sample in enumerate(self.samples) if self.parts.get(sample) is part], np.int64)
        labels = np.asarray([sample.label for sample in self.samples], np.int64)
        if not self.also:
            return Labelled(self.pixels, chosen, labels[chosen])
        possible = np.ones((len(labels), labels.max() + 1), np.float32)
        possible[-self.also :] = np.isin(np.arange(labels.max() + 1), labels[-self.also :])
        return Labelled(self.pixels, chosen, labels[chosen], possible[chosen])

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


def read_also(data: Data, directory: Path, spec: Spec, *, cache: Path, say: Say = lambda _: None) -> Data:
    """Read another data set's photos of the same lesions, at another resolution, each for what its lesion is for.

    Photos are matched by file name; those of lesions that the split does not know are left out, as nothing says that
    they are not of lesions that test.

    Raises:
        DataError: a wrong layout, an unreadable photo, or no photo of the split's lesions.
    """
    known = {sample.path.stem: (sample.lesion, part) for sample, part in data.parts.items()}
    found = read_samples(directory, [item.code for item in spec.classes])
    parts = {}
    for sample in (sample for sample in found if sample.path.stem in known):
        lesion, part = known[sample.path.stem]
        parts[replace(sample, lesion=lesion, within=f"{directory.name}/{sample.name}")] = part
    if not parts:
        raise DataError(f"{directory} has no photo named as one of the split: pass photos of the same lesions")
    if len(parts) < len(found):
        say(f"{directory}: {len(found) - len(parts)} of {len(found)} photos left out, as the split does not know them")
    samples = list(parts)
    return Data(samples, load_pixels(samples, folder=cache, side=spec.input_side), parts)


def with_also(data: Data, also: Data, spec: Spec, *, cache: Path) -> Data:
    """Put what `read_also` returns behind a data set's own photos, to be trained on together."""
    samples = [*data.samples, *also.samples]
    pixels = load_pixels(samples, folder=cache, side=spec.input_side)
    return Data(samples, pixels, {**data.parts, **also.parts}, also=len(also.samples))


def run_training(
    experiment: Experiment,
    data: Data,
    folder: Path,
    *,
    backbone: Path | str | None,
    progress: Progress,
    report: Callable[[Epoch], None],
    provenance: Provenance | None = None,
    start: "FinishedRun | None" = None,
    teachers: Sequence["FinishedRun"] = (),
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
        start: a finished run to go on from, whole, instead of a backbone; its data are stated where provenance is not.
        teachers: finished runs to learn from beside the labels, none of which trained on what validates or tests here.

    Raises:
        RunError: the folder holds a finished run, or one of another experiment, photos, split, initial weights or
            teachers; or a teacher can't teach this model.
        DivergedError: a loss is not finite.
    """
    if any((folder / name).exists() for name in (WEIGHTS, COMPACT)):
        raise RunError(f"{folder} holds a finished run: pass another --out")
    for teacher in teachers:
        _require_teacher(teacher, experiment, data)
    begin = backbone if start is None else start.weights
    fingerprint = checkpoint.fingerprint(experiment, data.parts, begin, [teacher.weights for teacher in teachers])
    checkpoint.claim(folder, fingerprint)
    began = time.monotonic()
    keras.utils.set_random_seed(experiment.seed)
    network = initial_network(experiment, backbone) if start is None else start.network(shifted=False)
    training = data.part(Part.TRAIN)
    statistics = training.thinned(_STATISTICS_PHOTOS)
    learns_norm = any(stage.batch_norm == "train" for stage in experiment.stages)
    if learns_norm and start is None and not experiment.fold_batch_norm:
        estimate_batch_norm(network, np.asarray(statistics.images[statistics.rows]))
    copy = training_copy(network, folded=experiment.fold_batch_norm, precision=experiment.precision)
    write_json(folder / EXPERIMENT, asdict(experiment))
    codes = [item.code for item in SPECS[experiment.model].classes]
    write_split(folder / SPLIT, data.own)
    taught = [training_copy(teacher.network(shifted=False), folded=True, precision="float32") for teacher in teachers]
    history = _train(copy, experiment, data, folder, fingerprint, taught, progress=progress, report=report)
    copy_back(copy, network)
    if experiment.fold_batch_norm:
        estimate_batch_norm(network, np.asarray(statistics.images[statistics.rows]))
    write_json(folder / HISTORY, [asdict(epoch) for epoch in history])
    summary = {
        "model": experiment.model,
        **_state(provenance or Provenance(), start),
        "experiment": experiment.name,
        "initialization": "; distilled from ".join(
            [_initialization(experiment, backbone, start), *map(_name, teachers)]
        ),
        "photos": {
            part.value: count_classes((s for s in data.samples if data.parts[s] is part), codes) for part in Part
        },
        "training_minutes": round(sum(epoch.seconds for epoch in history) / 60, 1),
        "last_session_minutes": round((time.monotonic() - began) / 60, 1),
    }
    if start is not None and "tested" in start.summary:
        summary["tested"] = start.summary["tested"]  # the split goes on, and so do looks at its test photos
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
    teachers: Sequence[keras.Model],
    *,
    progress: Progress,
    report: Callable[[Epoch], None],
) -> list[Epoch]:
    """Train a copy, on what its frozen layers make of the photos where that is the same in every epoch."""
    training, validation = data.part(Part.TRAIN), data.part(Part.VALIDATION)
    halves = None if teachers else split_frozen(copy, experiment)  # teachers want the photos themselves
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
        teachers=teachers,
    )
    forget_frozen(folder)
    return history


def initial_network(experiment: Experiment, backbone: Path | str | None) -> keras.Model:
    """Build an experiment's network with its initial weights.

    Raises:
        RunError: the backbone's weights can't be had.
    """
    named = backbone if isinstance(backbone, str) else None
    if named is not None and experiment.teacher is not None:
        raise RunError(f"Keras has no weights of {experiment.teacher}: pass their .npz file as --weights")
    network = build_network(experiment, backbone_weights=named)
    if isinstance(backbone, Path):
        load_backbone(network, backbone)
    return network


def _shares(experiment: Experiment, samples: Sequence[Sample]) -> dict[Part, float | None]:
    """Give the share of each part that is to have every class; a data set's own test photos may lack some."""
    own, test = own_parts(samples), experiment.test
    validation = None if Part.VALIDATION in own else experiment.validation
    drawn = {Part.TRAIN: 1 - experiment.validation - test, Part.VALIDATION: validation}
    return drawn if Part.TEST in own else {**drawn, Part.TEST: test}


def _state(provenance: Provenance, start: "FinishedRun | None") -> dict[str, str]:
    """Say what the weights were trained on, and the licence that follows: that of a run gone on from holds on."""
    if start is None or provenance != Provenance():
        return {"data": provenance.data, "license": provenance.weights_license}
    return {key: start.summary[key] for key in ("data", "license")}


def _require_teacher(teacher: "FinishedRun", experiment: Experiment, data: Data) -> None:
    """Refuse a teacher of another model, or one that has learned the answers to photos that validate or test."""
    if teacher.model != experiment.model:
        raise RunError(f"{teacher.folder} is a run of {teacher.model}, which can't teach {experiment.model}")
    trained = [photo for photo in teacher.split.values() if photo.part is Part.TRAIN]
    known = {photo.lesion for photo in trained} | {photo.digest for photo in trained}
    held = [sample for sample, part in data.parts.items() if part is not Part.TRAIN]
    leaks = [sample.name for sample in held if not known.isdisjoint((sample.lesion, sample.digest))]
    if leaks:
        raise RunError(
            f"{teacher.folder} was trained on {len(leaks)} photos or lesions that validate or test here, such as "
            f"{leaks[0]}: train the teacher by the same split (the same data, seed and shares)"
        )


def _initialization(experiment: Experiment, backbone: Path | str | None, start: "FinishedRun | None") -> str:
    if start is not None:
        return f"weights of the run {_name(start)}"
    if backbone is None:
        return f"random (seed {experiment.seed})"
    name = backbone if isinstance(backbone, str) else backbone.name
    return f"imagenet backbone ({name}), random head (seed {experiment.seed})"


def _name(run: "FinishedRun") -> str:
    network = run.experiment.teacher or run.model
    return f"{run.folder.resolve().name} ({network}), SHA-256 {file_digest(run.weights)[:16]}"
