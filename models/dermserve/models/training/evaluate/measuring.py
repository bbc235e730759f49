"""Figures of a calibrated run on photos, and the card's profile, by which drift is noticed.

Figures are accuracy, verdicts, risk levels, what is noticed of spoiled photos, and what is out of scope.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermserve.models.catalogue import SPECS
from dermserve.models.training.evaluate import calibration as fit
from dermserve.models.training.evaluate import ood
from dermserve.models.training.evaluate.fitting import Fitted
from dermserve.models.training.evaluate.metrics import abstention_curve, measure, operating_point, risk_levels
from dermserve.models.training.evaluate.no_skin import draw_no_skin
from dermserve.models.training.evaluate.others import Others
from dermserve.models.training.evaluate.predictions import ONE_VIEW, PartPredictions, Predictions, Predictor
from dermserve.models.training.evaluate.spoil import SPOILED, spoil
from dermserve.models.training.evaluate.verdicts import measure_all, quality_flags
from dermserve.models.training.train.loop import Labelled

_SPOILED_PHOTOS = 200
_BINS = 10


def note_points(fitted: Fitted, test: PartPredictions) -> None:
    """Put into the calibration what both thresholds come to on test photos."""
    one = test.one
    risks, ill = _risks(fitted, one), fitted.malignant[one.labels]
    for name in ("rule_out", "rule_in"):
        point = fitted.calibration[name]
        point |= operating_point(risks, ill, one.lesions, threshold=point["threshold"])


def _risks(fitted: Fitted, judged: Predictions) -> NDArray[np.float64]:
    return np.asarray(fitted.probabilities(judged)[..., fitted.malignant].sum(axis=-1).mean(axis=1))


def measures(fitted: Fitted, part: PartPredictions) -> dict[str, Any]:
    """Measure one part: single view, ten views, and what the thresholds do."""
    codes = [item.code for item in SPECS[fitted.model].classes]
    one, ten, found = part.one, part.ten, fitted.calibration
    raw = fit.softmax(one.outputs.logits[:, 0])
    single, views = fitted.probabilities(one)[:, 0], fitted.probabilities(ten)
    averaged, stopping = views.mean(axis=1), fit.stop_early(views, _looks(found))
    before = {"ece_before": fit.expected_calibration_error(raw, one.labels)}
    return {
        "single": measure(single, one.labels, one.lesions, codes) | before,
        "tta": measure(averaged, ten.labels, ten.lesions, codes),
        "adaptive": {"agreement": stopping.agreement, "views_saved": stopping.saved},
        "verdict": _verdicts(fitted, one),
        "verdict_tta": _verdicts(fitted, ten),
    }


def _looks(found: dict[str, Any]) -> list[fit.Look]:
    return [fit.Look(1, found["adaptive_margin"]), *(fit.Look(**look) for look in found.get("adaptive_looks", ()))]


def _verdicts(fitted: Fitted, judged: Predictions) -> dict[str, Any]:
    """Say what becomes of photos: shares of verdicts and reasons, both operating points, levels by class."""
    codes = [item.code for item in SPECS[fitted.model].classes]
    decided, ill = fitted.decide(judged), fitted.malignant[judged.labels]
    answers = fitted.probabilities(judged).mean(axis=1).argmax(axis=1)
    flags = quality_flags(judged.measures, fitted.calibration["quality"])
    risks = _risks(fitted, judged)
    return {
        "photos": len(ill),
        "malignant": int(ill.sum()),
        "confident": float(decided.confident.mean()),
        "abstained": float(1 - (decided.confident | decided.rejected).mean()),
        "rejected": float(decided.rejected.mean()),
        "out_of_scope": float(decided.strange.mean()),
        "bad_quality": float(decided.bad.mean()),
        "quality": {name: float(flag.mean()) for name, flag in flags.items()},
        "named": float(decided.named.mean()),
        "accuracy_when_named": _share((answers == judged.labels)[decided.named]),
        "malignancy_right_when_confident": _share((fitted.malignant[answers] == ill)[decided.confident]),
        "malignant_confidently_benign": _share((decided.confident & ~fitted.malignant[answers])[ill]),
        "levels": risk_levels(judged.labels, codes, low=decided.low, high=decided.high, rejected=decided.rejected),
        **{
            name: operating_point(risks, ill, judged.lesions, threshold=fitted.calibration[name]["threshold"])
            for name in ("rule_out", "rule_in")
        },
        "abstention": abstention_curve(risks, ill),
    }


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def spoiled(photos: Labelled, fitted: Fitted) -> dict[str, float]:
    """Give the share of spoiled test photos that the limits on quality notice, by kind."""
    some, found = photos.thinned(_SPOILED_PHOTOS), {}
    for kind in SPOILED:
        images = np.stack([spoil(some.images[row], kind) for row in some.rows])
        measures = measure_all(Labelled(images, np.arange(len(images)), some.labels))
        flags = quality_flags(measures, fitted.calibration["quality"])
        found[kind] = float(np.any(list(flags.values()), axis=0).mean())
    return found


def strangers(predictor: Predictor, fitted: Fitted) -> dict[str, dict[str, float]]:
    """Say what becomes of pictures without skin that the gate was not fitted to, by kind."""
    pictures, found = draw_no_skin(predictor.side, seed=1), {}
    for kind, features in predictor.no_skin_features(seed=1).items():
        images = Labelled(pictures[kind], np.arange(len(features)), np.zeros(len(features), np.int64))
        flags = quality_flags(measure_all(images), fitted.calibration["quality"])
        scores = ood.scores(fitted.distance, features)
        rejected = scores > fitted.calibration["max_ood_score"]
        stopped = np.any([rejected, *flags.values()], axis=0)
        stopped |= scores > fitted.calibration.get("max_scope_score", np.inf)
        found[kind] = {"rejected": float(rejected.mean()), "rejected_or_uncertain": float(stopped.mean())}
    return found


def other_lesions(fitted: Fitted, predictor: Predictor, others: Others) -> dict[str, Any]:
    """Say what becomes of lesions of classes that the model does not know, by HAM10000's class."""
    judged = predictor.predict(others.photos, others.samples, "other lesions, test", views=ONE_VIEW)
    decided, codes = fitted.decide(judged), np.asarray(others.codes)
    stopped = ~(decided.confident | decided.low)
    return {
        "photos": len(codes),
        "not_confident": float(stopped.mean()),
        "out_of_scope": float((decided.strange & ~decided.rejected).mean()),
        "rejected": float(decided.rejected.mean()),
        "by_class": {str(code): float(stopped[codes == code].mean()) for code in sorted(set(codes))},
    }


