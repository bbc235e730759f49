"""Evaluate a run: calibrate on validation photos, measure test photos once, or measure other data; write the report."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay

from dermserve.contract import SCHEMA_VERSION
from dermserve.models.catalogue import SPECS
from dermserve.models.durable import replacing
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.photos import Labelled, load_pixels
from dermserve.models.training.data.splits import Part, Protocol, write_split
from dermserve.models.training.errors import DataError, RunError, file_digest, read_json
from dermserve.models.training.evaluate import measuring
from dermserve.models.training.evaluate.calibration import Fitted, calibrate
from dermserve.models.training.evaluate.fitting import softmax
from dermserve.models.training.evaluate.predictions import PartPredictions, Predictor
from dermserve.models.training.terminal import say
from dermserve.models.training.train.dataset import OTHERS, finished_data, read_also, read_others
from dermserve.models.training.train.finished import DISTANCE, HISTORY, FinishedRun, claim_test, save_distance

_BINS = 10


def evaluate_own(
    run: FinishedRun, data: Path, *, cache: Path, thin: int = 1, others: Path | None = None, also: Path | None = None,
    again: str | None = None, paper: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Calibrate and measure a run on the data it was trained from; write both and a report into it. Return the figures.

    Ten views are run of every `thin`-th photo only. `others` is HAM10000, to fit the scope to. Thresholds must suit
    `also`, the same lesions at another resolution, too. `again` says why test photos are measured again with other
    weights or rules. `paper` is an evaluated run, split by image, to show beside it in the report.
    """
    beside = None if paper is None else FinishedRun(paper)
    if beside and (beside.model, beside.experiment.protocol) != (run.model, Protocol.IMAGE):
        raise RunError(f'{paper} is no run of {run.model} that was split by image (protocol = "image")')
    shown = beside.evaluated("metrics") if beside else None  # refused before the work
    report = run.folder / "report"
    report.mkdir(exist_ok=True)
    _draw_history(report / "curves.png", run)
    photos = finished_data(run, data, cache=cache)
    if Part.TEST not in photos.parts.values():
        raise RunError(f"{run.folder} has no test photos: train with a share for test, or measure other data (--other)")
    sets = [photos] if also is None else [photos, read_also(photos, also)]
    if lacking := [part.value for part in Part if part not in sets[-1].parts.values()]:
        raise DataError(f"{also} has no photo for {' and '.join(lacking)} in the run's split: leave --also out")
    predictor = Predictor(network=run.network(shifted=False), cache=cache)

    def predict_part(part: Part, *, claimed: bool = False) -> list[PartPredictions]:
        chosen = [replace(each, claimed=claimed).part(part) for each in sets]
        return [predictor.predict_part(each, part.value, thin=thin) for each in chosen]

    outside, recorded = None, run.folder / OTHERS
    if others is not None:
        outside = read_others(photos, others, recorded=recorded)
        write_split(recorded, outside.own)
    validation = predict_part(Part.VALIDATION)
    fitted = calibrate(run, predictor, sets, validation, outside)
    claim_test(run, predictor.network, fitted.calibration, fitted.shift, again)
    test, photos = predict_part(Part.TEST, claimed=True), replace(photos, claimed=True)
    for name in ("rule_out", "rule_in"):
        fitted.calibration[name] |= measuring.operating_point(fitted, name, test[0].one)
    of_each = [
        {"validation": measuring.measures(fitted, held), "test": measuring.measures(fitted, tested)}
        for held, tested in zip(validation, test, strict=True)
    ]
    metrics: dict[str, Any] = {
        **of_each[0],
        "spoiled": {
            name: measuring.spoiled(predictor, fitted, photos.part(Part(name))) for name in ("validation", "test")
        },
        "strangers": measuring.strangers(predictor, fitted),
    }
    if also is not None:
        metrics["also"] = of_each[1]
    if outside is not None:
        metrics["others"] = measuring.other_lesions(fitted, predictor, replace(outside, claimed=True).part(Part.TEST))
    run.update(calibration=None)  # until all files are of the new one: the command may be interrupted
    save_distance(fitted.distance, run.folder / DISTANCE)
    identity = fitted.probabilities(validation[0].one)[:, 0]
    run.update(
        schema_version=SCHEMA_VERSION,
        calibration=fitted.calibration,
        distance=file_digest(run.folder / DISTANCE),
        prior_shift=fitted.shift.tolist(),
        metrics=metrics,
        other={},  # figures of the former calibration
        profile=measuring.measure_profile(photos.part(Part.VALIDATION), identity),
    )
    _write_report(report, run, fitted, test[0], paper=shown)
    return metrics


