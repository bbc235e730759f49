"""Evaluating a run: calibrate on its validation photos, measure on its test photos once, and on other data."""

from pathlib import Path
from typing import Any

import numpy as np

from dermserve.models.catalogue import SPECS
from dermserve.models.training.data.cache import load_pixels
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.splits import Part
from dermserve.models.training.errors import DataError
from dermserve.models.training.evaluate.fitting import (
    Fitted,
    calibrate,
    fit_distance,
    fit_scope,
    good_measures,
    malignant_classes,
)
from dermserve.models.training.evaluate.measuring import (
    figures,
    measure_profile,
    measures,
    note_points,
    other_lesions,
    spoiled,
    strangers,
)
from dermserve.models.training.evaluate.others import Others, read_others
from dermserve.models.training.evaluate.predictions import PartPredictions, Predictor
from dermserve.models.training.evaluate.tested import claim_test
from dermserve.models.training.train.finished import FinishedRun
from dermserve.models.training.train.loop import Labelled, Progress
from dermserve.models.training.train.run import Data, finished_data, read_also


def evaluate_own(
    run: FinishedRun,
    data: Path,
    *,
    cache: Path,
    precision: str,
    progress: Progress,
    thin: int = 1,
    price: float = 0.0,
    others: Path | None = None,
    also: Path | None = None,
    again: str | None = None,
) -> dict[str, Any]:
    """Calibrate and measure a run on the data it was trained from, and write both into the run.

    Args:
        run: a finished run.
        data: the data set it was trained from.
        cache: where decoded photos and what the network said of them lie.
        precision: of the arithmetic; see predictions.Predictor.
        progress: called with what is going on, photos done and photos in all.
        thin: N, to take ten views of every Nth photo alone, and one view of all.
        price: how much of the validation accuracy, 0..1, the recall of the classes in RECALLS may cost at most.
        others: HAM10000, whose other classes the model's scope is fitted to; for a model that does not know them all.
        also: photos of the same lesions at another resolution, which thresholds are to suit, too.
        again: why test photos are measured although they were before, with other weights or rules.

    Returns:
        {"calibration", "metrics", "figures"}; the first two are also in run.json.

    Raises:
        DataError: the data set lacks photos of the run's split.
        RunError: test photos were measured with other weights or rules, and `again` gives no reason.
    """
    photos = finished_data(run.experiment, data, run.split, cache=cache)
    sets = [photos] if also is None else [photos, read_also(photos, also, SPECS[run.model], cache=cache)]
    names = [data.resolve().name] if also is None else [data.resolve().name, also.resolve().name]
    predictor = Predictor(network=run.network(shifted=False), cache=cache, precision=precision, progress=progress)

    def predict_part(part: Part) -> list[PartPredictions]:
        return [
            predictor.predict_part(each.part(part), each.samples, part.value, name=name, thin=thin)
            for each, name in zip(sets, names, strict=True)
        ]

    validation = predict_part(Part.VALIDATION)
    distance = fit_distance(predictor, sets)
    outside = None if others is None else _read_others(run, photos, others, cache=cache)
    fitted = calibrate(run, validation, good_measures(sets, validation), distance, price=price)
    if outside is not None:
        fitted = fit_scope(fitted, predictor, photos, validation[0], outside)
    claim_test(run, predictor.network, fitted.calibration, fitted.shift, again=again)
    test = predict_part(Part.TEST)
    note_points(fitted, test[0])
    metrics: dict[str, Any] = {
        "validation": measures(fitted, validation[0]),
        "test": measures(fitted, test[0]),
        "spoiled": spoiled(photos.part(Part.TEST), fitted),
        "strangers": strangers(predictor, fitted),
    }
    if also is not None:
        metrics["also"] = {"validation": measures(fitted, validation[1]), "test": measures(fitted, test[1])}
    if outside is not None:
        metrics["others"] = other_lesions(fitted, predictor, outside[Part.TEST])
    run.save_calibration(fitted.calibration, shift=fitted.shift, distance=fitted.distance, metrics=metrics)
    identity = fitted.probabilities(validation[0].one)[:, 0]
    run.update(profile=measure_profile(photos.part(Part.VALIDATION), identity))
    return {"calibration": fitted.calibration, "metrics": metrics, "figures": figures(fitted, test[0])}


def evaluate_other(
    run: FinishedRun,
    data: Path,
    *,
    name: str,
    cache: Path,
    precision: str,
    progress: Progress,
    others: Path | None = None,
) -> dict[str, Any]:
    """Measure a calibrated run on another data set, leaving out every photo and lesion it was trained or validated on.

    Args:
        run: a calibrated run.
        data: the data set.
        name: what its figures are called in run.json.
        cache: where decoded photos and what the network said of them lie.
        precision: of the arithmetic.
        progress: called with what is going on.
        others: photos of HAM10000's classes, of which those that the model does not know are measured, too.

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
    predictor = Predictor(network=run.network(shifted=False), cache=cache, precision=precision, progress=progress)
    fitted = Fitted(run.model, run.shift, run.distance, run.calibration)
    measured = measures(fitted, predictor.predict_part(photos, samples, name, name=name))
    if others is not None:
        parts = read_others(run, others, cache=cache)
        measured["others"] = other_lesions(fitted, predictor, parts[Part.TEST])
    run.save_other(name, measured)
    return measured


def _read_others(run: FinishedRun, photos: Data, directory: Path, *, cache: Path) -> dict[Part, Others]:
    malignant = malignant_classes(run.model)
    known = [sample for sample in photos.samples if malignant[sample.label]]
    return read_others(run, directory, cache=cache, known=known)
