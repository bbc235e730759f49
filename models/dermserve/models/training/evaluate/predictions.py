"""A network's outputs for views of photos, as in serving, each cached by what it depends on; the gateway's verdicts."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from dermserve.imaging import FAULTS, STANDARD_VIEWS, Measures, find_faults, make_views
from dermserve.models.architectures import weights_digest
from dermserve.models.durable import replacing
from dermserve.models.folding import fold_batch_norm
from dermserve.models.graph import Core, freeze
from dermserve.models.training.data.photos import Labelled, imaging_version
from dermserve.models.training.errors import DAMAGED, json_digest, read_arrays
from dermserve.models.training.terminal import track

_VIEWS_AT_ONCE = 64

Floats: TypeAlias = NDArray[np.floating]
Flags: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class Predictions:
    """N photos with the network's outputs."""

    logits: NDArray[np.float32]  # [N, V, C], before the temperature
    features: NDArray[np.float32]  # [N, F], of the first view
    photos: Labelled

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each photo, int64 [N]."""
        return self.photos.labels

    @property
    def lesions(self) -> list[str]:
        """Lesion of each photo, [N]."""
        return [sample.lesion for sample in self.photos.samples]


@dataclass(frozen=True, slots=True)
class PartPredictions:
    """Predictions for one part of a data set: one view of every photo, and ten of all or of every Nth."""

    one: Predictions
    ten: Predictions


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """Runs a network over views of photos, and caches its outputs."""

    network: keras.Model
    cache: Path  # folder of the cached outputs

    def predict_part(self, photos: Labelled, what: str, *, thin: int = 1) -> PartPredictions:
        """Run ten views of every `thin`-th photo and one view of all."""
        ten = self.predict(photos.every(thin), what, views=STANDARD_VIEWS)
        if thin == 1:
            return PartPredictions(replace(ten, logits=ten.logits[:, :1]), ten)
        return PartPredictions(self.predict(photos, f"{what}, one view"), ten)

    @functools.cached_property
    def _infer(self) -> Core:
        return freeze(fold_batch_norm(self.network), dict)

    @functools.cached_property
    def _weights(self) -> str:
        return weights_digest(self.network)

    def predict(self, photos: Labelled, what: str, *, views: Sequence[str] = STANDARD_VIEWS[:1]) -> Predictions:
        """Run views of photos, or read their outputs from the cache; `what` names the step for the progress bar."""
        settings = [self.network.name, self._weights, list(views), imaging_version()]
        folder = self.cache / f"outputs-{json_digest(settings)[:24]}"
        folder.mkdir(parents=True, exist_ok=True)
        parts, step = [], max(1, _VIEWS_AT_ONCE // len(views))
        for start in track(range(0, len(photos), step), what):
            chunk = Labelled(photos.images, photos.rows[start : start + step], photos.labels[start : start + step])
            file = folder / f"{hashlib.sha256(photos.images[chunk.rows].tobytes()).hexdigest()[:24]}.npz"
            try:
                arrays = read_arrays(file)
                parts.append((arrays["logits"], arrays["features"]))
            except DAMAGED:  # or not there yet
                parts.append(run_views(self._infer, chunk, views=views))
                with replacing(file) as partial:
                    np.savez(partial, logits=parts[-1][0], features=parts[-1][1])
        logits, features = (np.concatenate(found) for found in zip(*parts, strict=True))
        return Predictions(logits, features, photos)


def run_views(infer: Core, photos: Labelled, *, views: Sequence[str]) -> tuple[Floats, Floats]:
    """Run a frozen function over views of photos in one batch; return logits and features as in Predictions."""
    outputs = infer(tf.constant(np.concatenate([make_views(photos.images[row], views) for row in photos.rows])))
    logits, features = (outputs[name].numpy().reshape(len(photos), len(views), -1) for name in ("logits", "features"))
    return logits, features[:, 0]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts of N photos; bool [N] each."""

    rejected: Flags  # not skin
    bad: Flags  # quality too bad to judge
    strange: Flags  # out of scope, and not rejected
    confident: Flags  # VERDICT_CONFIDENT
    low: Flags  # risk level LOW, which only confident answers have
    high: Flags  # risk level HIGH
    named: Flags  # confident, and the class is named


def quality_flags(measures: Sequence[Measures], limits: Mapping[str, float]) -> dict[str, Flags]:
    """Return what is wrong with photos, bool [N] by fault, by the limits of a `dermserve.v1.QualityLimits`."""
    found = [find_faults(each, limits) for each in measures]
    return {fault: np.asarray([fault in faults for faults in found], bool) for fault in FAULTS}


def decide(
    views: Floats, scores: Floats, measures: Sequence[Measures], malignant: Flags, found: Mapping[str, Any]
) -> Verdicts:
    """Decide as dermserve.gateway.answer, which this package can't import; a test compares the two.

    `views` are probabilities [N, V, C], `scores` [N], `malignant` bool [C], and `found` a `dermserve.v1.Calibration`.
    """
    mean, risks = views.mean(axis=1), views[..., malignant].sum(axis=-1)
    risk, top, answer = risks.mean(axis=1), mean.max(axis=1), malignant[mean.argmax(axis=1)]
    flags = quality_flags(measures, found["quality"])
    bad = np.any(list(flags.values()), axis=0)
    rejected = scores > found["max_ood_score"]
    strange = ~rejected & (scores > found.get("max_scope_score", np.inf))
    below, above = risk < found["rule_out"]["threshold"], risk >= found["rule_in"]["threshold"]
    good = ~(rejected | bad | strange | (risks.std(axis=1) > found["max_view_std"]))
    low, confident_high = good & below & ~answer, good & above & answer
    confident = low | confident_high
    high = above & ~rejected & ~strange & ~flags["uniform"]
    return Verdicts(rejected, bad, strange, confident, low, high, confident & (top >= found["min_confidence"]))
