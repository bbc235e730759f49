"""The rules by which the card's numbers follow from validation photos; docs/evaluation.md gives the reasons.

Temperature: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Prior shift: Saerens, Latinne &
Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities", Neural Computation 14 (2002).
"""

from collections.abc import Sequence
from itertools import permutations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from dermserve.imaging import Measures
from dermserve.models.training.evaluate.predictions import Flags, Floats
from dermserve.models.training.train.loop import accuracies

Labels: TypeAlias = NDArray[np.int64]

_BEYOND = {
    "min_brightness": 1.0,
    "max_brightness": 1.0,
    "max_glare": 1.0,
    "min_color": 1.0,
    "min_detail": 2.5,
    "min_contrast": 1.0,
    "min_redness": 1.0,
    "max_redness": 1.0,
    "min_yellowness": 0.5,
    "max_yellowness": 0.5,
}
"""How many times the share of good photos may be beyond each limit on quality."""


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
    for limit, times in _BEYOND.items():
        of_each = [[getattr(found, limit[4:]) for found in good] for good in sets]
        if limit.startswith("min_"):
            limits[limit] = min(float(np.quantile(values, times * share)) for values in of_each)
        else:
            limits[limit] = max(float(np.quantile(values, 1 - times * share)) for values in of_each)
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
