"""How load goes over time, as the share of its peak; pure functions of how far the test is."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

_STEPS = 5
_SPIKE_BASE = 0.2
_SPIKE = (0.4, 0.6)
_SOAK_RAMP = 0.02


def _steady(progress: float) -> float:
    return 1.0


def _ramp(progress: float) -> float:
    return progress


def _step(progress: float) -> float:
    return min(_STEPS, math.floor(progress * _STEPS) + 1) / _STEPS


def _spike(progress: float) -> float:
    return 1.0 if _SPIKE[0] <= progress < _SPIKE[1] else _SPIKE_BASE


def _soak(progress: float) -> float:
    return min(1.0, progress / _SOAK_RAMP)


SHAPES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"steady": _steady, "ramp": _ramp, "step": _step, "spike": _spike, "soak": _soak}
)
"""From progress in [0, 1) to a share of the peak in [0, 1]: steady; a straight ramp; five steps; a fifth of the peak
with all of it from 40 to 60 %; a soak, which is steady after a gentle start and wants hours."""


def users_at(shape: str, *, seconds: float, run_time: float, peak: int) -> int | None:
    """Tell how many users a shape wants, at least one; None when the test is over.

    Args:
        shape: a key of SHAPES.
        seconds: since the start.
        run_time: seconds of the whole test.
        peak: users at the most.
    """
    if seconds >= run_time:
        return None
    return max(1, round(peak * SHAPES[shape](seconds / run_time)))
