"""What a card's thresholds make of many photos at once: the verdicts and risk levels that the gateway would give.

The rules are those of dermserve.gateway.answer, which models can't import; a test compares the two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermserve.imaging import Measures, measure
from dermserve.models.training.train.loop import Labelled

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What becomes of N photos; bool [N] each."""

    rejected: Flags
    """Not skin."""
    bad: Flags
    """Of too bad a quality to be judged."""
    strange: Flags
    """Out of scope."""
    confident: Flags
    """VERDICT_CONFIDENT."""
    low: Flags
    """Risk level LOW, which only confident answers have."""
    high: Flags
    """Risk level HIGH."""
    named: Flags
    """Confident, and the class is named."""


def measure_all(photos: Labelled) -> list[Measures]:
    """Measure the identity view of each photo."""
    return [measure(photos.images[row]) for row in photos.rows]


def quality_flags(measures: Sequence[Measures], limits: Mapping[str, float]) -> dict[str, Flags]:
    """Give what is wrong with photos, bool [N] by reason, for the limits of a `dermserve.v1.QualityLimits`."""

    def beyond(limit: str) -> Flags:
        values = np.asarray([getattr(found, limit.split("_", 1)[1]) for found in measures])
        return np.asarray(values < limits[limit] if limit.startswith("min_") else values > limits[limit])

    flags = {
        "too_dark": beyond("min_midtones") | beyond("min_highlights"),
        "too_bright": beyond("max_midtones") | beyond("max_glare"),
        "uniform": beyond("min_contrast"),
    }
    flags["no_color"] = beyond("min_color") & ~flags["uniform"]
    flags["blurred"] = beyond("min_detail") & ~flags["uniform"]
    return flags


def decide(
    views: Floats, scores: Floats, measures: Sequence[Measures], malignant: Flags, found: Mapping[str, Any]
) -> Verdicts:
    """Decide as the gateway does.

    Args:
        views: float [N, V, C], probabilities of the views.
        scores: float [N], out-of-distribution score.
        measures: of each photo.
        malignant: bool [C].
        found: a run's calibration, in the words of `dermserve.v1.Calibration`.
    """
    mean, risks = views.mean(axis=1), views[..., malignant].sum(axis=-1)
    risk, top, answer = risks.mean(axis=1), mean.max(axis=1), malignant[mean.argmax(axis=1)]
    flags = quality_flags(measures, found["quality"])
    bad = np.any(list(flags.values()), axis=0)
    strange = scores > found.get("max_scope_score", np.inf)
    below, above = risk < found["rule_out"]["threshold"], risk >= found["rule_in"]["threshold"]
    rejected = scores > found["max_ood_score"]
    good = ~(rejected | bad | strange | (risks.std(axis=1) > found["max_view_std"]))
    low, confident_high = good & below & ~answer, good & above & answer
    confident = low | confident_high
    high = above & ~rejected & ~strange & ~flags["uniform"]
    return Verdicts(rejected, bad, strange, confident, low, high, confident & (top >= found["min_confidence"]))
