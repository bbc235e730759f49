"""The out-of-distribution score: fit it to photos and pictures without skin, and to lesions of other classes.

It is the squared Mahalanobis distance to the nearest class mean under one covariance (Lee et al., NeurIPS 2018) of
features of unit length (Müller & Hein, "Mahalanobis++: Improving OOD Detection via Feature Normalization", ICML 2025),
in the directions in which pictures without skin differ most (as in Hendrycks, Mazeika & Dietterich, "Deep Anomaly
Detection with Outlier Exposure", ICLR 2019): over all directions, differences between lesions hide the others.
"""

from typing import TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from dermserve.contract import Output
from dermserve.models.graph import FeatureDistance, scored
from dermserve.models.rounding import MAX_GAIN

# Least standard deviation of unit features in a direction: smaller differences may be rounding.
_LEAST_SPREAD = 1 / MAX_GAIN
# Inverse strength of the penalty, and the number of photos that each side counts as.
_SCOPE_STRENGTH, _SCOPE_PHOTOS = 1.0, 1000
# Features whose spread is below the largest one over this count for less. Otherwise they get weights of 10⁵, and the
# rounding of the network's weights to float16 decides.
_SCOPE_RANGE = 10

_Singles: TypeAlias = NDArray[np.float32]


def fit_distance(features: _Singles, labels: NDArray[np.int64], *, strangers: _Singles, rank: int) -> FeatureDistance:
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


def scores(distance: FeatureDistance, features: _Singles) -> _Singles:
    """Score features as the served graph does: float32 [N]."""
    outputs = {"features": tf.constant(features, tf.float32), "logits": tf.zeros((len(features), 1))}
    return np.asarray(scored(outputs, temperature=1, distance=distance)[Output.OOD_SCORE.value])


def fit_scope(features: _Singles, *, others: _Singles, weights: NDArray[np.float64]) -> _Singles:
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


def fit_max_score(found: _Singles, labels: NDArray[np.int64], *, false_rejections: float, of_class: float) -> float:
    """Find the score, at least 1, that at most a share of all scores [N] and one of any class's exceed."""
    classes = [float(np.quantile(found[labels == label], 1 - of_class)) for label in np.unique(labels)]
    return max(1.0, float(np.quantile(found, 1 - false_rejections)), *classes)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))