def figures(fitted: Fitted, test: PartPredictions) -> dict[str, Any]:
    """Collect what the report draws."""
    single = test.one.outputs.logits[:, 0] + fitted.shift
    return {
        "labels": test.one.labels,
        "before": fit.softmax(single),
        "single": fit.softmax(single / fitted.calibration["temperature"]),
        "tta_labels": test.ten.labels,
        "tta": fitted.probabilities(test.ten).mean(axis=1),
    }


def measure_profile(photos: Labelled, probabilities: NDArray[np.float64]) -> dict[str, Any]:
    """Measure a profile.

    Args:
        photos: N photos that the network was not trained on.
        probabilities: of the identity view of each, calibrated; float64 [N, C].

    Returns:
        The fields of a `dermserve.v1.Profile`, as JSON values.
    """
    measures = measure_all(photos)
    counts = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    return {
        "photos": len(photos),
        "class_shares": (counts / counts.sum()).tolist(),
        "confidence": _histogram(probabilities.max(axis=1)),
        "brightness": _histogram([found.brightness for found in measures]),
        "sharpness": _histogram([found.sharpness for found in measures]),
    }


def _histogram(values: Sequence[float] | NDArray[np.float64]) -> dict[str, Any]:
    """Bin values at their deciles, so that each bin has about as many of them."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {"edges": edges.tolist(), "shares": (counts / counts.sum()).tolist(), "mean": float(np.mean(values))}
