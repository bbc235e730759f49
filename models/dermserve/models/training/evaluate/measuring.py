"""Figures of a calibrated run on photos, with bootstrap intervals over lesions; and the card's profile."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import classification_report, confusion_matrix, roc_auc_score

from dermserve.models.catalogue import SPECS
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.spoiling import HARD, SPOILED, spoil
from dermserve.models.training.evaluate import fitting as fit
from dermserve.models.training.evaluate import predictions as predict
from dermserve.models.training.evaluate.calibration import Fitted
from dermserve.models.training.evaluate.fitting import Labels
from dermserve.models.training.evaluate.pictures import draw_no_skin
from dermserve.models.training.evaluate.predictions import Flags, Floats, PartPredictions, Predictions, Predictor
from dermserve.models.training.train.dataset import CODES
from dermserve.models.training.train.loop import accuracies

_ROUNDS = 1000
_ENDS = (0.025, 0.975)  # of an interval
_FEWEST = 3  # lesions for a bootstrap
_SPOILED_PHOTOS = 200
_BINS = 10


def measures(fitted: Fitted, part: PartPredictions) -> dict[str, Any]:
    """Measure one part of a data set: one view, ten views, ADAPTIVE, and the verdicts."""
    codes = SPECS[fitted.model].codes
    one, ten, found = part.one, part.ten, fitted.calibration
    views = fitted.probabilities(ten)
    later = {look["views"]: look["margin"] for look in found.get("adaptive_looks", ())}
    agreement, saved = fit.stop_early(views, {1: found["adaptive_margin"], **later})
    before = {"ece_before": fit.expected_calibration_error(fit.softmax(one.logits[:, 0]), one.labels)}
    return {
        "single": measure(fitted.probabilities(one)[:, 0], one.labels, one.lesions, codes) | before,
        "tta": measure(views.mean(axis=1), ten.labels, ten.lesions, codes),
        "adaptive": {"agreement": agreement, "views_saved": saved},
        "verdict": _verdicts(fitted, one),
        "verdict_tta": _verdicts(fitted, ten),
    }


def _verdicts(fitted: Fitted, judged: Predictions) -> dict[str, Any]:
    decided, ill = fitted.decide(judged), fitted.malignant[judged.labels]
    answers = fitted.probabilities(judged).mean(axis=1).argmax(axis=1)
    flags = predict.quality_flags(judged.photos.measures, fitted.calibration["quality"])
    unlimited = {name: value for name, value in fitted.calibration.items() if name != "max_scope_score"}
    everything = dataclasses.replace(fitted, calibration=unlimited).decide(judged)
    levels = {
        "LOW": decided.low,
        "INTERMEDIATE": ~(decided.low | decided.high | decided.rejected),
        "HIGH": decided.high,
        "REJECTED": decided.rejected,
    }
    return {
        "photos": len(ill),
        "malignant": int(ill.sum()),
        "confident": float(decided.confident.mean()),
        "abstained": float(1 - (decided.confident | decided.rejected).mean()),
        "rejected": float(decided.rejected.mean()),
        "out_of_scope": float(decided.strange.mean()),
        "abstained_for_scope_alone": float((everything.confident & ~decided.confident).mean()),
        "bad_quality": float(decided.bad.mean()),
        "quality": {name: float(flag.mean()) for name, flag in flags.items()},
        "named": float(decided.named.mean()),
        "accuracy_when_named": _share((answers == judged.labels)[decided.named]),
        "malignancy_right_when_confident": _share((fitted.malignant[answers] == ill)[decided.confident]),
        "malignant_confidently_benign": _share((decided.confident & ~fitted.malignant[answers])[ill]),
        "levels": {
            info.code: {level: int((flags & (judged.labels == label)).sum()) for level, flags in levels.items()}
            for label, info in enumerate(SPECS[fitted.model].classes)
        },
        **{name: operating_point(fitted, name, judged) for name in ("rule_out", "rule_in")},
        "abstention": _abstention_curve(fitted.risks(judged), ill),
    }


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def spoiled(predictor: Predictor, fitted: Fitted, photos: Labelled) -> dict[str, dict[str, float | None]]:
    """Measure spoiled photos, by kind and one view, as JSON values.

    `noticed` is the share beyond a limit on quality, `malignant_low` that of malignant photos that are LOW, if any.
    """
    some, skin, found = photos.thinned(_SPOILED_PHOTOS), SPECS[fitted.model].skin, {}
    skins = [some.images[row] for row in some.rows[some.labels == skin]] or [None]
    ill = fitted.malignant[some.labels]
    for kind in (*SPOILED, *HARD):
        images = np.stack([spoil(some.images[r], kind, skins[i % len(skins)]) for i, r in enumerate(some.rows)])
        flags = predict.quality_flags(Labelled.whole(images).measures, fitted.calibration["quality"])
        low = fitted.decide(predictor.predict(Labelled.whole(images[ill]), kind)).low if ill.any() else ill[:0]
        found[kind] = {"noticed": float(np.any(list(flags.values()), axis=0).mean()), "malignant_low": _share(low)}
    return found


def strangers(predictor: Predictor, fitted: Fitted) -> dict[str, dict[str, float]]:
    """Measure drawn pictures without skin that the score was not fitted to, by kind."""
    found = {}
    for kind, drawn in draw_no_skin(predictor.network.inputs[0].shape[1], seed=1).items():
        decided = fitted.decide(predictor.predict(Labelled.whole(drawn), kind))
        stopped = decided.rejected | decided.bad | decided.strange
        found[kind] = {"rejected": float(decided.rejected.mean()), "rejected_or_uncertain": float(stopped.mean())}
    return found


def other_lesions(fitted: Fitted, predictor: Predictor, others: Labelled) -> dict[str, Any]:
    """Measure lesions of classes that the model does not know, labelled by HAM10000's class."""
    decided = fitted.decide(predictor.predict(others, "other lesions, test"))
    codes = np.asarray(CODES)[others.labels]
    stopped = ~(decided.confident | decided.low)
    return {
        "photos": len(codes),
        "not_confident": float(stopped.mean()),
        "out_of_scope": float(decided.strange.mean()),
        "rejected": float(decided.rejected.mean()),
        "by_class": {str(code): float(stopped[codes == code].mean()) for code in sorted(set(codes))},
    }


