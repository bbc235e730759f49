"""The rules by which the card's numbers follow from validation photos; docs/evaluation.md gives the reasons.

Temperature: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Prior shift: Saerens, Latinne &
Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities", Neural Computation 14 (2002).

The out-of-distribution score is the squared Mahalanobis distance to the nearest class mean under one covariance (Lee et
al., NeurIPS 2018) of features of unit length (Müller & Hein, "Mahalanobis++: Improving OOD Detection via Feature
Normalization", ICML 2025), in the directions in which pictures without skin differ most (as in Hendrycks, Mazeika &
Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019): over all directions, differences between lesions
hide the others.
"""

from collections.abc import Sequence
from itertools import permutations
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from dermserve.contract import Output
from dermserve.imaging import Measures
from dermserve.models.graph import FeatureDistance, scored
from dermserve.models.rounding import MAX_GAIN
from dermserve.models.training.evaluate.predictions import Flags, Floats
from dermserve.models.training.train.loop import accuracies
from dermserve.v1 import card_pb2

Labels: TypeAlias = NDArray[np.int64]

# How many times the share of good photos may be beyond a limit on quality, where it is not once.
_BEYOND = {"min_detail": 2.5, "min_yellowness": 0.5, "max_yellowness": 0.5}
# Least standard deviation of unit features in a direction: smaller differences may be rounding.
_LEAST_SPREAD = 1 / MAX_GAIN
# Inverse strength of the penalty, and the number of photos that each side counts as.
_SCOPE_STRENGTH, _SCOPE_PHOTOS = 1.0, 1000
# Features whose spread is below the largest one over this count for less. Otherwise they get weights of 10⁵, and the
# rounding of the network's weights to float16 decides.
_SCOPE_RANGE = 10


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Turn logits [..., C] into probabilities."""
    return np.asarray(special.softmax(logits.astype(np.float64), axis=-1))


def negative_log_likelihood(probabilities: Floats, labels: Labels) -> float:
    """Return the mean of -log p(true class)."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def expected_calibration_error(probabilities: Floats, labels: Labels, *, bins: int = 15) -> float:
    """Return the mean gap between top probability and accuracy over bins of equal width, weighted by photos (Guo)."""
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    gaps = np.bincount(index, weights=hits - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / counts.sum())


