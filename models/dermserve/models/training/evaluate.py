"""Evaluating a run: calibrate on its validation photos, measure on its test photos and on data it has not seen."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermserve.imaging import STANDARD_VIEWS
from dermserve.models.catalogue import SPECS
from dermserve.models.graph import FeatureDistance
from dermserve.models.training import calibration as fit
from dermserve.models.training import ood
from dermserve.models.training.cache import load_pixels
from dermserve.models.training.errors import DataError
from dermserve.models.training.experiment import Experiment
from dermserve.models.training.finished import FinishedRun
from dermserve.models.training.judging import ONE_VIEW, Judge, Judged, Seen
from dermserve.models.training.layouts import read_samples
from dermserve.models.training.loop import Labelled, Progress
from dermserve.models.training.metrics import measure
from dermserve.models.training.profile import measure_profile
from dermserve.models.training.run import Data, finished_data
from dermserve.models.training.splits import Part

MALIGNANT_RECALL = 0.95
"""Share of malignant photos that a confident answer may not call benign; the rest of the errors is abstained from."""
VIEW_STD_QUANTILE = 0.975
FALSE_REJECTIONS = 0.01
AGREEMENT = 0.999
"""Share of validation photos whose answer a look of ADAPTIVE may not change; stricter than the 99.5 % that is promised
of photos nobody has seen."""
LOOKS = (1, 3)
"""Views after which ADAPTIVE may stop."""
RECALLS: Mapping[str, float] = MappingProxyType({"mel": 0.65})
"""By class code, the share of its validation photos that is to be answered with it: melanoma is the one that kills."""

_TURNED = sum(name not in ("darker", "brighter") for name in STANDARD_VIEWS)
_DISTANCE_RANK = 16
_DISTANCE_PHOTOS = 2000


def evaluate_own(
    run: FinishedRun,
    data: Path,
    *,
    cache: Path,
    precision: str,
    progress: Progress,
    thin: int = 1,
    price: float = 0.0,
) -> dict[str, Any]:
    """Calibrate and measure a run on the data it was trained from, and write both into the run.

    Args:
        run: a finished run.
        data: the data set it was trained from.
        cache: where decoded photos and what the network said of them lie.
        precision: of the arithmetic; see predict.predict.
        progress: called with what is going on, photos done and photos in all.
        thin: N, to take ten views of every Nth photo alone, and one view of all.
        price: how much of the validation accuracy, 0..1, the recall of the classes in RECALLS may cost at most.

    Returns:
        {"calibration", "metrics", "figures"}; the first two are also in run.json.

    Raises:
        DataError: the data set lacks photos of the run's split.
    """
    photos = finished_data(run.experiment, data, run.split, cache=cache)
    judge = Judge(network=run.network(shifted=False), cache=cache, precision=precision, progress=progress)

    def see(part: Part) -> Seen:
        return judge.see(photos.part(part), photos.samples, part.value, thin=thin)

    validation = see(Part.VALIDATION)
    distance = _fit_distance(judge, photos)
    shift, found = _calibrate(run, validation, distance, price=price)
    test = see(Part.TEST)
    metrics = {
        "validation": _measures(run, validation, shift, found, distance),
        "test": _measures(run, test, shift, found, distance),
    }
    run.save_calibration(found, shift=shift, distance=distance, metrics=metrics)
    identity = fit.softmax((validation.one.outputs.logits[:, 0] + shift) / found["temperature"])
    strangers = _rejected(judge.strangers(seed=1), distance, found["max_ood_score"])
    run.update(profile=measure_profile(photos.part(Part.VALIDATION), identity), strangers_rejected=strangers)
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
    judge = Judge(network=run.network(shifted=False), cache=cache, precision=precision, progress=progress)
    measured = _measures(run, judge.see(photos, samples, name), run.shift, run.calibration, run.distance)
    run.save_other(name, measured)
    return measured


def _fit_distance(judge: Judge, photos: Data) -> FeatureDistance:
    chosen = photos.part(Part.TRAIN).thinned(_DISTANCE_PHOTOS)
    trained = judge.look(chosen, photos.samples, Part.TRAIN.value, views=ONE_VIEW)
    strangers = np.concatenate(list(judge.strangers(seed=0).values()))
    return ood.fit_distance(trained.outputs.features, trained.labels, strangers=strangers, rank=_DISTANCE_RANK)


def _rejected(
    features: Mapping[str, NDArray[np.float32]], distance: FeatureDistance, threshold: float
) -> dict[str, float]:
    return {kind: float((ood.scores(distance, values) > threshold).mean()) for kind, values in features.items()}


def _calibrate(
    run: FinishedRun, validation: Seen, distance: FeatureDistance, *, price: float
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Fit the shift of the logits, the temperature and the thresholds."""
    one, ten, classes = validation.one, validation.ten, SPECS[run.model].classes
    shift = _shift(run, one, price=price)
    logits = one.outputs.logits[:, 0] + shift
    temperature = fit.fit_temperature(logits, one.labels, views=ten.outputs.logits + shift, owners=ten.labels)
    views, single = fit.softmax((ten.outputs.logits + shift) / temperature), fit.softmax(logits / temperature)
    malignant = np.asarray([item.malignant for item in classes])
    scores = ood.scores(distance, one.outputs.features)
    first, *later = fit.fit_looks(views, agreement=AGREEMENT, views=LOOKS, turned=_TURNED)
    return shift, {
        "temperature": temperature,
        "min_confidence": fit.fit_min_confidence(single, one.labels, malignant, recall=MALIGNANT_RECALL),
        "max_view_std": fit.fit_max_view_std(views, quantile=VIEW_STD_QUANTILE),
        "adaptive_margin": first.margin,
        "adaptive_looks": [dataclasses.asdict(look) for look in later],
        "max_ood_score": ood.fit_max_score(scores, false_rejections=FALSE_REJECTIONS),
        "method": _method(run.model, len(validation.one.labels), len(ten.labels), price=price),
    }


