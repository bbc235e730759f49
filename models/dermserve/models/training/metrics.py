"""The figures of a report, by scikit-learn, with bootstrap intervals over lesions."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    confusion_matrix,
    recall_score,
    roc_auc_score,
)

from dermserve.models.training.calibration import expected_calibration_error, negative_log_likelihood

Floats: TypeAlias = NDArray[np.floating[Any]]
Labels: TypeAlias = NDArray[np.int64]

_ROUNDS = 1000


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
        "accuracy_95": bootstrap(accuracy_score, labels, answers, lesions, seed=seed),
        "balanced_accuracy": balanced(labels, answers),
        "balanced_accuracy_95": bootstrap(balanced, labels, answers, lesions, seed=seed),
        "ece": expected_calibration_error(probabilities, labels),
        "nll": negative_log_likelihood(probabilities, labels),
        "classes": {code: report[code] for code in codes},
        "macro": report["macro avg"],
        "weighted": report["weighted avg"],
        "confusion": confusion_matrix(labels, answers, labels=indices).tolist(),
    }


def balanced(labels: Labels, answers: Labels) -> float:
    """Mean recall over the classes that occur in the labels."""
    return float(recall_score(labels, answers, labels=np.unique(labels), average="macro", zero_division=0))


def bootstrap(
    figure: Callable[[Labels, Labels], float], labels: Labels, answers: Labels, lesions: Sequence[str], *, seed: int
) -> tuple[float, float]:
    """Give the 95 % percentile interval of a figure over redrawn lesions."""
    _, owner = np.unique(np.asarray(lesions), return_inverse=True)
    members = [np.flatnonzero(owner == lesion) for lesion in range(owner.max() + 1)]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(_ROUNDS):
        drawn = np.concatenate([members[index] for index in rng.integers(len(members), size=len(members))])
        found.append(figure(labels[drawn], answers[drawn]))
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def _auc(scores: Floats, positives: NDArray[np.bool_]) -> float | None:
    return None if positives.all() or not positives.any() else float(roc_auc_score(positives, scores))
