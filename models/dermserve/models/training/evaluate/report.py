"""The report of a run: one HTML page, its figures as PNG and its numbers as JSON, in RUN/report."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay, confusion_matrix

from dermserve.models.catalogue import SPECS
from dermserve.models.training.errors import RunError
from dermserve.models.training.files import write_json
from dermserve.models.training.train.finished import FinishedRun

Floats: TypeAlias = NDArray[Any]

mpl.use("Agg")  # no window, and no display needed

_FIGURES = "figures.npz"
_BINS = 10


def keep_figures(run: FinishedRun, figures: Mapping[str, Any]) -> None:
    """Keep what evaluate_own returns under "figures" in the run, so that its report can be written again."""
    np.savez_compressed(run.folder / _FIGURES, **figures)


def write_report(run: FinishedRun, *, paper: FinishedRun | None = None) -> Path:
    """Write a run's report, from its numbers and the figures kept in it.

    Args:
        run: evaluated.
        paper: an evaluated run of the same model by the paper's protocol (random by image), to set beside it.

    Returns:
        The HTML page.

    Raises:
        RunError: a run is not evaluated.
    """
    if not (run.folder / _FIGURES).is_file():
        raise RunError(f"{run.folder} lacks {_FIGURES}: run `dermserve evaluate` on the data it was trained from")
    with np.load(run.folder / _FIGURES) as kept:
        figures: dict[str, Any] = dict(kept)
    folder = run.folder / "report"
    folder.mkdir(exist_ok=True)
    codes = [item.code for item in SPECS[run.model].classes]
    labels = figures["labels"]
    tta_labels = figures.get("tta_labels", labels)
    _draw_confusion(folder / "confusion.png", tta_labels, figures["tta"], codes)
    _draw_roc(folder / "roc.png", tta_labels, figures["tta"], codes)
    curves = {
        "before calibration": (labels, figures["before"]),
        "calibrated": (labels, figures["single"]),
        "ten views": (tta_labels, figures["tta"]),
    }
    _draw_reliability(folder / "reliability.png", curves)
    malignant = np.asarray([item.malignant for item in SPECS[run.model].classes])
    thresholds = {name: run.calibration[name]["threshold"] for name in ("rule_out", "rule_in")}
    risks = figures["single"][:, malignant].sum(axis=1)
    _draw_malignancy(folder / "malignancy.png", malignant[labels], risks, thresholds)
    _draw_abstention(folder / "abstention.png", run.summary["metrics"]["test"]["verdict"]["abstention"])
    _draw_history(folder / "curves.png", run.history)
    numbers = _numbers(run, paper)
    write_json(folder / "report.json", numbers)
    template = resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    page = folder / "index.html"
    page.write_text(
        environment.from_string(template).render(numbers=numbers, title=f"{run.model}: {run.experiment.name}"), "utf-8"
    )
    return page


def _numbers(run: FinishedRun, paper: FinishedRun | None) -> dict[str, Any]:
    keys = ("model", "experiment", "initialization", "photos", "training_minutes", "metrics", "other", "packed")
    numbers = {key: run.summary[key] for key in keys if key in run.summary}
    numbers["calibration"] = run.calibration
    numbers["protocol"] = run.experiment.protocol.value
    if paper is not None:
        numbers["paper"] = paper.summary["metrics"]["test"]
    return numbers


def _draw_confusion(path: Path, labels: Floats, probabilities: Floats, codes: Sequence[str]) -> None:
    """Draw the confusion matrix, photos by true class (rows) and answer (columns)."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=list(range(len(codes))))
    ConfusionMatrixDisplay(matrix, display_labels=list(codes)).plot(ax=figure.subplots(), cmap="Blues")
    figure.savefig(path, dpi=110)


def _draw_roc(path: Path, labels: Floats, probabilities: Floats, codes: Sequence[str]) -> None:
    """Draw each class's ROC curve against the rest."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    for label, code in enumerate(codes):
        positives = labels == label
        if positives.any() and not positives.all():
            RocCurveDisplay.from_predictions(positives, probabilities[:, label], name=code, ax=axes)
    axes.plot((0, 1), (0, 1), ":", color="gray")
    figure.savefig(path, dpi=110)


def _draw_malignancy(path: Path, malignant: Floats, risks: Floats, thresholds: Mapping[str, float]) -> None:
    """Draw the ROC curve of malignant against benign, with a point for each threshold."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    if malignant.any() and not malignant.all():
        RocCurveDisplay.from_predictions(malignant, risks, name="malignancy risk", ax=axes)
        for (name, threshold), marker in zip(thresholds.items(), "os", strict=True):
            point = ((risks[~malignant] >= threshold).mean(), (risks[malignant] >= threshold).mean())
            axes.plot(*point, marker, label=f"{name.replace('_', '-')}, risk {threshold:.3f}")
    axes.plot((0, 1), (0, 1), ":", color="gray")
    axes.legend()
    figure.savefig(path, dpi=110)


def _draw_abstention(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Draw the error of malignant against benign over the share of photos that is answered."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([point["answered"] for point in curve], [point["error"] for point in curve], "o-")
    axes.set(xlabel="share of photos answered, the surest first", ylabel="malignant and benign confused", xlim=(0, 1))
    figure.savefig(path, dpi=110)


def _draw_reliability(path: Path, curves: Mapping[str, tuple[Floats, Floats]]) -> None:
    """Draw accuracy over confidence, a curve for each pair of labels and probabilities."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), ":", color="gray", label="perfectly calibrated")
    for name, (labels, probabilities) in curves.items():
        hits = probabilities.argmax(axis=1) == labels
        accuracy, confidence = calibration_curve(hits, probabilities.max(axis=1).clip(0, 1), n_bins=_BINS)
        axes.plot(confidence, accuracy, "o-", label=name)
    axes.set(xlabel="confidence", ylabel="accuracy")
    axes.legend()
    figure.savefig(path, dpi=110)


def _draw_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss and accuracy over the epochs, with a line where a stage begins."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    epochs = range(1, len(history) + 1)
    starts = [index for index in epochs if history[index - 1]["epoch"] == 1]
    panels = (
        ("loss", ("loss", "validation_loss")),
        ("accuracy", ("accuracy", "validation_accuracy", "validation_balanced_accuracy")),
    )
    for axes, (title, names) in zip(figure.subplots(1, 2), panels, strict=True):
        for name in names:
            axes.plot(epochs, [epoch[name] for epoch in history], ".-", label=name.replace("_", " "))
        for start in starts:
            axes.axvline(start, color="lightgray", zorder=0)
        axes.set(xlabel="epoch", title=title)
        axes.legend()
    figure.savefig(path, dpi=110)
