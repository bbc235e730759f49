"""The out-of-distribution score: fit it to photos and pictures without skin, and to lesions of other classes.

It is the squared Mahalanobis distance of the features to the nearest class mean under one covariance (Lee et al., "A
Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018). Features are
scaled to unit length (Müller & Hein, "Mahalanobis++: Improving OOD Detection via Feature Normalization", ICML 2025).
Only the directions in which pictures without skin differ most count (as in Hendrycks, Mazeika & Dietterich, "Deep
Anomaly Detection with Outlier Exposure", ICLR 2019): over all directions, differences between lesions hide the others.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LogisticRegression

from dermserve.contract import Output
from dermserve.models.catalogue import SPECS
from dermserve.models.graph import FeatureDistance, scored
from dermserve.models.rounding import MAX_GAIN
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.photos import Labelled, load_pixels
from dermserve.models.training.data.splits import Part, Protocol, Sample, read_split, split, write_split
from dermserve.models.training.train.finished import FinishedRun

# Least standard deviation of unit features in a direction: smaller differences may be rounding.
_LEAST_SPREAD = 1 / MAX_GAIN
# Inverse strength of the penalty, and the number of photos that each side counts as.
_SCOPE_STRENGTH, _SCOPE_PHOTOS = 1.0, 1000
# Features whose spread is below the largest one over this count for less. Otherwise they get weights of 10⁵, and the
# rounding of the network's weights to float16 decides.
_SCOPE_RANGE = 10
CODES = SPECS["resnet50"].codes
"""Classes of HAM10000."""
_MOST, _MOST_CROPS = 3000, 750
_CROP = 96  # side in pixels, of an input of 224, of centre crops: 64 pixels of HAM10000 at 200×150

_Floats = NDArray[np.float32] | NDArray[np.float64]


def fit_distance(
    features: NDArray[np.float32], labels: NDArray[np.int64], *, strangers: NDArray[np.float32], rank: int
) -> FeatureDistance:
    """Fit the distance to photos' features [N, F] and classes [N], in the `rank` directions where strangers differ."""
    scaled = _unit(features)
    present, own = np.unique(labels, return_inverse=True)
    centers = np.stack([scaled[labels == label].mean(axis=0) for label in present])
    covariance, _ = ledoit_wolf(scaled - centers[own], assume_centered=True)
    variances, directions = np.linalg.eigh(covariance)
    whitening = directions / np.sqrt(np.maximum(variances, _LEAST_SPREAD**2))
    away = _unit(_from_nearest(_unit(strangers), centers, whitening))
    _, telling = np.linalg.eigh(away.T @ away)
    projection = whitening @ telling[:, -rank:]
    return FeatureDistance(centers=centers.astype(np.float32), projection=projection.astype(np.float32), unit=True)


def scores(distance: FeatureDistance, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score features as the served graph does: float32 [N]."""
    outputs = {"features": tf.constant(features, tf.float32), "logits": tf.zeros((len(features), 1))}
    return np.asarray(scored(outputs, temperature=1, distance=distance)[Output.OOD_SCORE.value])


def fit_scope(
    features: NDArray[np.float32], *, others: NDArray[np.float32], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Fit the probability that a lesion is of a class that the network does not know (outlier exposure).

    Logistic regression of training photos' features, float32 [N, F], against those of other lesions, float32 [M, F]
    with weights [M]; both sides have the same total weight.

    Returns:
        float32 [F + 1]: weights of the features at unit length, and a constant.
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


def fit_max_score(
    found: NDArray[np.float32], labels: NDArray[np.int64], *, false_rejections: float, of_class: float
) -> float:
    """Find the score, at least 1, that few validation photos exceed.

    At most the share `false_rejections` of all scores, float32 [N], is above it, and of those of any class the share
    `of_class`; otherwise most rejections could be of one rare class.
    """
    classes = [float(np.quantile(found[labels == label], 1 - of_class)) for label in np.unique(labels)]
    return max(1.0, float(np.quantile(found, 1 - false_rejections)), *classes)


def _unit(vectors: _Floats) -> NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    return np.asarray(wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12))


def _from_nearest(points: _Floats, centers: _Floats, projection: _Floats) -> _Floats:
    """Project the difference of each point [N, F] and its nearest center [C, F]: [N, K].

    Subtract before projecting: the projection is large, and a difference of two large numbers is mostly rounding.
    """
    between = np.stack([(points - center) @ projection for center in centers])
    nearest = (between**2).sum(axis=2).argmin(axis=0)
    return np.asarray(between[nearest, np.arange(len(points))])


def read_others(run: FinishedRun, directory: Path, *, cache: Path, known: Sequence[Sample]) -> dict[Part, Labelled]:
    """Read HAM10000 without the classes that the model knows and the lesions of the `known` photos.

    They are split by lesion, and labelled by CODES. The first split is kept in the run as others.csv.
    """
    own, lesions = SPECS[run.model].codes, {sample.lesion for sample in known}
    found = read_samples(directory, CODES)
    samples = [sample for sample in found if CODES[sample.label] not in own and sample.lesion not in lesions]
    file = run.folder / "others.csv"
    if not file.is_file():
        write_split(file, split(samples, protocol=Protocol.LESION, validation=0.15, test=0.15, seed=0))
    by_stem = {Path(name).stem: recorded for name, recorded in read_split(file).items()}
    parts = {sample: by_stem[sample.path.stem].part for sample in samples if sample.path.stem in by_stem}

    def load(part: Part) -> Labelled:
        chosen = [sample for sample in parts if parts[sample] is part]
        chosen = chosen[:: max(1, -(-len(chosen) // _MOST))]
        pixels = load_pixels(chosen, folder=cache, side=SPECS[run.model].input_side)
        return Labelled.whole(pixels, samples=chosen)

    return {part: load(part) for part in Part}


def centre_crops(photos: Labelled) -> Labelled:
    """Enlarge the centre of some photos to the whole input, so that lesions are as near as in a data set of crops."""
    some, side = photos.thinned(_MOST_CROPS), photos.images.shape[1]
    start = (side - _CROP) // 2
    box, bilinear = (start, start, start + _CROP, start + _CROP), Image.Resampling.BILINEAR
    crops = [
        np.asarray(Image.fromarray(photos.images[row]).resize((side, side), bilinear, box=box)) for row in some.rows
    ]
    return Labelled.whole(np.stack(crops), some.labels)


def class_weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight photos so that a class counts by the square root of its size: two thirds of HAM10000 are moles."""
    return np.asarray(1 / np.sqrt(np.bincount(labels).astype(float)[labels]))
