"""Evaluating a run: calibrate on its validation photos, measure on its test photos and on data it has not seen."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermserve.imaging import STANDARD_VIEWS, Measures
from dermserve.models.catalogue import SPECS
from dermserve.models.graph import FeatureDistance
from dermserve.models.training import calibration as fit
from dermserve.models.training import ood
from dermserve.models.training.cache import load_pixels
from dermserve.models.training.errors import DataError
from dermserve.models.training.experiment import Experiment
from dermserve.models.training.finished import FinishedRun
from dermserve.models.training.judging import ONE_VIEW, Judge, Judged, Seen
from dermserve.models.training.layouts import read_samples
from dermserve.models.training.loop import Labelled, Progress
from dermserve.models.training.metrics import abstention_curve, measure, operating_point, risk_levels
from dermserve.models.training.others import Others, centre_crops, class_weights, read_others
from dermserve.models.training.profile import measure_profile
from dermserve.models.training.run import Data, finished_data
from dermserve.models.training.splits import Part
from dermserve.models.training.spoil import SPOILED, spoil
from dermserve.models.training.strangers import draw_strangers
from dermserve.models.training.verdicts import Verdicts, decide, measure_all, quality_flags

SENSITIVITY, SENSITIVITY_BOUND = 0.98, 0.95
"""Share of malignant validation photos that rule_out may not lie above, and the least lower bound of that share: 0.95
is promised, and photos from elsewhere are missed more often than those a threshold is fitted to."""
SPECIFICITY = 0.95
"""Share of benign validation photos below rule_in."""
NAMED_ACCURACY = 0.95
"""Share of the named classes of confident answers that are to be right."""
VIEW_STD_QUANTILE = 0.975
FALSE_REJECTIONS = 0.01
BAD_QUALITY = 0.0025
"""Share of training and validation photos beyond each limit on quality; twice that for blur."""
OUT_OF_SCOPE = 0.05
"""Share of the model's own validation photos that may be taken for lesions of other classes."""
AGREEMENT = 0.999
"""Share of validation photos whose answer a look of ADAPTIVE may not change; stricter than the 99.5 % that is promised
of photos nobody has seen."""
LOOKS = (1, 3)
"""Views after which ADAPTIVE may stop."""
RECALLS: Mapping[str, float] = MappingProxyType({"mel": 0.65})
"""By class code, the share of its validation photos that is to be answered with it: melanoma is the one that kills."""

_TURNED = sum(name not in ("darker", "brighter") for name in STANDARD_VIEWS)
_DISTANCE_RANK = 16
_FITTED_PHOTOS = 2000
_SPOILED_PHOTOS = 200


@dataclasses.dataclass(frozen=True, slots=True)
class Fitted:
    """What calibration found."""

    model: str
    shift: NDArray[np.float64]
    """Added to the logits, float64 [C]."""
    distance: FeatureDistance
    calibration: dict[str, Any]
    """The fields of a `dermserve.v1.Calibration`."""

    @property
    def malignant(self) -> NDArray[np.bool_]:
        """Which classes are malignant."""
        return _malignant(self.model)

    def probabilities(self, judged: Judged) -> NDArray[np.float64]:
        """Calibrate the views of photos, float64 [N, V, C]."""
        return fit.softmax((judged.outputs.logits + self.shift) / self.calibration["temperature"])

    def decide(self, judged: Judged, measures: list[Measures]) -> Verdicts:
        """Give the verdicts of photos."""
        scores = ood.scores(self.distance, judged.outputs.features)
        return decide(self.probabilities(judged), scores, measures, self.malignant, self.calibration)


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """Photos of a part, what the network said of them, and what they look like."""

    seen: Seen
    one: list[Measures]
    """Of each photo."""
    thin: int

    @property
    def ten(self) -> list[Measures]:
        """Of those with ten views."""
        return self.one[:: self.thin]


