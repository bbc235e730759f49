"""Run one training, from data to run folder (docs/training.md lists its files); weights are written last."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np

from dermserve.models.catalogue import SPECS
from dermserve.models.folding import fold_batch_norm
from dermserve.models.training.data.layouts import UNSTATED
from dermserve.models.training.data.splits import Part, write_split
from dermserve.models.training.errors import ExperimentError, RunError, file_digest, plain_name, write_json
from dermserve.models.training.train import checkpoint, finished
from dermserve.models.training.train.backbones import build_network
from dermserve.models.training.train.dataset import OTHERS, Data
from dermserve.models.training.train.experiment import Experiment
from dermserve.models.training.train.finished import FinishedRun
from dermserve.models.training.train.loop import train
from dermserve.models.training.train.network import estimate_batch_norm, select_trainable, training_copy

_STATISTICS_PHOTOS = 512


def run_training(
    experiment: Experiment,
    data: Data,
    folder: Path,
    *,
    backbone: Path | str | None,
    stated: Mapping[str, str] = UNSTATED,
    start: FinishedRun | None = None,
    teachers: Sequence[FinishedRun] = (),
    others: Data | None = None,
) -> None:
    """Train on a data set, from the folder's checkpoint if it has one, and write the run into the folder.

    `backbone` is a file, "imagenet" or None (random); `stated` what `read_provenance` returns.
    """
    _refuse(experiment, data, folder, teachers, others)
    begin, taught_by = backbone if start is None else start.weights, [teacher.weights for teacher in teachers]
    fingerprint = checkpoint.fingerprint(experiment, data.parts, begin, taught_by, others)
    keras.utils.set_random_seed(experiment.seed)
    network = build_network(experiment, backbone) if start is None else start.network(experiment, shifted=False)
    training, precision = data.part(Part.TRAIN), experiment.precision
    if start is None and any(stage.batch_norm == "train" for stage in experiment.stages):
        some = training.thinned(_STATISTICS_PHOTOS)
        estimate_batch_norm(network, np.asarray(some.images[some.rows]))
    copy = training_copy(network, precision=precision)
    for stage in experiment.stages:  # all of them: the last one may be hours away
        select_trainable(copy, stage.trainable, batch_norm=stage.batch_norm)
    with checkpoint.claimed(folder, fingerprint):
        write_json(folder / finished.EXPERIMENT, asdict(experiment))
        write_split(folder / finished.SPLIT, data.own)
        if others is not None:
            write_split(folder / OTHERS, others.own)
        history = train(
            copy,
            experiment,
            training=training,
            validation=data.part(Part.VALIDATION),
            folder=folder,
            teachers=[
                training_copy(fold_batch_norm(each.network(shifted=False)), precision=precision) for each in teachers
            ],
            others=None if others is None else others.part(Part.TRAIN),
        )
        network.set_weights(copy.get_weights())
        write_json(folder / finished.HISTORY, history)
        begun = (
            f"imagenet backbone ({plain_name(backbone) if isinstance(backbone, Path) else backbone}), random head"
            if backbone
            else "random"
        )
        begun = f"weights of the run {_name(start)}" if start else f"{begun} (seed {experiment.seed})"
        codes, counts = SPECS[experiment.model].codes, Counter((part, each.label) for each, part in data.parts.items())
        summary = {
            "model": experiment.model,
            **stated,
            "experiment": experiment.name,
            "initialization": "; distilled from ".join([begun, *map(_name, teachers)]),
            "photos": {part.value: {code: counts[part, i] for i, code in enumerate(codes)} for part in Part},
            "training_minutes": round(sum(epoch["seconds"] for epoch in history) / 60, 1),
        }
        if start is not None and "tested" in start.summary:
            summary["tested"] = start.summary["tested"]  # the split is the same, so its test photos were measured
        write_json(folder / finished.SUMMARY, summary)
        finished.save_weights(network, folder / finished.WEIGHTS)
        for file in folder.glob("partial-*"):
            file.unlink()  # of a process that was killed


def _refuse(
    experiment: Experiment, data: Data, folder: Path, teachers: Sequence[FinishedRun], others: Data | None
) -> None:
    """Raise RunError or ExperimentError for what does not fit, before anything is written."""
    if (folder / finished.WEIGHTS).exists():
        raise RunError(f"{folder} holds a finished run: pass another --out")
    if experiment.distillation is not None and not teachers:
        raise ExperimentError(f"{experiment.name} has [distillation]: pass its teachers with --teacher")
    if bool(experiment.outliers) != (others is not None):
        wrong = "has outliers: pass" if experiment.outliers else "has no outliers: leave out"
        raise ExperimentError(f"{experiment.name} {wrong} HAM10000 with --others")
    for teacher in teachers:
        _require_teacher(teacher, experiment, data)


def _require_teacher(teacher: FinishedRun, experiment: Experiment, data: Data) -> None:
    """Raise RunError for a teacher of another model, or one trained on photos or lesions that validate or test here."""
    if teacher.model != experiment.model:
        raise RunError(f"{teacher.folder} is a run of {teacher.model}, which can't teach {experiment.model}")
    trained = [photo for photo in teacher.split.values() if photo.part is Part.TRAIN]
    known = {name for photo in trained for name in (photo.lesion, photo.digest)}
    held = [sample for sample, part in data.parts.items() if part is not Part.TRAIN]
    if leaks := [sample.name for sample in held if not known.isdisjoint((sample.lesion, sample.digest))]:
        what = f"{len(leaks)} photos or lesions that validate or test here, such as {leaks[0]}"
        advice = "train the teacher by the same split (the same data, seed and shares)"
        raise RunError(f"{teacher.folder} was trained on {what}: {advice}")


def _name(run: FinishedRun) -> str:
    return f"{plain_name(run.folder)} ({run.experiment.teacher or run.model}), SHA-256 {file_digest(run.weights)[:16]}"
