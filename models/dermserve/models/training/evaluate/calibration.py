"""Calibrate a run: fit the card's numbers to validation photos, by the rules of `fitting`. No test photo is used."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermserve.imaging import STANDARD_VIEWS
from dermserve.models.catalogue import SPECS
from dermserve.models.graph import FeatureDistance
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part
from dermserve.models.training.evaluate import fitting as fit
from dermserve.models.training.evaluate import predictions
from dermserve.models.training.evaluate.pictures import draw_no_skin
from dermserve.models.training.evaluate.predictions import PartPredictions, Predictions, Predictor
from dermserve.models.training.train.dataset import Data, centre_crops, class_weights
from dermserve.models.training.train.experiment import Experiment
from dermserve.models.training.train.finished import FinishedRun

# rule_out: the exact one-sided 95 % lower bound of the share of malignant validation lesions without a photo below it.
SENSITIVITY = 0.95
# Largest share of benign validation photos below rule_out. If the classes are far apart, a higher threshold would clear
# few more of them, but many more cancers that are small in the photo, washed out or cut off (docs/levers.md).
CLEARED = 0.8
# Share of benign validation photos below rule_in; share of named classes that must be right.
SPECIFICITY, NAMED_ACCURACY = 0.95, 0.95
VIEW_STD_QUANTILE = 0.975
# Largest share of all validation photos, and of those of any class, above max_ood_score.
FALSE_REJECTIONS, CLASS_REJECTIONS = 0.01, 0.05
# Share of good photos of any data set beyond a limit on quality; 2.5 times that for blur, half for a blue or a yellow
# cast. The ten limits together flag about 2 %.
BAD_QUALITY = 0.002
# Share of validation photos of other lesions above max_scope_score, two points above the goal. The limit follows from
# these 1,398 and not from the model's own 172, which are too few: 5 % of them were 12 % of test photos.
OUT_OF_SCOPE = 0.92
# Views after which ADAPTIVE may stop, and the share of validation photos whose answer must stay the same; stricter than
# the goal of 99.5 % for new photos.
LOOKS, AGREEMENT = (1, 3), 0.999
# Recall of melanoma to reach on validation photos, where it costs no accuracy.
MELANOMA_RECALL = 0.65

_TURNED = sum(name not in ("darker", "brighter") for name in STANDARD_VIEWS)
_DISTANCE_RANK = 16
_FITTED_PHOTOS = 2000


@dataclasses.dataclass(frozen=True, slots=True)
class Fitted:
    """What is fitted to photos, and what it says of other photos."""

    model: str
    shift: NDArray[np.float64]  # added to the logits, float64 [C]
    distance: FeatureDistance
    calibration: dict[str, Any]  # the fields of a `dermserve.v1.Calibration`

    @property
    def malignant(self) -> NDArray[np.bool_]:
        """Which classes are malignant, bool [C]."""
        return np.asarray([item.malignant for item in SPECS[self.model].classes])

    def probabilities(self, judged: Predictions) -> NDArray[np.float64]:
        """Return calibrated probabilities of the views, float64 [N, V, C]."""
        return fit.softmax((judged.logits + self.shift) / self.calibration["temperature"])

    def risks(self, judged: Predictions) -> NDArray[np.float64]:
        """Return the malignancy risks, float64 [N]: the means over the views."""
        return np.asarray(self.probabilities(judged)[..., self.malignant].sum(axis=-1).mean(axis=1))

    def decide(self, judged: Predictions) -> predictions.Verdicts:
        """Return the verdicts of photos."""
        scores, views = fit.ood_scores(self.distance, judged.features), self.probabilities(judged)
        return predictions.decide(views, scores, judged.photos.measures, self.malignant, self.calibration)


def calibrate(
    run: FinishedRun, predictor: Predictor, sets: Sequence[Data], held: Sequence[PartPredictions], outside: Data | None
) -> Fitted:
    """Fit the out-of-distribution score, the shift of the logits, the temperature and the thresholds.

    `sets` and `held`, their validation photos, are of the run's own data first, then of the same lesions at other
    resolutions, which rule_out, max_ood_score and the limits on quality must suit as well. `outside` has lesions of
    classes that the model does not know, to which the scope is fitted.
    """
    one, ten, looked = held[0].one, held[0].ten, [each.one for each in held]
    distance, shift = _distance(predictor, sets, outside), _shift(run.experiment, one)
    temperature = fit.fit_temperature(one.logits[:, 0] + shift, one.labels, views=ten.logits + shift, owners=ten.labels)
    fitted = Fitted(run.model, shift, distance, {"temperature": temperature})
    malignant, views, single = fitted.malignant, fitted.probabilities(ten), fitted.probabilities(one)[:, 0]
    risks, ill = fitted.risks(one), malignant[one.labels]
    rule_out = fit.fit_rule_out(
        np.concatenate([fitted.risks(judged) for judged in looked]),
        malignant[np.concatenate([judged.labels for judged in looked])],
        [lesion for judged in looked for lesion in judged.lesions],
        bound=SENSITIVITY,
    )
    rule_out = min(rule_out, fit.fit_rule_in(risks, ill, specificity=CLEARED))
    # HIGH says that it looks like cancer: not if the lesion is more probably benign.
    rule_in = max(rule_out, 0.5, fit.fit_rule_in(risks, ill, specificity=SPECIFICITY))
    answers = single.argmax(axis=1)
    confident = np.where(malignant[answers], risks >= rule_in, risks < rule_out)
    first, *later = fit.fit_looks(views, agreement=AGREEMENT, views=LOOKS, turned=_TURNED).items()
    good = [
        judged.photos.measures + data.part(Part.TRAIN).thinned(_FITTED_PHOTOS).measures
        for data, judged in zip(sets, looked, strict=True)
    ]
    scored = [fit.ood_scores(distance, judged.features) for judged in looked]
    fitted.calibration.update(
        rule_out={"threshold": rule_out},
        rule_in={"threshold": rule_in},
        min_confidence=fit.fit_min_confidence(
            single.max(axis=1)[confident], (answers == one.labels)[confident], accuracy=NAMED_ACCURACY
        ),
        max_view_std=float(np.quantile(views[..., malignant].sum(axis=-1).std(axis=1), VIEW_STD_QUANTILE)),
        adaptive_margin=first[1],
        adaptive_looks=[{"views": count, "margin": margin} for count, margin in later],
        max_ood_score=max(
            fit.fit_max_score(scores, judged.labels, false_rejections=FALSE_REJECTIONS, of_class=CLASS_REJECTIONS)
            for scores, judged in zip(scored, looked, strict=True)
        ),
        quality=fit.fit_quality(good, share=BAD_QUALITY),
        method=_method(sets, held),
    )
    return fitted if outside is None else _with_scope(fitted, predictor, sets[0], outside)


def _distance(predictor: Predictor, sets: Sequence[Data], outside: Data | None) -> FeatureDistance:
    """Fit the distance to training photos, also of each class of other lesions, and to drawn pictures without skin."""
    looked = [predictor.predict(data.part(Part.TRAIN).thinned(_FITTED_PHOTOS), Part.TRAIN.value) for data in sets]
    features = np.concatenate([judged.features for judged in looked])
    labels = np.concatenate([judged.labels for judged in looked])
    if outside is not None:
        others = predictor.predict(outside.part(Part.TRAIN).thinned(_FITTED_PHOTOS), "other lesions")
        features = np.concatenate([features, others.features])
        labels = np.append(labels, labels.max() + 1 + others.labels)
    drawn = draw_no_skin(predictor.network.inputs[0].shape[1], seed=0).items()
    strangers = np.concatenate([predictor.predict(Labelled.whole(pictures), kind).features for kind, pictures in drawn])
    return fit.fit_distance(features, labels, strangers=strangers, rank=_DISTANCE_RANK)


def _with_scope(fitted: Fitted, predictor: Predictor, photos: Data, outside: Data) -> Fitted:
    """Add to the score the probability that a lesion is of another class, and fit its threshold."""
    train, whole = photos.part(Part.TRAIN), outside.part(Part.TRAIN)
    own = [predictor.predict(train, f"train, {view}", views=(view,)).features for view in STANDARD_VIEWS[:_TURNED]]
    crops = centre_crops(whole)
    outliers = {"other lesions": whole, "other lesions, centres": crops}
    others = [predictor.predict(each, what).features for what, each in outliers.items()]
    weights = np.concatenate([class_weights(each.labels) for each in outliers.values()])
    scope = fit.fit_scope(np.concatenate(own), others=np.concatenate(others), weights=weights)
    distance = dataclasses.replace(fitted.distance, scope=scope, limit=fitted.calibration["max_ood_score"])
    held = predictor.predict(outside.part(Part.VALIDATION), "other lesions, validation")
    strange = fit.ood_scores(distance, held.features)
    found = fitted.calibration | {
        "max_ood_score": 1.0,
        "max_scope_score": float(np.quantile(strange, 1 - OUT_OF_SCOPE)),
        "method": f"{fitted.calibration['method']}; max_scope_score: {len(whole)} photos of other classes of HAM10000 "
        f"and {len(crops)} crops of them, {OUT_OF_SCOPE:.0%} of {len(strange)} validation photos of them above it",
    }
    return dataclasses.replace(fitted, distance=distance, calibration=found)


def _shift(experiment: Experiment, one: Predictions) -> NDArray[np.float64]:
    logits, labels, codes = one.logits[:, 0].astype(np.float64), one.labels, SPECS[experiment.model].codes
    shift = np.zeros(len(codes))
    if power := experiment.balance + experiment.class_weights:
        # Undo the balanced drawing of classes as far as accuracy and balanced accuracy together gain.
        sizes = np.log(np.bincount(labels, minlength=len(codes)).astype(float))
        whole = power * (sizes - sizes.mean())
        shift = fit.fit_prior_shift(logits, labels, whole) * whole
    if "mel" in codes:
        label = codes.index("mel")
        shift[label] += fit.fit_recall_shift(logits + shift, labels, label=label, recall=MELANOMA_RECALL)
    return shift


def _method(used: Sequence[Data], validation: Sequence[PartPredictions]) -> str:
    pairs = zip(used, validation, strict=True)
    sets = ", ".join(f"{len(each.one.labels)} of {of.name} (ten views: {len(each.ten.labels)})" for of, each in pairs)
    return (
        f"validation photos: {sets}, split as the run's split.csv; by the rules of docs/evaluation.md; rule_out: the "
        "exact one-sided 95% lower bound of the share of malignant lesions without a photo below it, at any "
        f"resolution, is {SENSITIVITY:.0%}, and at most {CLEARED:.0%} of the benign photos lie below; rule_in: "
        f"{SPECIFICITY:.0%} of the benign photos below it, and at least a half; max_ood_score: at most "
        f"{FALSE_REJECTIONS:.0%} false rejections, of no class more than {CLASS_REJECTIONS:.0%}, in each data set"
    )