def evaluate_own(
    run: FinishedRun,
    data: Path,
    *,
    cache: Path,
    precision: str,
    progress: Progress,
    thin: int = 1,
    price: float = 0.0,
    others: Path | None = None,
) -> dict[str, Any]:
    """Calibrate and measure a run on the data it was trained from, and write both into the run.

    Args:
        run: a finished run.
        data: the data set it was trained from.
        cache: where decoded photos and what the network said of them lie.
        precision: of the arithmetic; see predict.predict.
        progress: called with what is going on, photos done and photos in all.
        thin: N, to take ten views of every Nth photo alone, and one view of all.
        price: how much of the validation accuracy, 0..1, the recall of the classes in RECALLS may cost at most.
        others: HAM10000, whose other classes the model's scope is fitted to; for a model that does not know them all.

    Returns:
        {"calibration", "metrics", "figures"}; the first two are also in run.json.

    Raises:
        DataError: the data set lacks photos of the run's split.
    """
    photos = finished_data(run.experiment, data, run.split, cache=cache)
    judge = Judge(network=run.network(shifted=False), cache=cache, precision=precision, progress=progress)

    def see(part: Part) -> Measured:
        chosen = photos.part(part)
        return Measured(judge.see(chosen, photos.samples, part.value, thin=thin), measure_all(chosen), thin)

    validation = see(Part.VALIDATION)
    distance = _fit_distance(judge, photos)
    outside = None if others is None else _read_others(run, photos, others, cache=cache)
    fitted = _calibrate(run, validation, _good_measures(photos, validation), distance, price=price)
    if outside is not None:
        fitted = _fit_scope(fitted, judge, photos, validation, outside)
    test = see(Part.TEST)
    _note_points(fitted, test)
    metrics: dict[str, Any] = {"validation": _measures(fitted, validation), "test": _measures(fitted, test)}
    metrics["spoiled"] = _spoiled(photos.part(Part.TEST), fitted)
    metrics["strangers"] = _strangers(judge, fitted)
    if outside is not None:
        metrics["others"] = _other_lesions(fitted, judge, outside[Part.TEST])
    run.save_calibration(fitted.calibration, shift=fitted.shift, distance=fitted.distance, metrics=metrics)
    identity = fitted.probabilities(validation.seen.one)[:, 0]
    run.update(profile=measure_profile(photos.part(Part.VALIDATION), identity))
    return {"calibration": fitted.calibration, "metrics": metrics, "figures": _figures(fitted, test)}


def evaluate_other(
    run: FinishedRun,
    data: Path,
    *,
    name: str,
    cache: Path,
    precision: str,
    progress: Progress,
    others: Path | None = None,
) -> dict[str, Any]:
    """Measure a calibrated run on another data set, leaving out every photo and lesion it was trained or validated on.

    Args:
        run: a calibrated run.
        data: the data set.
        name: what its figures are called in run.json.
        cache: where decoded photos and what the network said of them lie.
        precision: of the arithmetic.
        progress: called with what is going on.
        others: photos of HAM10000's classes, of which those that the model does not know are measured, too.

    Raises:
        DataError: nothing is left.
        RunError: the run has not been calibrated.
    """
    samples = [
        sample for sample in read_samples(data, [item.code for item in SPECS[run.model].classes]) if run.unseen(sample)
    ]
    if not samples:
        raise DataError(f"the run has trained or validated on every lesion in {data}: nothing is left to measure on")
    pixels = load_pixels(samples, folder=cache, side=SPECS[run.model].input_side)
    labels = np.asarray([sample.label for sample in samples], np.int64)
    photos = Labelled(pixels, np.arange(len(samples)), labels)
    judge = Judge(network=run.network(shifted=False), cache=cache, precision=precision, progress=progress)
    fitted = Fitted(run.model, run.shift, run.distance, run.calibration)
    measured = _measures(fitted, Measured(judge.see(photos, samples, name), measure_all(photos), 1))
    if others is not None:
        parts = read_others(run, others, cache=cache)
        measured["others"] = _other_lesions(fitted, judge, parts[Part.TEST])
    run.save_other(name, measured)
    return measured


def _malignant(model: str) -> NDArray[np.bool_]:
    return np.asarray([item.malignant for item in SPECS[model].classes])


def _good_measures(photos: Data, validation: Measured) -> list[Measures]:
    """Measure photos that the limits on quality are fitted to: validation photos, and as many training photos or so."""
    return [*validation.one, *measure_all(photos.part(Part.TRAIN).thinned(_FITTED_PHOTOS))]


def _fit_distance(judge: Judge, photos: Data) -> FeatureDistance:
    chosen = photos.part(Part.TRAIN).thinned(_FITTED_PHOTOS)
    trained = judge.look(chosen, photos.samples, Part.TRAIN.value, views=ONE_VIEW)
    strangers = np.concatenate(list(judge.strangers(seed=0).values()))
    return ood.fit_distance(trained.outputs.features, trained.labels, strangers=strangers, rank=_DISTANCE_RANK)


