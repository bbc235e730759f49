"""Evaluate a run: calibrate on validation photos, measure test photos once, or measure other data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dermserve.models.catalogue import SPECS
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.photos import Labelled, load_pixels
from dermserve.models.training.data.splits import Part, write_split
from dermserve.models.training.errors import DataError, RunError
from dermserve.models.training.evaluate import fitting, measuring
from dermserve.models.training.evaluate.predictions import PartPredictions, Predictor
from dermserve.models.training.evaluate.report import write_report
from dermserve.models.training.train.dataset import finished_data, read_also
from dermserve.models.training.train.finished import DISTANCE, FinishedRun, claim_test, save_distance
from dermserve.models.training.train.others import OTHERS, read_others


def evaluate_own(
    run: FinishedRun,
    data: Path,
    *,
    cache: Path,
    thin: int = 1,
    others: Path | None = None,
    also: Path | None = None,
    again: str | None = None,
    paper: FinishedRun | None = None,
) -> dict[str, Any]:
    """Calibrate and measure a run on the data it was trained from; write both and a report into it. Return the figures.

    Ten views are run of every `thin`-th photo only. `others` is HAM10000, to fit the scope to. `also` has the same
    lesions at another resolution, which thresholds must suit as well. `again` says why test photos are measured again
    with other weights or rules. `paper` is an evaluated run, split by image, to show beside it in the report.

    Raises:
        DataError: the data set lacks photos of the run's split.
        RunError: test photos were measured with other weights or rules, and `again` is not given; or there are none.
    """
    beside = None if paper is None else paper.evaluated("metrics")  # refused before the work
    photos = finished_data(run.experiment, data, run.split, cache=cache)
    if Part.TEST not in photos.parts.values():
        raise RunError(f"{run.folder} has no test photos: train with a share for test, or measure other data (--other)")
    sets, names = [photos], [data.resolve().name]
    if also is not None:
        sets.append(read_also(photos, also, SPECS[run.model], cache=cache))
        names.append(also.resolve().name)
    predictor = Predictor(network=run.network(shifted=False), cache=cache)

    def predict_part(part: Part, *, claimed: bool = False) -> list[PartPredictions]:
        chosen = [replace(each, claimed=claimed).part(part) for each in sets]
        return [predictor.predict_part(each, part.value, thin=thin) for each in chosen]

    outside = None
    if others is not None:
        outside = read_others(run.model, others, recorded=run.folder / OTHERS, cache=cache, known=photos.samples)
        write_split(run.folder / OTHERS, outside.own)
    validation, distance = predict_part(Part.VALIDATION), fitting.fit_distance(predictor, sets, outside)
    fitted = fitting.calibrate(run, sets, names, validation, distance)
    if outside is not None:
        fitted = fitting.fit_scope(fitted, predictor, photos, outside)
    claim_test(run, predictor.network, fitted.calibration, fitted.shift, again)
    test, photos = predict_part(Part.TEST, claimed=True), replace(photos, claimed=True)
    measuring.note_points(fitted, test[0])
    metrics: dict[str, Any] = {
        "validation": measuring.measures(fitted, validation[0]),
        "test": measuring.measures(fitted, test[0]),
        "spoiled": {
            part.value: measuring.spoiled(predictor, fitted, photos.part(part)) for part in (Part.VALIDATION, Part.TEST)
        },
        "strangers": measuring.strangers(predictor, fitted),
    }
    if also is not None:
        parts = {"validation": validation[1], "test": test[1]}
        metrics["also"] = {part: measuring.measures(fitted, found) for part, found in parts.items()}
    if outside is not None:
        metrics["others"] = measuring.other_lesions(fitted, predictor, replace(outside, claimed=True).part(Part.TEST))
    run.update(calibration=None)  # until all files are of the new one: the command may be interrupted
    save_distance(fitted.distance, run.folder / DISTANCE)
    identity = fitted.probabilities(validation[0].one)[:, 0]
    run.update(
        calibration=fitted.calibration,
        prior_shift=fitted.shift.tolist(),
        metrics=metrics,
        other={},  # figures of the former calibration
        profile=measuring.measure_profile(photos.part(Part.VALIDATION), identity),
    )
    write_report(run, fitted, test[0], paper=beside)
    return metrics


def evaluate_other(run: FinishedRun, data: Path, *, name: str, cache: Path) -> dict[str, Any]:
    """Measure a calibrated run on another data set, without photos and lesions that it was trained or validated on.

    run.json has the figures under `name`.

    Raises:
        DataError: no photo is left.
        RunError: the run is not calibrated.
    """
    spec = SPECS[run.model]
    samples = [sample for sample in read_samples(data, spec.codes) if run.unseen(sample)]
    if not samples:
        raise DataError(f"the run was trained or validated on every lesion in {data}: pass photos of others")
    pixels = load_pixels(samples, folder=cache, side=spec.input_side)
    photos = Labelled.whole(pixels, samples=samples)
    predictor = Predictor(network=run.network(shifted=False), cache=cache)
    fitted = fitting.Fitted(run.model, run.shift, run.distance, run.calibration)
    measured = measuring.measures(fitted, predictor.predict_part(photos, name))
    run.update(other={**run.summary.get("other", {}), name: measured})
    return measured