def _shift(run: FinishedRun, one: Judged, *, price: float) -> NDArray[np.float64]:
    """Fit what is added to the logits: for the classes' frequencies, then for the recall of those in RECALLS."""
    logits, classes = one.outputs.logits[:, 0].astype(np.float64), SPECS[run.model].classes
    shift = _prior_shift(run.experiment, logits, one.labels)
    for label, item in enumerate(classes):
        if item.code in RECALLS:
            wanted: Any = {"label": label, "recall": RECALLS[item.code], "price": price}
            shift[label] += fit.fit_recall_shift(logits + shift, one.labels, **wanted)
    return shift


def _prior_shift(experiment: Experiment, logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Undo as much of the balanced drawing of classes as serves accuracy and balanced accuracy together."""
    sizes = np.bincount(labels, minlength=logits.shape[1]).astype(float)
    power = experiment.balance + experiment.class_weights
    if not power:
        return np.zeros_like(sizes)
    whole = power * (np.log(sizes) - np.log(sizes).mean())
    return np.asarray(fit.fit_prior_shift(logits, labels, whole) * whole)


def _method(model: str, one: int, ten: int, *, price: float) -> str:
    raised = ", ".join(
        f"{code} {RECALLS[code]:.0%}" for code in (c.code for c in SPECS[model].classes) if code in RECALLS
    )
    recall = f"logit raised for a recall of {raised}, for at most {price:.1%} of accuracy; " if raised else ""
    return (
        f"on {one} validation photos (ten views: {ten}), split as the run's split.csv: {recall}"
        "temperature by likelihood of one view and of the mean of ten; "
        f"min_confidence so that at most {1 - MALIGNANT_RECALL:.0%} of malignant photos are confidently called benign "
        f"by one view, and at least three quarters; max_view_std at the {VIEW_STD_QUANTILE:.1%} quantile; "
        f"adaptive_margin and adaptive_looks each for {AGREEMENT:.1%} agreement with ten views, the {_TURNED} turned "
        "and mirrored views taken in every order; "
        "max_ood_score (Mahalanobis distance of pooled features of unit length, along the directions that drawn "
        f"pictures without skin tell) at {FALSE_REJECTIONS:.0%} false rejections"
    )


def _measures(
    run: FinishedRun, seen: Seen, shift: NDArray[np.float64], found: dict[str, Any], distance: FeatureDistance
) -> dict[str, Any]:
    """Measure one part: single view, ten views, and what the thresholds do."""
    codes = [item.code for item in SPECS[run.model].classes]
    one, ten = seen.one, seen.ten
    raw = fit.softmax(one.outputs.logits[:, 0])
    single = fit.softmax((one.outputs.logits[:, 0] + shift) / found["temperature"])
    views = fit.softmax((ten.outputs.logits + shift) / found["temperature"])
    averaged, stopping = views.mean(axis=1), fit.stop_early(views, _looks(found))
    before = {"ece_before": fit.expected_calibration_error(raw, one.labels)}
    return {
        "single": measure(single, one.labels, one.lesions, codes) | before,
        "tta": measure(averaged, ten.labels, ten.lesions, codes),
        "adaptive": {"agreement": stopping.agreement, "views_saved": stopping.saved},
        "rejected": float((ood.scores(distance, one.outputs.features) > found["max_ood_score"]).mean()),
        "verdict": _verdicts(run.model, averaged, fit.top_class_std(views), ten.labels, found),
    }


def _looks(found: dict[str, Any]) -> list[fit.Look]:
    return [fit.Look(1, found["adaptive_margin"]), *(fit.Look(**look) for look in found.get("adaptive_looks", ()))]


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


def _figures(test: Seen, shift: NDArray[np.float64], temperature: float) -> dict[str, Any]:
    """Collect what the report draws."""
    single = test.one.outputs.logits[:, 0] + shift
    return {
        "labels": test.one.labels,
        "before": fit.softmax(single),
        "single": fit.softmax(single / temperature),
        "tta_labels": test.ten.labels,
        "tta": fit.mean_probabilities(test.ten.outputs.logits + shift, temperature),
    }