def measure_profile(photos: Labelled, probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Return a `dermserve.v1.Profile` as JSON values, of photos and the calibrated probabilities [N, C] of one view."""
    measures = photos.measures
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return {
        "photos": len(photos),
        "class_shares": (counts / counts.sum()).tolist(),
        "confidence": _histogram(probabilities.max(axis=1)),
        "brightness": _histogram([found.brightness for found in measures]),
        "sharpness": _histogram([found.sharpness for found in measures]),
    }


def _histogram(values: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "shares": (counts / counts.sum()).tolist(), "mean": float(np.mean(values))}


def measure(probabilities: Floats, labels: Labels, lesions: Sequence[str], codes: Sequence[str]) -> dict[str, Any]:
    """Measure probabilities [N, C] by labels [N], with bootstrap over lesions [N], as JSON values."""
    answers = probabilities.argmax(axis=1)
    indices = list(range(len(codes)))
    report = classification_report(
        labels, answers, labels=indices, target_names=list(codes), output_dict=True, zero_division=0
    )
    for label, code in enumerate(codes):
        both = 0 < (labels == label).sum() < len(labels)
        report[code]["auc"] = float(roc_auc_score(labels == label, probabilities[:, label])) if both else None
    accuracy, balanced = accuracies(answers, labels)
    return {
        "photos": len(labels),
        "lesions": len(set(lesions)),
        "accuracy": accuracy,
        "balanced_accuracy": balanced,
        **intervals(labels, answers, lesions),
        "ece": fit.expected_calibration_error(probabilities, labels),
        "nll": fit.negative_log_likelihood(probabilities, labels),
        "classes": {code: report[code] for code in codes},
        "macro": report["macro avg"],
        "weighted": report["weighted avg"],
        "confusion": confusion_matrix(labels, answers, labels=indices).tolist(),
    }


def operating_point(fitted: Fitted, name: str, judged: Predictions) -> dict[str, dict[str, float]]:
    """Return sensitivity and specificity of `rule_out` or `rule_in`, each with its 95 % interval."""
    lesions, ill = np.asarray(judged.lesions), fitted.malignant[judged.labels]
    above = fitted.risks(judged) >= fitted.calibration[name]["threshold"]
    return {"sensitivity": _share_of(above[ill], lesions[ill]), "specificity": _share_of(~above[~ill], lesions[~ill])}


def _resample(lesions: Sequence[str] | NDArray[np.str_]) -> tuple[Labels, Floats]:
    """Number the lesions of photos, int64 [N], and count how often each is in every bootstrap sample, [R, L]."""
    _, owner = np.unique(np.asarray(lesions), return_inverse=True)
    count = owner.max() + 1
    drawn = np.random.default_rng(0).integers(count, size=(_ROUNDS, count))
    return owner, np.stack([np.bincount(sample, minlength=count) for sample in drawn]).astype(float)


def _share_of(hits: Flags, lesions: NDArray[np.str_]) -> dict[str, float]:
    """Return a share of photos with its 95 % interval, bootstrapped over lesions; exact for all or no hits."""
    if not len(hits):
        return {"value": 0.0, "low": 0.0, "high": 1.0}
    value, (owner, times) = float(hits.mean()), _resample(lesions)
    found, photos = np.bincount(owner, weights=hits), np.bincount(owner)
    low, high = np.quantile((times @ found) / (times @ photos), _ENDS).tolist()
    if value in (0.0, 1.0) or len(photos) < _FEWEST:
        exact = binomtest(round(value * len(photos)), len(photos)).proportion_ci(0.95, method="exact")
        low, high = float(exact.low), float(exact.high)
    return {"value": value, "low": min(value, low), "high": max(value, high)}


def _abstention_curve(risks: Floats, malignant: Flags) -> list[dict[str, float]]:
    """Return the error of malignant against benign among the 10, 20, … 100 % of photos with a risk nearest 0 or 1."""
    order = np.argsort(-np.abs(risks - 0.5), kind="stable")
    wrong = np.cumsum(((risks >= 0.5) != malignant)[order])
    counts = [max(1, len(order) * tenth // 10) for tenth in range(1, 11)]
    return [{"answered": count / len(order), "error": float(wrong[count - 1] / count)} for count in counts]


def intervals(labels: Labels, answers: Labels, lesions: Sequence[str]) -> dict[str, list[float]]:
    """Return the 95 % intervals of accuracy and balanced accuracy, as those of a share."""
    hits, of_each = answers == labels, np.asarray(lesions)
    owner, times = _resample(of_each)
    recalls, shares = [], []
    for label in np.unique(labels):
        kept = labels == label
        found, whole = (times @ np.bincount(owner, weights=photos) for photos in (hits & kept, kept))
        recalls.append(np.divide(found, whole, out=np.full_like(whole, np.nan), where=whole > 0))
        shares.append(_share_of(hits[kept], of_each[kept]))
    ends = np.quantile(np.nanmean(recalls, axis=0), _ENDS).tolist()
    if hits.all() or not hits.any():
        ends = [float(np.mean([share[end] for share in shares])) for end in ("low", "high")]
    accuracy = _share_of(hits, of_each)
    return {"accuracy_95": [accuracy["low"], accuracy["high"]], "balanced_accuracy_95": ends}