def evaluate_other(run: FinishedRun, data: Path, *, name: str, cache: Path) -> dict[str, Any]:
    """Measure a calibrated run on data without the lesions that it was trained or validated on; also into run.json."""
    spec = SPECS[run.model]
    found = read_samples(data, spec.codes)
    samples = [sample for sample in found if run.unseen(sample)]
    if used := len(found) - len(samples):
        say(f"left out {used} of {len(found)} photos: their lesions, bytes or file names trained or validated the run")
    if not samples:
        raise DataError(f"the run was trained or validated on every lesion in {data}: pass photos of others")
    photos = Labelled.whole(load_pixels(samples, folder=cache, side=spec.input_side), samples=samples)
    predictor = Predictor(network=run.network(shifted=False), cache=cache)
    fitted = Fitted(run.model, run.shift, run.distance, run.calibration)
    measured = measuring.measures(fitted, predictor.predict_part(photos, name))
    run.update(other={**run.summary.get("other", {}), name: measured})
    return measured


def _write_report(
    folder: Path, run: FinishedRun, fitted: Fitted, test: PartPredictions, *, paper: Mapping[str, Any] | None
) -> None:
    _draw_answers(folder, fitted, test)
    curve = run.summary["metrics"]["test"]["verdict"]["abstention"]
    with _axes(folder / "abstention.png") as axes:
        axes.plot([point["answered"] for point in curve], [point["error"] for point in curve], "o-")
        axes.set(xlabel="share answered, the surest first", ylabel="malignant and benign confused", xlim=(0, 1))
    template = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    made = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(template)
    beside = {"split_by": run.experiment.protocol.value, "paper": paper and paper["test"]}
    page = made.render(numbers=run.summary, title=f"{run.model}: {run.experiment.name}", **beside)
    with replacing(folder / "index.html") as partial:
        partial.write_text(page, "utf-8")


@contextmanager
def _axes(path: Path, count: int = 1) -> Iterator[Any]:
    figure = Figure(figsize=(6 * count, 5.2), layout="constrained")
    yield figure.subplots(1, count)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)


def _draw_answers(folder: Path, fitted: Fitted, test: PartPredictions) -> None:
    codes, malignant = SPECS[fitted.model].codes, fitted.malignant
    labels, single = test.one.labels, fitted.probabilities(test.one)[:, 0]
    owners, ten = test.ten.labels, fitted.probabilities(test.ten).mean(axis=1)
    with _axes(folder / "confusion.png") as axes:
        how = {"labels": list(range(len(codes))), "display_labels": codes, "cmap": "Blues", "ax": axes}
        ConfusionMatrixDisplay.from_predictions(owners, ten.argmax(axis=1), **how)
    with _axes(folder / "roc.png") as axes:
        for label, code in enumerate(codes):
            _draw_roc(axes, owners == label, ten[:, label], code)
        axes.plot((0, 1), (0, 1), ":", color="gray")
    with _axes(folder / "malignancy.png") as axes:
        if _draw_roc(axes, malignant[labels], fitted.risks(test.one), "malignancy risk"):
            for name, marker in (("rule_out", "o"), ("rule_in", "s")):
                point = fitted.calibration[name]  # with what was measured on test photos
                said = f"{name.replace('_', '-')}, risk {point['threshold']:.3f}"
                axes.plot(1 - point["specificity"]["value"], point["sensitivity"]["value"], marker, label=said)
            axes.legend()
        axes.plot((0, 1), (0, 1), ":", color="gray")
    with _axes(folder / "reliability.png") as axes:
        before = softmax(test.one.logits[:, 0])
        curves = {"before calibration": (labels, before), "calibrated": (labels, single), "ten views": (owners, ten)}
        for name, (true, found) in curves.items():
            hits, confidence = found.argmax(axis=1) == true, found.max(axis=1).clip(0, 1)
            CalibrationDisplay.from_predictions(hits, confidence, n_bins=_BINS, name=name, ax=axes)
        axes.set(xlabel="confidence", ylabel="accuracy")


def _draw_roc(axes: Any, positives: Any, scores: Any, name: str) -> bool:
    """Draw a ROC curve if there are photos of both kinds; return whether there are."""
    both = bool(positives.any() and not positives.all())
    if both:
        RocCurveDisplay.from_predictions(positives, scores, name=name, ax=axes)
    return both


def _draw_history(path: Path, run: FinishedRun) -> None:
    """Draw the figures of each epoch. Raises RunError: their file is damaged."""
    history = read_json(run.folder / HISTORY, list)
    loss, accuracy = ("loss", "validation_loss"), ("accuracy", "validation_accuracy", "validation_balanced_accuracy")
    try:
        epochs = range(1, len(history) + 1)
        with _axes(path, 2) as panels:
            for axes, names in zip(panels, (loss, accuracy), strict=True):
                for name in names:
                    axes.plot(epochs, [epoch[name] for epoch in history], ".-", label=name.replace("_", " "))
                for start in (index for index in epochs if history[index - 1]["epoch"] == 1):
                    axes.axvline(start, color="lightgray", zorder=0)
                axes.set(xlabel="epoch", title=names[0])
                axes.legend()
    except (KeyError, TypeError) as error:
        raise RunError(f"{run.folder / HISTORY} is damaged ({error!r}): restore it, or train again") from error
