"""Test photos are measured once: a run notes what was fixed when they were, and is not fitted anew afterwards."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.models.training.errors import RunError
from dermserve.models.training.train.finished import FinishedRun
from dermserve.models.weights import weights_digest

_DIGITS = 4
"""Significant digits of fitted numbers that count: other processors round the rest otherwise."""


def claim_test(
    run: FinishedRun,
    network: keras.Model,
    calibration: Mapping[str, Any],
    shift: NDArray[np.float64],
    *,
    again: str | None,
) -> None:
    """Note in the run, before test photos are looked at, what is measured on them; "tested" in run.json.

    The same weights with the same fitted numbers may be measured any number of times, which gives the same figures.

    Args:
        run: a finished run.
        network: with its weights.
        calibration: what was fitted to validation photos.
        shift: added to the logits, float64 [C].
        again: why other weights or numbers are measured after the first.

    Raises:
        RunError: others were measured before, and no reason is given.
    """
    looks = list(run.summary.get("tested", []))
    mine = {"weights": weights_digest(network), "fitted": _digest([_rounded(calibration), _rounded(shift.tolist())])}
    if looks and {key: looks[-1][key] for key in mine} == mine:
        return
    if looks and not again:
        changed = "weights" if looks[-1]["weights"] != mine["weights"] else "thresholds"
        raise RunError(
            f"test photos of {run.folder} were measured with other {changed}: figures of a second choice flatter. "
            "Train another run, or pass --again REASON, which run.json and the card keep"
        )
    run.update(tested=[*looks, {**mine, "reason": again if looks else "the first"}])


def describe_tests(run: FinishedRun) -> str:
    """Say how often test photos were measured with other weights or thresholds, and why."""
    looks = run.summary.get("tested", [])
    if len(looks) < 2:
        return "test photos measured once"
    reasons = "; ".join(look["reason"] for look in looks[1:])
    return f"test photos measured with {len(looks)} choices of weights or thresholds, after the first for: {reasons}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _rounded(value: Any) -> Any:
    """Round every number of JSON values; what is said in words does not count."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items() if not isinstance(item, str)}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return f"{value:.{_DIGITS}g}"
