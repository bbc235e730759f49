"""The figures of a report, by scikit-learn, with bootstrap intervals over lesions."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from scipy.stats import bootstrap as bootstrap_of
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    confusion_matrix,
    recall_score,
    roc_auc_score,
)

from dermserve.models.training.evaluate.calibration import expected_calibration_error, negative_log_likelihood

Floats: TypeAlias = NDArray[np.floating[Any]]
Labels: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

_ROUNDS = 1000
_FEWEST = 3
"""Lesions below which redrawing them says nothing."""


def measure(
    probabilities: Floats, labels: Labels, lesions: Sequence[str], codes: Sequence[str], *, seed: int = 0
) -> dict[str, Any]:
    """Measure predictions.

    Args:
        probabilities: float [N, C].
        labels: int64 [N].
        lesions: lesion of each photo; the bootstrap draws lesions, as their photos are not independent.
        codes: of the classes.
        seed: of the bootstrap.

    Returns:
        JSON values: accuracy and balanced accuracy with 95 % intervals, ECE, likelihood loss, macro and weighted
        averages, and for each class precision, recall, F1, support and AUC against the rest (None for an absent class).
    """
    answers = probabilities.argmax(axis=1)
    indices = list(range(len(codes)))
    report = classification_report(
        labels, answers, labels=indices, target_names=list(codes), output_dict=True, zero_division=0
    )
    for label, code in enumerate(codes):
        report[code]["auc"] = _auc(probabilities[:, label], labels == label)
    return {
        "photos": len(labels),
        "lesions": len(set(lesions)),
        "accuracy": accuracy_score(labels, answers),
        "balanced_accuracy": balanced(labels, answers),
        **intervals(labels, answers, lesions, seed=seed),
        "ece": expected_calibration_error(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
        "classes": {code: report[code] for code in codes},
        "macro": report["macro avg"],
        "weighted": report["weighted avg"],
        "confusion": confusion_matrix(labels, answers, labels=indices).tolist(),
    }


def operating_point(
    risks: Floats, malignant: Flags, lesions: Sequence[str], *, threshold: float
) -> dict[str, dict[str, float]]:
    """Give the sensitivity and specificity of a threshold on the malignancy risk, each with its 95 % interval.

    Args:
        risks: float [N].
        malignant: bool [N].
        lesions: lesion of each photo.
        threshold: from which a photo counts as malignant.
    """
    names, above = np.asarray(lesions), risks >= threshold
    return {
        "sensitivity": share_of(above[malignant], names[malignant]),
        "specificity": share_of(~above[~malignant], names[~malignant]),
    }


def share_of(hits: Flags, lesions: NDArray[np.str_]) -> dict[str, float]:
    """Give a share of photos with its 95 % percentile interval over redrawn lesions (scipy.stats.bootstrap).

    Where every photo is a hit or none is, no redrawing shows otherwise: the interval is the exact one of as many photos
    as there are lesions.
    """
    if not len(hits):
        return {"value": 0.0, "low": 0.0, "high": 1.0}
    value, (_, owner) = float(hits.mean()), np.unique(lesions, return_inverse=True)
    found, photos = np.bincount(owner, weights=hits), np.bincount(owner)
    if value in (0.0, 1.0) or len(photos) < _FEWEST:
        exact = binomtest(round(value * len(photos)), len(photos)).proportion_ci(0.95, method="exact")
        return {"value": value, "low": min(value, exact.low), "high": max(value, exact.high)}

    def ratio(hit: Floats, whole: Floats, axis: int = -1) -> Floats:
        return np.asarray(hit.sum(axis=axis) / whole.sum(axis=axis))

    drawn = bootstrap_of(
        (found, photos), ratio, paired=True, method="percentile", n_resamples=_ROUNDS, rng=np.random.default_rng(0)
    ).confidence_interval
    return {"value": value, "low": min(value, float(drawn.low)), "high": max(value, float(drawn.high))}


def risk_levels(
    labels: Labels, codes: Sequence[str], *, low: Flags, high: Flags, rejected: Flags
) -> dict[str, dict[str, int]]:
    """Count photos by class and by the level of their malignancy risk."""
    return {
        code: {
            "LOW": int((low & (labels == label)).sum()),
            "INTERMEDIATE": int((~(low | high | rejected) & (labels == label)).sum()),
            "HIGH": int((high & (labels == label)).sum()),
            "REJECTED": int((rejected & (labels == label)).sum()),
        }
        for label, code in enumerate(codes)
    }


def abstention_curve(risks: Floats, malignant: Flags) -> list[dict[str, float]]:
    """Give the error of malignant against benign among the surest photos, for each tenth of the photos more.

    Surest are those whose risk is nearest to 0 or 1; what is above a half counts as called malignant.
    """
    order = np.argsort(-np.abs(risks - 0.5), kind="stable")
    wrong = np.cumsum(((risks >= 0.5) != malignant)[order])
    counts = [max(1, len(order) * tenth // 10) for tenth in range(1, 11)]
    return [{"answered": count / len(order), "error": float(wrong[count - 1] / count)} for count in counts]


def balanced(labels: Labels, answers: Labels) -> float:
    """Mean recall over the classes that occur in the labels."""
    return float(recall_score(labels, answers, labels=np.unique(labels), average="macro", zero_division=0))


def intervals(labels: Labels, answers: Labels, lesions: Sequence[str], *, seed: int) -> dict[str, tuple[float, float]]:
    """Give the 95 % percentile intervals of the accuracy and the balanced accuracy over redrawn lesions."""
    _, owner = np.unique(np.asarray(lesions), return_inverse=True)
    count, classes = owner.max() + 1, max(labels.max(), answers.max()) + 1
    tables, rng = np.zeros((count, classes, classes)), np.random.default_rng(seed)
    np.add.at(tables, (owner, labels, answers), 1)
    times = [np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(_ROUNDS)]
    drawn = np.tensordot(np.asarray(times, float), tables, 1)  # a confusion matrix a round
    right, whole = np.diagonal(drawn, axis1=1, axis2=2), drawn.sum(axis=2)
    recalls = np.divide(right, whole, out=np.full_like(whole, np.nan), where=whole > 0)
    found = {"accuracy_95": right.sum(1) / whole.sum(1), "balanced_accuracy_95": np.nanmean(recalls, axis=1)}
    ends = {name: np.quantile(value, (0.025, 0.975)) for name, value in found.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _auc(scores: Floats, positives: NDArray[np.bool_]) -> float | None:
    return None if positives.all() or not positives.any() else float(roc_auc_score(positives, scores))
