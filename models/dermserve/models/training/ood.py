"""The not-skin gate: how far a photo's features lie from those of the training photos.

Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
2018: squared Mahalanobis distance to the nearest class mean under one covariance, here of the leading principal
directions.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from dermserve.models.graph import FeatureDistance


def fit_distance(features: NDArray[np.float32], labels: NDArray[np.int64], *, rank: int) -> FeatureDistance:
    """Fit the distance to training photos.

    Args:
        features: float32 [N, F].
        labels: int64 [N], every class of 0..C-1 present.
        rank: principal directions to keep, at most F.
    """
    centers = np.stack([features[labels == label].mean(axis=0) for label in np.unique(labels)])
    covariance, _ = ledoit_wolf((features - centers[labels]).astype(np.float64), assume_centered=True)
    variances, directions = np.linalg.eigh(covariance)
    kept = slice(max(0, len(variances) - rank), None)
    projection = directions[:, kept] / np.sqrt(np.maximum(variances[kept], 1e-12))
    return FeatureDistance(centers=centers.astype(np.float32), projection=projection.astype(np.float32))


def scores(distance: FeatureDistance, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score photos as the served graph does; float32 [N], higher is stranger."""
    projected, centers = features @ distance.projection, distance.centers @ distance.projection
    squares = [((projected - center) ** 2).sum(axis=1) for center in centers]
    return np.asarray(np.min(squares, axis=0), np.float32)


def fit_max_score(found: NDArray[np.float32], *, false_rejections: float = 0.01) -> float:
    """Find the score that a share of validation photos exceeds."""
    return float(np.quantile(found, 1 - false_rejections))
