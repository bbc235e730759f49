"""Bisection over noisy probes: each decides, with confidence, whether a rate keeps a threshold, or leaves it open."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from scipy.special import betaincinv


class Verdict(Enum):
    """What is known of a rate."""

    KEPT = "kept"
    BROKEN = "broken"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Found:
    """What bisection found: the highest rate that keeps the threshold lies between the two."""

    kept: float
    """Highest rate known to keep it; 0 when none does."""
    broken: float
    """Lowest rate above it that breaks it, or could not be shown to keep it; infinite when there is none."""


def judge(calls: int, slow: int, *, share: float, confidence: float) -> Verdict:
    """Judge whether at most `share` of all calls are slow, from a sample (Clopper and Pearson, each side alone).

    Args:
        calls: made.
        slow: of them, beyond the threshold or without an answer.
        share: allowed, for example 0.01 for a p99.
        confidence: for example 0.9, which a p99 reaches with 230 calls of which none is slow.
    """
    if not calls:
        return Verdict.OPEN
    most = betaincinv(slow + 1, calls - slow, confidence) if slow < calls else 1.0
    least = betaincinv(slow, calls - slow + 1, 1 - confidence) if slow else 0.0
    if most <= share:
        return Verdict.KEPT
    return Verdict.BROKEN if least > share else Verdict.OPEN


def calls_needed(*, share: float, confidence: float) -> int:
    """Give how many calls, none of them slow, it takes to judge that at most `share` of all are."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - share))


def bisect(probe: Callable[[float], Verdict], *, start: float, precision: float, least: float, most: float) -> Found:
    """Find the highest rate that a probe says is kept: by doubling or halving, then by halving the interval.

    Args:
        probe: judges a rate; a rate it leaves open counts as broken.
        start: first rate.
        precision: share of the rate to find it to.
        least: no lower rate is tried.
        most: no higher rate is tried; reaching it ends the search.
    """
    kept, broken = 0.0, float("inf")
    rate = start
    while broken - kept > precision * broken or broken == float("inf"):
        if probe(rate) is Verdict.KEPT:
            kept = rate
        else:
            broken = rate
        if kept >= most or (not kept and broken / 2 < least):
            break
        rate = min(kept * 2, most) if broken == float("inf") else (kept + broken) / 2 if kept else broken / 2
    return Found(kept, broken)