def fit_temperature(logits: Floats, labels: Labels, *, views: Floats, owners: Labels) -> float:
    """Find the temperature, 0.05 to 20, with the lowest likelihood loss over one view and the mean of views together.

    Logits [N, C] are of one view; `views` [M, V, C], the identity first, of some photos with the labels `owners` [M].
    """

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        one = negative_log_likelihood(softmax(logits / temperature), labels)
        each = softmax(views / temperature)
        mean = negative_log_likelihood(each.mean(axis=1), owners)
        return 2 * one + mean - negative_log_likelihood(each[:, 0], owners)

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def fit_prior_shift(logits: Floats, labels: Labels, shift: Floats) -> float:
    """Find the share, 0..1, of a shift for another prior, float [C], that gives the highest sum of both accuracies."""
    shares = np.linspace(0, 1, 21)
    scores = [sum(accuracies((logits + share * shift).argmax(axis=1), labels)) for share in shares]
    best = [share for share, score in zip(shares, scores, strict=True) if score >= max(scores) - 1e-9]
    return float(best[len(best) // 2])


def fit_recall_shift(logits: Floats, labels: Labels, *, label: int, recall: float) -> float:
    """Find the least addition to one class's logit, 0 to 3 by 0.01, for a recall; less, if that would cost accuracy."""
    raised, scores, shifts = np.eye(logits.shape[1])[label], [], np.arange(301) / 100
    for shift in shifts:
        hits = (logits + shift * raised).argmax(axis=1) == labels
        scores.append(hits.mean())
        if hits[labels == label].mean() >= recall:
            break
    return float(shifts[np.flatnonzero(np.asarray(scores) >= scores[0] - 1e-9)[-1]])


def fit_rule_out(risks: Floats, malignant: Flags, lesions: Sequence[str], *, bound: float) -> float:
    """Find the highest threshold on risks, float [N], with this `lower_bound` of the malignant lesions not missed.

    A lesion is missed if any of its photos is below. If there are too few lesions for the bound, none is missed.
    """
    least: dict[str, float] = {}
    for index in np.flatnonzero(malignant).tolist():
        least[lesions[index]] = min(least.get(lesions[index], np.inf), float(risks[index]))
    ill = np.sort(list(least.values()))
    missed = 0
    while missed + 1 < len(ill) and lower_bound(len(ill) - missed - 1, len(ill)) >= bound:
        missed += 1
    return float(ill[missed])


def lower_bound(hits: int, photos: int) -> float:
    """Return the exact one-sided 95 % lower bound of a share."""
    return float(binomtest(hits, photos).proportion_ci(0.90, method="exact").low)


def fit_rule_in(risks: Floats, malignant: Flags, *, specificity: float) -> float:
    """Find the lowest threshold on the risks, float [N], with the share `specificity` of benign photos below it."""
    well = np.sort(risks[~malignant])[::-1]
    return float(np.nextafter(well[int(np.floor(len(well) * (1 - specificity) + 1e-9))], 2.0))


def fit_min_confidence(confidence: Floats, hits: Flags, *, accuracy: float) -> float:
    """Find the lowest top probability [N], at least 0.5, above which the share `accuracy` of the hits [N] is true."""
    order = np.argsort(-confidence)
    right = np.cumsum(hits[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(right >= accuracy)
    return float(max(0.5, confidence[order][enough[-1]])) if len(enough) else 1.0


def fit_quality(sets: Sequence[Sequence[Measures]], *, share: float) -> dict[str, float]:
    """Fit a `QualityLimits`: a share of any set's good photos is beyond each limit, or a multiple of it."""
    limits = {}
    for limit in card_pb2.QualityLimits.DESCRIPTOR.fields_by_name:
        times = _BEYOND.get(limit, 1.0)
        of_each = [[getattr(found, limit[4:]) for found in good] for good in sets]
        if limit.startswith("min_"):
            limits[limit] = min(float(np.quantile(values, times * share, method="lower")) for values in of_each)
        else:
            limits[limit] = max(float(np.quantile(values, 1 - times * share, method="higher")) for values in of_each)
    limits["min_contrast"] /= 2  # a uniform photo shows nothing
    return limits


def fit_looks(
    view_probabilities: Floats, *, agreement: float = 0.995, views: Sequence[int] = (1,), turned: int = 1
) -> dict[int, float]:
    """Find when ADAPTIVE may stop: after each number of `views`, the least mean difference of the top probabilities.

    A stop may change the top class of the share 1 - `agreement` of photos. Probabilities are float [N, V, C]; the first
    `turned` views are fitted to in every order, as a lesion has no upright position.
    """
    everything = view_probabilities.mean(axis=1).argmax(axis=1)[:, np.newaxis]
    orders = np.asarray(list(permutations(range(turned), views[-1])))
    open_ = np.ones((len(view_probabilities), len(orders)), bool)
    allowed, looks = int(np.floor(open_.size * (1 - agreement) + 1e-9)), dict[int, float]()
    for count in views:
        mean = np.mean([view_probabilities[:, orders[:, place]] for place in range(count)], axis=0)
        margins = _margins(mean)
        wrong = np.sort(margins[open_ & (mean.argmax(axis=-1) != everything)])[::-1]
        looks[count] = 0.0 if len(wrong) <= allowed else min(1.0, float(np.nextafter(wrong[allowed], 2.0)))
        open_ &= margins < looks[count]
    return looks


def stop_early(view_probabilities: Floats, looks: dict[int, float]) -> tuple[float, float]:
    """Stop at the looks, with views [N, V, C] in order; return the shares of unchanged answers and of saved views."""
    everything = view_probabilities.mean(axis=1).argmax(axis=1)
    answers, seen = everything.copy(), np.full(len(everything), view_probabilities.shape[1])
    for count, margin in reversed(looks.items()):
        mean = view_probabilities[:, :count].mean(axis=1)
        stopped = _margins(mean) >= margin
        answers[stopped], seen[stopped] = mean.argmax(axis=1)[stopped], count
    return float((answers == everything).mean()), float(1 - seen.mean() / view_probabilities.shape[1])


def _margins(probabilities: Floats) -> Floats:
    top = np.sort(probabilities, axis=-1)
    return np.asarray(top[..., -1] - top[..., -2])


def fit_distance(features: Floats, labels: NDArray[np.int64], *, strangers: Floats, rank: int) -> FeatureDistance:
    """Fit the distance to photos' features [N, F] and classes [N], in the `rank` directions where strangers differ."""
    scaled = _unit(features)
    present, own = np.unique(labels, return_inverse=True)
    centers = np.stack([scaled[labels == label].mean(axis=0) for label in present])
    covariance, _ = ledoit_wolf(scaled - centers[own], assume_centered=True)
    variances, directions = np.linalg.eigh(covariance)
    whitening = directions / np.sqrt(np.maximum(variances, _LEAST_SPREAD**2))
    between = np.stack([(_unit(strangers) - center) @ whitening for center in centers])
    nearest = (between**2).sum(axis=2).argmin(axis=0)  # as graph._distance
    away = _unit(between[nearest, np.arange(len(strangers))])
    _, telling = np.linalg.eigh(away.T @ away)
    projection = whitening @ telling[:, -rank:]
    return FeatureDistance(centers=centers.astype(np.float32), projection=projection.astype(np.float32), unit=True)


def ood_scores(distance: FeatureDistance, features: Floats) -> Floats:
    """Score features as the served graph does: float32 [N]."""
    outputs = {"features": tf.constant(features, tf.float32), "logits": tf.zeros((len(features), 1))}
    return np.asarray(scored(outputs, temperature=1, distance=distance)[Output.OOD_SCORE.value])


def fit_scope(features: Floats, *, others: Floats, weights: NDArray[np.float64]) -> Floats:
    """Fit the probability that a lesion is of a class that the network does not know (outlier exposure).

    Logistic regression of training photos' features, float32 [N, F], against others', [M, F] with weights [M]; both
    sides weigh the same. Returns weights of unit features, and a constant: float32 [F + 1].
    """
    given = _unit(np.concatenate([features, others]))
    middle, spread = given.mean(axis=0), given.std(axis=0)
    scale = np.maximum(spread, max(spread.max() / _SCOPE_RANGE, _LEAST_SPREAD))
    sizes = np.concatenate([np.full(len(features), 1 / len(features)), weights / weights.sum()])
    model = LogisticRegression(C=_SCOPE_STRENGTH, max_iter=3000)
    model.fit((given - middle) / scale, np.arange(len(given)) >= len(features), sample_weight=sizes * _SCOPE_PHOTOS)
    slope = model.coef_[0] / scale
    slope *= min(1.0, MAX_GAIN / max(float(np.linalg.norm(slope)), 1e-12))  # keeps the order of photos
    return np.append(slope, model.intercept_[0] - slope @ middle).astype(np.float32)


def fit_max_score(found: Floats, labels: NDArray[np.int64], *, false_rejections: float, of_class: float) -> float:
    """Find the score, at least 1, that at most a share of all scores [N] and one of any class's exceed."""
    shares = [(found, false_rejections), *((found[labels == label], of_class) for label in np.unique(labels))]
    return max(1.0, *(float(np.quantile(scores, 1 - share, method="higher")) for scores, share in shares))


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))
