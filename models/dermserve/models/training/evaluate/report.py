"""The report of a run: one HTML page, its figures as PNG and its numbers as JSON, in RUN/report."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay, confusion_matrix

from dermserve.models.catalogue import SPECS
from dermserve.models.training.errors import write_json
from dermserve.models.training.evaluate.calibration import softmax
from dermserve.models.training.evaluate.fitting import Fitted
from dermserve.models.training.evaluate.predictions import PartPredictions
from dermserve.models.training.train.finished import FinishedRun

mpl.use("Agg")  # no window, and no display needed

_BINS = 10
_NUMBERS = (
    "model", "experiment", "initialization", "photos", "training_minutes", "calibration", "metrics", "packed"
)  # fmt: skip


def write_report(run: FinishedRun, fitted: Fitted, test: PartPredictions, *, paper: Mapping[str, Any] | None) -> None:
    """Write the report of a run that has just been evaluated.

    `paper` has the "metrics" of a run of the same model, split by image as in the paper, to show beside it.
    """
    folder = run.folder / "report"
    folder.mkdir(exist_ok=True)
    _draw_answers(folder, fitted, test)
    _draw_abstention(folder, run)
    _draw_history(folder, run)
    numbers = {key: run.summary[key] for key in _NUMBERS if key in run.summary}
    numbers["protocol"] = run.experiment.protocol.value
    if paper is not None:
        numbers["paper"] = paper["test"]
    write_json(folder / "report.json", numbers)
    template = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    made = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(template)
    page = made.render(numbers=numbers, title=f"{run.model}: {run.experiment.name}")
    (folder / "index.html").write_text(page, "utf-8")


@contextmanager
def _axes(path: Path) -> Iterator[Any]:
    """Save what is drawn on the axes."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    yield figure.subplots()
    figure.savefig(path, dpi=110)


def _draw_answers(folder: Path, fitted: Fitted, test: PartPredictions) -> None:
    """Draw the confusion matrix, ROC curves of classes and malignancy, and reliability on test photos."""
    codes, malignant = SPECS[fitted.model].codes, fitted.malignant
    labels, single = test.one.labels, fitted.probabilities(test.one)[:, 0]
    owners, ten = test.ten.labels, fitted.probabilities(test.ten).mean(axis=1)
    with _axes(folder / "confusion.png") as axes:
        matrix = confusion_matrix(owners, ten.argmax(axis=1), labels=list(range(len(codes))))
        ConfusionMatrixDisplay(matrix, display_labels=codes).plot(ax=axes, cmap="Blues")
    with _axes(folder / "roc.png") as axes:
        for label, code in enumerate(codes):
            _draw_roc(axes, owners == label, ten[:, label], code)
        axes.plot((0, 1), (0, 1), ":", color="gray")
    with _axes(folder / "malignancy.png") as axes:
        ill, risks = malignant[labels], single[:, malignant].sum(axis=1)
        if _draw_roc(axes, ill, risks, "malignancy risk"):
            for name, marker in (("rule_out", "o"), ("rule_in", "s")):
                threshold = fitted.calibration[name]["threshold"]
                point = (risks[~ill] >= threshold).mean(), (risks[ill] >= threshold).mean()
                axes.plot(*point, marker, label=f"{name.replace('_', '-')}, risk {threshold:.3f}")
            axes.legend()
        axes.plot((0, 1), (0, 1), ":", color="gray")
    with _axes(folder / "reliability.png") as axes:
        axes.plot((0, 1), (0, 1), ":", color="gray", label="perfectly calibrated")
        before = softmax(test.one.logits[:, 0] + fitted.shift)
        curves = {"before calibration": (labels, before), "calibrated": (labels, single), "ten views": (owners, ten)}
        for name, (true, found) in curves.items():
            hits, confidence = found.argmax(axis=1) == true, found.max(axis=1).clip(0, 1)
            accuracy, mean = calibration_curve(hits, confidence, n_bins=_BINS)
            axes.plot(mean, accuracy, "o-", label=name)
        axes.set(xlabel="confidence", ylabel="accuracy")
        axes.legend()


def _draw_roc(axes: Any, positives: Any, scores: Any, name: str) -> bool:
    """Draw a ROC curve if there are photos of both kinds; return whether there are."""
    both = bool(positives.any() and not positives.all())
    if both:
        RocCurveDisplay.from_predictions(positives, scores, name=name, ax=axes)
    return both


def _draw_abstention(folder: Path, run: FinishedRun) -> None:
    curve = run.summary["metrics"]["test"]["verdict"]["abstention"]
    with _axes(folder / "abstention.png") as axes:
        axes.plot([point["answered"] for point in curve], [point["error"] for point in curve], "o-")
        what = "share of photos answered, the surest first"
        axes.set(xlabel=what, ylabel="malignant and benign confused", xlim=(0, 1))


def _draw_history(folder: Path, run: FinishedRun) -> None:
    figure, history = Figure(figsize=(10, 4.2), layout="constrained"), run.history
    epochs = range(1, len(history) + 1)
    panels = {
        "loss": ("loss", "validation_loss"),
        "accuracy": ("accuracy", "validation_accuracy", "validation_balanced_accuracy"),
    }
    for axes, (title, names) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        for name in names:
            axes.plot(epochs, [epoch[name] for epoch in history], ".-", label=name.replace("_", " "))
        for start in (index for index in epochs if history[index - 1]["epoch"] == 1):
            axes.axvline(start, color="lightgray", zorder=0)
        axes.set(xlabel="epoch", title=title)
        axes.legend()
    figure.savefig(folder / "curves.png", dpi=110)