def _calibrate(
    run: FinishedRun, validation: Measured, good: list[Measures], distance: FeatureDistance, *, price: float
) -> Fitted:
    """Fit the shift of the logits, the temperature and the thresholds."""
    one, ten, malignant = validation.seen.one, validation.seen.ten, _malignant(run.model)
    shift = _shift(run, one, price=price)
    logits = one.outputs.logits[:, 0] + shift
    temperature = fit.fit_temperature(logits, one.labels, views=ten.outputs.logits + shift, owners=ten.labels)
    views, single = fit.softmax((ten.outputs.logits + shift) / temperature), fit.softmax(logits / temperature)
    risks, ill = single[:, malignant].sum(axis=1), malignant[one.labels]
    rule_out = fit.fit_rule_out(risks, ill, sensitivity=SENSITIVITY, bound=SENSITIVITY_BOUND)
    rule_in = max(rule_out, fit.fit_rule_in(risks, ill, specificity=SPECIFICITY))
    answers = single.argmax(axis=1)
    confident = np.where(malignant[answers], risks >= rule_in, risks < rule_out)
    scores = ood.scores(distance, one.outputs.features)
    first, *later = fit.fit_looks(views, agreement=AGREEMENT, views=LOOKS, turned=_TURNED)
    found = {
        "temperature": temperature,
        "rule_out": {"threshold": rule_out},
        "rule_in": {"threshold": rule_in},
        "min_confidence": fit.fit_min_confidence(
            single.max(axis=1)[confident], (answers == one.labels)[confident], accuracy=NAMED_ACCURACY
        ),
        "max_view_std": fit.fit_max_view_std(views[..., malignant].sum(axis=-1), quantile=VIEW_STD_QUANTILE),
        "adaptive_margin": first.margin,
        "adaptive_looks": [dataclasses.asdict(look) for look in later],
        "max_ood_score": ood.fit_max_score(scores, false_rejections=FALSE_REJECTIONS),
        "quality": fit.fit_quality(good, share=BAD_QUALITY),
        "method": _method(run.model, one, ten, malignant, risks, rule_out, price=price),
    }
    return Fitted(run.model, shift, distance, found)


def _fit_scope(
    fitted: Fitted, judge: Judge, photos: Data, validation: Measured, outside: Mapping[Part, Others]
) -> Fitted:
    """Add to the score how likely a lesion is of another class, and fit its threshold."""
    train = photos.part(Part.TRAIN)
    own = [
        judge.look(train, photos.samples, f"train, {view}", views=(view,)).outputs.features
        for view in STANDARD_VIEWS[:_TURNED]
    ]
    whole, crops = outside[Part.TRAIN], centre_crops(outside[Part.TRAIN].photos)
    others = [
        judge.features(whole.photos, "other lesions"),
        judge.features(crops, "other lesions, centres"),
    ]
    weights = np.concatenate([class_weights(whole.photos.labels), class_weights(crops.labels)])
    scope = ood.fit_scope(np.concatenate(own), others=np.concatenate(others), weights=weights)
    distance = dataclasses.replace(fitted.distance, scope=scope, limit=fitted.calibration["max_ood_score"])
    known = ood.scores(distance, validation.seen.one.outputs.features)
    found = fitted.calibration | {
        "max_ood_score": 1.0,
        "max_scope_score": float(np.quantile(known[known <= 1], 1 - OUT_OF_SCOPE)),
        "method": f"{fitted.calibration['method']}; max_scope_score (logistic regression of the features on "
        f"{len(whole.photos)} photos of other classes of HAM10000 and {len(crops)} crops of them) at "
        f"{OUT_OF_SCOPE:.0%} of the model's own validation photos",
    }
    return dataclasses.replace(fitted, distance=distance, calibration=found)


def _read_others(run: FinishedRun, photos: Data, directory: Path, *, cache: Path) -> dict[Part, Others]:
    malignant = _malignant(run.model)
    known = [sample for sample in photos.samples if malignant[sample.label]]
    return read_others(run, directory, cache=cache, known=known)


def _note_points(fitted: Fitted, test: Measured) -> None:
    """Put into the calibration what both thresholds come to on test photos."""
    one = test.seen.one
    risks, ill = _risks(fitted, one), fitted.malignant[one.labels]
    for name in ("rule_out", "rule_in"):
        point = fitted.calibration[name]
        point |= operating_point(risks, ill, one.lesions, threshold=point["threshold"])


