"""The not-skin gate: how far a photo's features lie from those of the training photos.

Squared Mahalanobis distance to the nearest class mean under one covariance (Lee et al., "A Simple Unified Framework for
Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018), of features scaled to unit length (Müller
& Hein, "Mahalanobis++: Improving OOD Detection via Feature Normalization", ICML 2025), along the directions that
pictures without skin tell (the idea of Hendrycks, Mazeika & Dietterich, "Deep Anomaly Detection with Outlier Exposure",
ICLR 2019): along all of them, what makes one lesion unlike another drowns what makes a page of text unlike both.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dermserve.models.graph import FeatureDistance

_SCOPE_STRENGTH, _SCOPE_PHOTOS = 0.3, 1000
"""Inverse strength of the penalty, and how many photos each side counts as against it."""

_Floats = NDArray[np.float32] | NDArray[np.float64]


def fit_distance(
    features: NDArray[np.float32], labels: NDArray[np.int64], *, strangers: NDArray[np.float32], rank: int
) -> FeatureDistance:
    """Fit the distance to training photos.

    Args:
        features: float32 [N, F].
        labels: int64 [N], every class of 0..C-1 present.
        strangers: float32 [M, F], of pictures without skin.
        rank: directions to keep, at most F.
    """
    scaled = _unit(features)
    centers = np.stack([scaled[labels == label].mean(axis=0) for label in np.unique(labels)])
    covariance, _ = ledoit_wolf(scaled - centers[labels], assume_centered=True)
    variances, directions = np.linalg.eigh(covariance)
    whitening = directions / np.sqrt(np.maximum(variances, 1e-12))
    away = _unit(_from_nearest(_unit(strangers) @ whitening, centers @ whitening))
    _, telling = np.linalg.eigh(away.T @ away)
    projection = whitening @ telling[:, -rank:]
    return FeatureDistance(centers=centers.astype(np.float32), projection=projection.astype(np.float32), unit=True)


def scores(distance: FeatureDistance, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score photos as the served graph does; float32 [N], higher is stranger."""
    given = _unit(features).astype(np.float32) if distance.unit else features
    away = _from_nearest(given @ distance.projection, distance.centers @ distance.projection)
    squares = (away**2).sum(axis=1)
    if distance.scope is None:
        return np.asarray(squares, np.float32)
    unknown = expit(given @ distance.scope[:-1] + distance.scope[-1])
    return np.asarray(np.where(squares > distance.limit, squares / distance.limit, unknown), np.float32)


def fit_scope(
    features: NDArray[np.float32], *, others: NDArray[np.float32], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Fit how likely a lesion is of a class that the network does not know: outlier exposure of its features.

    Logistic regression; both sides weigh the same.

    Args:
        features: float32 [N, F], of training photos.
        others: float32 [M, F], of photos of lesions of other classes.
        weights: float64 [M], of those.

    Returns:
        float32 [F + 1]: weights of the features at unit length, and a constant.
    """
    given = _unit(np.concatenate([features, others]))
    scaler = StandardScaler().fit(given)
    sizes = np.concatenate([np.full(len(features), 1 / len(features)), weights / weights.sum()])
    model = LogisticRegression(C=_SCOPE_STRENGTH, max_iter=3000)
    model.fit(scaler.transform(given), np.arange(len(given)) >= len(features), sample_weight=sizes * _SCOPE_PHOTOS)
    slope = model.coef_[0] / scaler.scale_
    return np.append(slope, model.intercept_[0] - slope @ scaler.mean_).astype(np.float32)


def fit_max_score(found: NDArray[np.float32], *, false_rejections: float = 0.01) -> float:
    """Find the score that a share of validation photos exceeds."""
    return float(np.quantile(found, 1 - false_rejections))


def _unit(vectors: _Floats) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


def _from_nearest(points: _Floats, centers: _Floats) -> _Floats:
    """Subtract from each point [N, K] the nearest of the centers [C, K]."""
    squares = np.stack([((points - center) ** 2).sum(axis=1) for center in centers])
    return np.asarray(points - centers[squares.argmin(axis=0)])
