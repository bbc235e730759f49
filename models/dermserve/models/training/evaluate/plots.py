"""The report's figures, by matplotlib and scikit-learn, each one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import ConfusionMatrixDisplay, RocCurveDisplay, confusion_matrix

Floats: TypeAlias = NDArray[Any]

mpl.use("Agg")  # no window, and no display needed

_BINS = 10


def draw_confusion(path: Path, labels: Floats, probabilities: Floats, codes: Sequence[str]) -> None:
    """Draw the confusion matrix, photos by true class (rows) and answer (columns)."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    matrix = confusion_matrix(labels, probabilities.argmax(axis=1), labels=list(range(len(codes))))
    ConfusionMatrixDisplay(matrix, display_labels=list(codes)).plot(ax=figure.subplots(), cmap="Blues")
    figure.savefig(path, dpi=110)


def draw_roc(path: Path, labels: Floats, probabilities: Floats, codes: Sequence[str]) -> None:
    """Draw each class's ROC curve against the rest."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    for label, code in enumerate(codes):
        positives = labels == label
        if positives.any() and not positives.all():
            RocCurveDisplay.from_predictions(positives, probabilities[:, label], name=code, ax=axes)
    axes.plot((0, 1), (0, 1), ":", color="gray")
    figure.savefig(path, dpi=110)


def draw_malignancy(path: Path, malignant: Floats, risks: Floats, thresholds: Mapping[str, float]) -> None:
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


def draw_abstention(path: Path, curve: Sequence[Mapping[str, float]]) -> None:
    """Draw the error of malignant against benign over the share of photos that is answered."""
    figure = Figure(figsize=(6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([point["answered"] for point in curve], [point["error"] for point in curve], "o-")
    axes.set(xlabel="share of photos answered, the surest first", ylabel="malignant and benign confused", xlim=(0, 1))
    figure.savefig(path, dpi=110)


def draw_reliability(path: Path, curves: Mapping[str, tuple[Floats, Floats]]) -> None:
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


def draw_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
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
