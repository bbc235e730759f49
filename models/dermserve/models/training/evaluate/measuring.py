"""What a calibrated run comes to on photos: accuracy, verdicts, risk levels, spoiled photos, what is out of scope."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermserve.imaging import Measures
from dermserve.models.catalogue import SPECS
from dermserve.models.training.evaluate import calibration as fit
from dermserve.models.training.evaluate import ood
from dermserve.models.training.evaluate.fitting import Fitted, Measured
from dermserve.models.training.evaluate.judging import ONE_VIEW, Judge, Judged
from dermserve.models.training.evaluate.metrics import abstention_curve, measure, operating_point, risk_levels
from dermserve.models.training.evaluate.others import Others
from dermserve.models.training.evaluate.spoil import SPOILED, spoil
from dermserve.models.training.evaluate.strangers import draw_strangers
from dermserve.models.training.evaluate.verdicts import measure_all, quality_flags
from dermserve.models.training.train.loop import Labelled

_SPOILED_PHOTOS = 200


def note_points(fitted: Fitted, test: Measured) -> None:
    """Put into the calibration what both thresholds come to on test photos."""
    one = test.seen.one
    risks, ill = _risks(fitted, one), fitted.malignant[one.labels]
    for name in ("rule_out", "rule_in"):
        point = fitted.calibration[name]
        point |= operating_point(risks, ill, one.lesions, threshold=point["threshold"])


def _risks(fitted: Fitted, judged: Judged) -> NDArray[np.float64]:
    return np.asarray(fitted.probabilities(judged)[..., fitted.malignant].sum(axis=-1).mean(axis=1))


def measures(fitted: Fitted, part: Measured) -> dict[str, Any]:
    """Measure one part: single view, ten views, and what the thresholds do."""
    codes = [item.code for item in SPECS[fitted.model].classes]
    one, ten, found = part.seen.one, part.seen.ten, fitted.calibration
    raw = fit.softmax(one.outputs.logits[:, 0])
    single, views = fitted.probabilities(one)[:, 0], fitted.probabilities(ten)
    averaged, stopping = views.mean(axis=1), fit.stop_early(views, _looks(found))
    before = {"ece_before": fit.expected_calibration_error(raw, one.labels)}
    return {
        "single": measure(single, one.labels, one.lesions, codes) | before,
        "tta": measure(averaged, ten.labels, ten.lesions, codes),
        "adaptive": {"agreement": stopping.agreement, "views_saved": stopping.saved},
        "verdict": _verdicts(fitted, one, part.one),
        "verdict_tta": _verdicts(fitted, ten, part.ten),
    }


def _looks(found: dict[str, Any]) -> list[fit.Look]:
    return [fit.Look(1, found["adaptive_margin"]), *(fit.Look(**look) for look in found.get("adaptive_looks", ()))]


def _verdicts(fitted: Fitted, judged: Judged, measures: list[Measures]) -> dict[str, Any]:
    """Say what becomes of photos: shares of verdicts and reasons, both operating points, levels by class."""
    codes = [item.code for item in SPECS[fitted.model].classes]
    decided, ill = fitted.decide(judged, measures), fitted.malignant[judged.labels]
    answers = fitted.probabilities(judged).mean(axis=1).argmax(axis=1)
    flags = quality_flags(measures, fitted.calibration["quality"])
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


def strangers(judge: Judge, fitted: Fitted) -> dict[str, dict[str, float]]:
    """Say what becomes of pictures without skin that the gate was not fitted to, by kind."""
    pictures, found = draw_strangers(judge.side, seed=1), {}
    for kind, features in judge.strangers(seed=1).items():
        images = Labelled(pictures[kind], np.arange(len(features)), np.zeros(len(features), np.int64))
        flags = quality_flags(measure_all(images), fitted.calibration["quality"])
        scores = ood.scores(fitted.distance, features)
        rejected = scores > fitted.calibration["max_ood_score"]
        stopped = np.any([rejected, *flags.values()], axis=0)
        stopped |= scores > fitted.calibration.get("max_scope_score", np.inf)
        found[kind] = {"rejected": float(rejected.mean()), "rejected_or_uncertain": float(stopped.mean())}
    return found


def other_lesions(fitted: Fitted, judge: Judge, others: Others) -> dict[str, Any]:
    """Say what becomes of lesions of classes that the model does not know, by HAM10000's class."""
    judged = judge.look(others.photos, others.samples, "other lesions, test", views=ONE_VIEW)
    decided, codes = fitted.decide(judged, measure_all(others.photos)), np.asarray(others.codes)
    stopped = ~(decided.confident | decided.low)
    return {
        "photos": len(codes),
        "not_confident": float(stopped.mean()),
        "out_of_scope": float((decided.strange & ~decided.rejected).mean()),
        "rejected": float(decided.rejected.mean()),
        "by_class": {str(code): float(stopped[codes == code].mean()) for code in sorted(set(codes))},
    }


def figures(fitted: Fitted, test: Measured) -> dict[str, Any]:
    """Collect what the report draws."""
    single = test.seen.one.outputs.logits[:, 0] + fitted.shift
    return {
        "labels": test.seen.one.labels,
        "before": fit.softmax(single),
        "single": fit.softmax(single / fitted.calibration["temperature"]),
        "tta_labels": test.seen.ten.labels,
        "tta": fitted.probabilities(test.seen.ten).mean(axis=1),
    }