def _risks(fitted: Fitted, judged: Judged) -> NDArray[np.float64]:
    return np.asarray(fitted.probabilities(judged)[..., fitted.malignant].sum(axis=-1).mean(axis=1))


def _shift(run: FinishedRun, one: Judged, *, price: float) -> NDArray[np.float64]:
    """Fit what is added to the logits: for the classes' frequencies, then for the recall of those in RECALLS."""
    logits, classes = one.outputs.logits[:, 0].astype(np.float64), SPECS[run.model].classes
    shift = _prior_shift(run.experiment, logits, one.labels)
    for label, item in enumerate(classes):
        if item.code in RECALLS:
            wanted: Any = {"label": label, "recall": RECALLS[item.code], "price": price}
            shift[label] += fit.fit_recall_shift(logits + shift, one.labels, **wanted)
    return shift


def _prior_shift(experiment: Experiment, logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Undo as much of the balanced drawing of classes as serves accuracy and balanced accuracy together."""
    sizes = np.bincount(labels, minlength=logits.shape[1]).astype(float)
    power = experiment.balance + experiment.class_weights
    if not power:
        return np.zeros_like(sizes)
    whole = power * (np.log(sizes) - np.log(sizes).mean())
    return np.asarray(fit.fit_prior_shift(logits, labels, whole) * whole)


def _method(
    model: str,
    one: Judged,
    ten: Judged,
    malignant: NDArray[np.bool_],
    risks: NDArray[np.float64],
    rule_out: float,
    *,
    price: float,
) -> str:
    raised = ", ".join(
        f"{code} {RECALLS[code]:.0%}" for code in (c.code for c in SPECS[model].classes) if code in RECALLS
    )
    recall = f"logit raised for a recall of {raised}, for at most {price:.1%} of accuracy; " if raised else ""
    ill = malignant[one.labels]
    caught = int((risks[ill] >= rule_out).sum())
    return (
        f"on {len(one.labels)} validation photos (ten views: {len(ten.labels)}), split as the run's split.csv: {recall}"
        "temperature by likelihood of one view and of the mean of ten; "
        f"rule_out: {caught} of {ill.sum()} malignant photos at or above it by one view, at least {SENSITIVITY:.0%}, "
        f"lower 95% bound {fit.lower_bound(caught, int(ill.sum())):.3f}; "
        f"rule_in: {SPECIFICITY:.0%} of the benign photos below it, and no less than rule_out; "
        f"min_confidence so that {NAMED_ACCURACY:.0%} of the classes named are right, and at least a half; "
        f"max_view_std at the {VIEW_STD_QUANTILE:.1%} quantile; "
        f"adaptive_margin and adaptive_looks each for {AGREEMENT:.1%} agreement with ten views, the {_TURNED} turned "
        "and mirrored views taken in every order; "
        "max_ood_score (Mahalanobis distance of pooled features of unit length, along the directions that drawn "
        f"pictures without skin tell) at {FALSE_REJECTIONS:.0%} false rejections; "
        f"quality: {BAD_QUALITY:.2%} of training and validation photos beyond each limit, twice that for min_detail, "
        "min_contrast halved"
    )


def _measures(fitted: Fitted, part: Measured) -> dict[str, Any]:
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


def _spoiled(photos: Labelled, fitted: Fitted) -> dict[str, float]:
    """Give the share of spoiled test photos that the limits on quality notice, by kind."""
    some, found = photos.thinned(_SPOILED_PHOTOS), {}
    for kind in SPOILED:
        images = np.stack([spoil(some.images[row], kind) for row in some.rows])
        measures = measure_all(Labelled(images, np.arange(len(images)), some.labels))
        flags = quality_flags(measures, fitted.calibration["quality"])
        found[kind] = float(np.any(list(flags.values()), axis=0).mean())
    return found


def _strangers(judge: Judge, fitted: Fitted) -> dict[str, dict[str, float]]:
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


def _other_lesions(fitted: Fitted, judge: Judge, others: Others) -> dict[str, Any]:
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


def _figures(fitted: Fitted, test: Measured) -> dict[str, Any]:
    """Collect what the report draws."""
    single = test.seen.one.outputs.logits[:, 0] + fitted.shift
    return {
        "labels": test.seen.one.labels,
        "before": fit.softmax(single),
        "single": fit.softmax(single / fitted.calibration["temperature"]),
        "tta_labels": test.seen.ten.labels,
        "tta": fitted.probabilities(test.seen.ten).mean(axis=1),
    }
