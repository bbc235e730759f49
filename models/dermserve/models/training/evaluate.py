"""Evaluating a run: calibrate on its validation photos, measure on its test photos and on data it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.imaging import STANDARD_VIEWS
from dermserve.models.catalogue import SPECS
from dermserve.models.training import calibration as fit
from dermserve.models.training import ood
from dermserve.models.training.cache import load_pixels
from dermserve.models.training.errors import DataError
from dermserve.models.training.experiment import Experiment
from dermserve.models.training.finished import FinishedRun
from dermserve.models.training.layouts import Sample, read_samples
from dermserve.models.training.loop import Labelled, Progress
from dermserve.models.training.metrics import measure
from dermserve.models.training.predict import Outputs, predict
from dermserve.models.training.profile import measure_profile
from dermserve.models.training.run import finished_data
from dermserve.models.training.splits import Part

MALIGNANT_RECALL = 0.95
"""Share of malignant photos that a confident answer may not call benign; the rest of the errors is abstained from."""
VIEW_STD_QUANTILE = 0.975
FALSE_REJECTIONS = 0.01
AGREEMENT = 0.995

_DISTANCE_RANK = 256
_DISTANCE_PHOTOS = 4000


@dataclass(frozen=True, slots=True)
class _Judged:
    """Photos, what the network said of them, and whose they are."""

    outputs: Outputs
    labels: NDArray[np.int64]
    lesions: list[str]


def evaluate_own(run: FinishedRun, data: Path, *, cache: Path, precision: str, progress: Progress) -> dict[str, Any]:
    """Calibrate and measure a run on the data it was trained from, and write both into the run.

    Args:
        run: a finished run.
        data: the data set it was trained from.
        cache: where decoded photos lie.
        precision: of the arithmetic; see predict.predict.
        progress: called with what is going on, photos done and photos in all.

    Returns:
        {"calibration", "metrics", "figures"}; the first two are also in run.json.

    Raises:
        DataError: the data set lacks photos of the run's split.
    """
    photos = finished_data(run.experiment, data, run.split, cache=cache)
    network = run.network(shifted=False)

    def judge(part: Part, views: Sequence[str] = STANDARD_VIEWS, most: int | None = None) -> _Judged:
        chosen = photos.part(part).thinned(most)
        return _judge(network, chosen, photos.samples, part.value, views, precision, progress)

    validation = judge(Part.VALIDATION)
    shift = _prior_shift(run, validation)
    distance = ood.fit_distance(*_features(judge(Part.TRAIN, ("identity",), _DISTANCE_PHOTOS)), rank=_DISTANCE_RANK)
    found = _calibrate(run.model, validation, shift, distance)
    test = judge(Part.TEST)
    metrics = {
        "validation": _measures(run, validation, shift, found, distance),
        "test": _measures(run, test, shift, found, distance),
    }
    run.save_calibration(found, shift=shift, distance=distance, metrics=metrics)
    identity = fit.softmax((validation.outputs.logits[:, 0] + shift) / found["temperature"])
    run.update(profile=measure_profile(photos.part(Part.VALIDATION), identity))
    return {"calibration": found, "metrics": metrics, "figures": _figures(test, shift, found["temperature"])}


def evaluate_other(
    run: FinishedRun, data: Path, *, name: str, cache: Path, precision: str, progress: Progress
) -> dict[str, Any]:
    """Measure a calibrated run on another data set, leaving out every photo and lesion it was trained or validated on.

    Raises:
        DataError: nothing is left.
        RunError: the run has not been calibrated.
    """
    samples = [
        sample for sample in read_samples(data, [item.code for item in SPECS[run.model].classes]) if run.unseen(sample)
    ]
    if not samples:
        raise DataError(f"the run has trained or validated on every lesion in {data}: nothing is left to measure on")
    pixels = load_pixels(samples, folder=cache, side=SPECS[run.model].input_side)
    labels = np.asarray([sample.label for sample in samples], np.int64)
    photos = Labelled(pixels, np.arange(len(samples)), labels)
    judged = _judge(run.network(shifted=False), photos, samples, name, STANDARD_VIEWS, precision, progress)
    measured = _measures(run, judged, run.shift, run.calibration, run.distance)
    run.save_other(name, measured)
    return measured


def _judge(
    network: keras.Model,
    photos: Labelled,
    samples: Sequence[Sample],
    what: str,
    views: Sequence[str],
    precision: str,
    progress: Progress,
) -> _Judged:
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(what, done, len(photos))

    outputs = predict(network, photos, views=views, precision=precision, progress=advance)
    return _Judged(outputs, photos.labels, [samples[row].lesion for row in photos.rows])


def _features(judged: _Judged) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return judged.outputs.features, judged.labels


def _prior_shift(run: FinishedRun, validation: _Judged) -> NDArray[np.float64]:
    """Undo as much of the balanced drawing of classes as serves accuracy and balanced accuracy together."""
    experiment: Experiment = run.experiment
    sizes = np.bincount(validation.labels, minlength=len(SPECS[run.model].classes)).astype(float)
    power = experiment.balance + experiment.class_weights
    if not power:
        return np.zeros_like(sizes)
    whole = power * (np.log(sizes) - np.log(sizes).mean())
    share = fit.fit_prior_shift(validation.outputs.logits[:, 0], validation.labels, whole)
    return np.asarray(share * whole)


def _calibrate(model: str, validation: _Judged, shift: NDArray[np.float64], distance: Any) -> dict[str, Any]:
    logits = validation.outputs.logits + shift
    temperature = fit.fit_temperature(logits[:, 0], validation.labels)
    views = fit.softmax(logits / temperature)
    malignant = np.asarray([item.malignant for item in SPECS[model].classes])
    recall = MALIGNANT_RECALL
    return {
        "temperature": temperature,
        "min_confidence": fit.fit_min_confidence(views.mean(axis=1), validation.labels, malignant, recall=recall),
        "max_view_std": fit.fit_max_view_std(views, quantile=VIEW_STD_QUANTILE),
        "adaptive_margin": fit.fit_adaptive_margin(views, agreement=AGREEMENT).margin,
        "max_ood_score": ood.fit_max_score(
            ood.scores(distance, validation.outputs.features), false_rejections=FALSE_REJECTIONS
        ),
        "method": _method(len(validation.labels)),
    }


def _method(photos: int) -> str:
    return (
        f"on {photos} validation photos, split as the run's split.csv: temperature by likelihood of the single view; "
        f"min_confidence so that at most {1 - MALIGNANT_RECALL:.0%} of malignant photos are confidently called benign "
        f"over ten views, and at least three quarters; max_view_std at the {VIEW_STD_QUANTILE:.1%} quantile; "
        f"adaptive_margin for {AGREEMENT:.1%} agreement with ten views; "
        f"max_ood_score (Mahalanobis distance of pooled features) at {FALSE_REJECTIONS:.0%} false rejections"
    )


def _measures(
    run: FinishedRun, judged: _Judged, shift: NDArray[np.float64], found: dict[str, Any], distance: Any
) -> dict[str, Any]:
    """Measure one part: single view, ten views, and what the thresholds do."""
    codes = [item.code for item in SPECS[run.model].classes]
    logits = judged.outputs.logits + shift
    views = fit.softmax(logits / found["temperature"])
    single, averaged = views[:, 0], views.mean(axis=1)
    stopping = fit.stop_early(views, found["adaptive_margin"])
    raw = fit.expected_calibration_error(fit.softmax(judged.outputs.logits[:, 0]), judged.labels)
    return {
        "single": measure(single, judged.labels, judged.lesions, codes) | {"ece_before": raw},
        "tta": measure(averaged, judged.labels, judged.lesions, codes),
        "adaptive": {"agreement": stopping.agreement, "views_saved": stopping.saved},
        "rejected": float((ood.scores(distance, judged.outputs.features) > found["max_ood_score"]).mean()),
        "verdict": _verdicts(run.model, averaged, fit.top_class_std(views), judged.labels, found),
    }


def _verdicts(
    model: str, averaged: NDArray[np.float64], spread: NDArray[np.float64], labels: NDArray[np.int64], found: Any
) -> dict[str, float]:
    malignant = np.asarray([item.malignant for item in SPECS[model].classes])
    confident = (averaged.max(axis=1) >= found["min_confidence"]) & (spread <= found["max_view_std"])
    answers = averaged.argmax(axis=1)
    ill = malignant[labels]
    missed = ill & confident & ~malignant[answers]
    return {
        "abstained": float(1 - confident.mean()),
        "accuracy_when_confident": float((answers == labels)[confident].mean()) if confident.any() else 0.0,
        "malignant_not_missed": float(1 - missed.sum() / max(1, ill.sum())),
        "malignant_called_malignant": float(malignant[answers][ill].mean()) if ill.any() else 0.0,
    }


def _figures(test: _Judged, shift: NDArray[np.float64], temperature: float) -> dict[str, Any]:
    """Collect what the report draws."""
    single = test.outputs.logits[:, 0] + shift
    return {
        "labels": test.labels,
        "before": fit.softmax(single),
        "single": fit.softmax(single / temperature),
        "tta": fit.mean_probabilities(test.outputs.logits + shift, temperature),
    }
