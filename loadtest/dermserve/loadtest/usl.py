"""The universal scalability law: what throughput makes of more callers, and why.

X(N) = λN / (1 + σ(N - 1) + κN(N - 1)), after Gunther, "A general theory of computational scalability based on rational
functions", 2008: λ is a lone caller's throughput, σ the share that must queue (contention), κ what everyone spends on
everyone (coherence).
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit

from dermserve.loadtest.errors import ScenarioError


@dataclass(frozen=True, slots=True)
class Law:
    """A fitted law."""

    rate: float
    """λ: answers a second of a lone caller."""
    contention: float
    """σ."""
    coherence: float
    """κ."""
    r_squared: float
    """Share of the variance it explains."""

    def at(self, callers: float) -> float:
        """Give the throughput of so many callers."""
        return float(_law(np.array([callers], float), self.rate, self.contention, self.coherence)[0])

    @property
    def peak(self) -> float:
        """Callers beyond which throughput falls; infinite when it never does."""
        return math.sqrt(max(0.0, 1 - self.contention) / self.coherence) if self.coherence > 1e-9 else math.inf


def fit_law(callers: Sequence[float], rates: Sequence[float]) -> Law:
    """Fit the law by least squares.

    Args:
        callers: at least three different numbers.
        rates: answers a second with each.

    Raises:
        ScenarioError: too few points to fit three numbers.
    """
    if len(set(callers)) < 3:
        raise ScenarioError("the scalability law needs at least three numbers of callers")
    counts, seen = np.asarray(callers, float), np.asarray(rates, float)
    start = (float(np.max(seen / counts)), 0.1, 1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
        found, _ = curve_fit(_law, counts, seen, p0=start, bounds=((0, 0, 0), (np.inf, 1, 1)), maxfev=20_000)
    spread = float(((seen - seen.mean()) ** 2).sum())
    missed = float(((seen - _law(counts, *found)) ** 2).sum())
    rate, contention, coherence = map(float, found)
    return Law(rate, contention, coherence, 1 - missed / spread if spread else 1.0)


def _law(callers: NDArray[np.float64], rate: float, contention: float, coherence: float) -> NDArray[np.float64]:
    return np.asarray(
        rate * callers / (1 + contention * (callers - 1) + coherence * callers * (callers - 1)), np.float64
    )
