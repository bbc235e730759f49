"""Fitting the numbers a card carries, all on validation photos and never on test photos.

The temperature is by Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. The prior shift, for training
on balanced draws, is by Saerens, Latinne & Decaestecker, "Adjusting the outputs of a classifier to new a priori
probabilities", Neural Computation 14 (2002).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from dermserve.imaging import Measures
from dermserve.models.training.train.loop import accuracies

Floats: TypeAlias = NDArray[np.floating]
Labels: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Turn logits [..., C] into probabilities."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True).astype(np.float64))
    return np.asarray(exponents / exponents.sum(axis=-1, keepdims=True))


def negative_log_likelihood(probabilities: Floats, labels: Labels) -> float:
    """Mean of -log p(true class)."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def expected_calibration_error(probabilities: Floats, labels: Labels, *, bins: int = 15) -> float:
    """Mean gap between top probability and accuracy, over equal-width bins, weighted by their photos (Guo et al.)."""
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(index, minlength=bins)
    gaps = np.bincount(index, weights=hits - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / counts.sum())


def fit_temperature(
    logits: Floats, labels: Labels, *, views: Floats | None = None, owners: Labels | None = None
) -> float:
    """Find the temperature with the lowest likelihood loss, between 0.05 and 20, for logits [N, C] of one view a photo.

    With views, float [M, V, C] of some photos with the labels `owners` [M], the identity first, the loss is the sum of
    that of one view and of the mean, which is less sure of itself: the latter is that of one view of all photos, and
    what the mean adds for those with views.
    """

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        one = negative_log_likelihood(mean_probabilities(logits, temperature), labels)
        if views is None or owners is None:
            return one
        mean = negative_log_likelihood(mean_probabilities(views, temperature), owners)
        return 2 * one + mean - negative_log_likelihood(mean_probabilities(views[:, 0], temperature), owners)

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def mean_probabilities(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Turn logits [N, C] or [N, V, C] into probabilities [N, C], averaged over views where there are."""
    probabilities = softmax(logits / temperature)
    return probabilities if probabilities.ndim == 2 else np.asarray(probabilities.mean(axis=1))


def fit_prior_shift(logits: Floats, labels: Labels, shift: Floats) -> float:
    """Find how much of a prior shift to add to the logits: the share in 0..1 that serves both accuracies best.

    `shift` is float [C], the log of the prior in use over the prior in training; logits are [N, C], labels [N].
    """
    shares = np.linspace(0, 1, 21)
    scores = [sum(accuracies((logits + share * shift).argmax(axis=1), labels)) for share in shares]
    best = [share for share, score in zip(shares, scores, strict=True) if score >= max(scores) - 1e-9]
    return float(best[len(best) // 2])


def fit_recall_shift(logits: Floats, labels: Labels, *, label: int, recall: float, price: float) -> float:
    """Find the least that added to one class's logit lets it win the share `recall` of its photos, by 0.01 up to 3.

    Where that costs more than `price` of the accuracy, it is what can be had for it. Logits are [N, C], labels [N].
    """
    raised, accuracies, shifts = np.eye(logits.shape[1])[label], [], np.arange(301) / 100
    for shift in shifts:
        hits = (logits + shift * raised).argmax(axis=1) == labels
        accuracies.append(hits.mean())
        if hits[labels == label].mean() >= recall:
            break
    paid = accuracies[0] - np.asarray(accuracies)
    return float(shifts[np.flatnonzero(paid <= price + 1e-9)[-1]])


def fit_rule_out(risks: Floats, malignant: Flags, lesions: Sequence[str], *, bound: float) -> float:
    """Find the highest threshold on the risks, float [N], that still shows that it misses few malignant lesions.

    A lesion is missed when any photo of it lies below. The lower end of the exact (Clopper-Pearson) one-sided 95 %
    interval of the share not missed must reach `bound`; where there are too few lesions to show it, none is missed.
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
    """Give the lower end of the exact one-sided 95 % interval of a share."""
    return float(binomtest(hits, photos).proportion_ci(0.90, method="exact").low)


def fit_rule_in(risks: Floats, malignant: Flags, *, specificity: float) -> float:
    """Find the lowest threshold on the risks, float [N], below which the share `specificity` of benign photos lies."""
    well = np.sort(risks[~malignant])[::-1]
    return float(np.nextafter(well[int(np.floor(len(well) * (1 - specificity) + 1e-9))], 2.0))


def fit_min_confidence(confidence: Floats, hits: Flags, *, accuracy: float) -> float:
    """Find the lowest top probability, at least a half, from which the share `accuracy` of the named classes is right.

    `confidence` is float [N], top probability of photos that are answered confidently; `hits` bool [N], whether the top
    class is the true one.
    """
    order = np.argsort(-confidence)
    right = np.cumsum(hits[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(right >= accuracy)
    return float(max(0.5, confidence[order][enough[-1]])) if len(enough) else 1.0


def fit_quality(sets: Sequence[Sequence[Measures]], *, share: float) -> dict[str, float]:
    """Find limits that no more than a share of the good photos of any set lies beyond, each: a `QualityLimits`.

    2.5 times the share for blur, half for each of the four limits of a cast; the least contrast is half of what the
    share gives, as what is meant is a picture of nothing.
    """

    def quantiles(name: str, at: float) -> list[float]:
        return [float(np.quantile([getattr(found, name) for found in good], at)) for good in sets]

    low = {f"min_{name}": min(quantiles(name, share)) for name in ("midtones", "highlights", "color", "contrast")}
    high = {f"max_{name}": max(quantiles(name, 1 - share)) for name in ("midtones", "glare")}
    low |= {"min_detail": min(quantiles("detail", 2.5 * share)), "min_contrast": low["min_contrast"] / 2}
    for name in ("redness", "yellowness"):
        low[f"min_{name}"], high[f"max_{name}"] = min(quantiles(name, share / 2)), max(quantiles(name, 1 - share / 2))
    return low | high


@dataclass(frozen=True, slots=True)
class Look:
    """A point at which ADAPTIVE may stop: a sequential test's interim look."""

    views: int  # seen by then
    margin: (
        float  # between the two top probabilities, averaged over those views, from which no further one is asked for
    )


def fit_looks(
    view_probabilities: Floats, *, agreement: float = 0.995, views: Sequence[int] = (1,), turned: int = 1
) -> tuple[Look, ...]:
    """Find, look by look, the lowest margin at which stopping early agrees with all views often enough.

    A look, after so many of the `views`, may change the top class of the share 1 - `agreement` of photos. The
    probabilities are float [N, V, C], of the identity first. A lesion has no upright: the first `turned` views, no
    fewer than a look sees, stand for one another, and every order of them is a case to fit to.
    """
    everything = view_probabilities.mean(axis=1).argmax(axis=1)[:, np.newaxis]
    orders = np.asarray(list(permutations(range(turned), views[-1])))
    open_ = np.ones((len(view_probabilities), len(orders)), bool)
    allowed, looks = int(np.floor(open_.size * (1 - agreement) + 1e-9)), []
    for count in views:
        mean = np.mean([view_probabilities[:, orders[:, place]] for place in range(count)], axis=0)
        margins = _margins(mean)
        wrong = np.sort(margins[open_ & (mean.argmax(axis=-1) != everything)])[::-1]
        margin = 0.0 if len(wrong) <= allowed else min(1.0, float(np.nextafter(wrong[allowed], 2.0)))
        looks.append(Look(count, margin))
        open_ &= margins < margin
    return tuple(looks)


def stop_early(view_probabilities: Floats, looks: Sequence[Look]) -> tuple[float, float]:
    """Measure what stopping at the looks does to photos as they are, views [N, V, C] in their order.

    Returns:
        The share of photos whose answer is that of all views, and the share of the views that are not asked for.
    """
    everything = view_probabilities.mean(axis=1).argmax(axis=1)
    answers, seen = everything.copy(), np.full(len(everything), view_probabilities.shape[1])
    for look in reversed(looks):
        mean = view_probabilities[:, : look.views].mean(axis=1)
        stopped = _margins(mean) >= look.margin
        answers[stopped], seen[stopped] = mean.argmax(axis=1)[stopped], look.views
    return float((answers == everything).mean()), float(1 - seen.mean() / view_probabilities.shape[1])


def _margins(probabilities: Floats) -> Floats:
    top = np.sort(probabilities, axis=-1)
    return np.asarray(top[..., -1] - top[..., -2])
