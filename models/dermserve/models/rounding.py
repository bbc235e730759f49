"""How much outputs of the same network may differ on another processor, or in a batch of another size.

float32 additions round by 2⁻²⁴ (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 4.2).
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dermserve.contract import Output

ROUNDING = 2.0**-16
"""Largest rounding of a network's outputs, relative to the largest: 2⁻²⁴ an operation, 2⁸ operations in sequence.

Measured on unit features of both shipped networks, oneDNN on and off, AVX2 and AVX-512, batches of 1 and 12: 2⁻²¹.
"""
MAX_GAIN = 2000.0
"""How many times as far as unit features the root of a score, a distance, may move: so it is exact to 0.03."""


def allowed(expected: Mapping[str, NDArray[np.float32]], *, temperature: float) -> dict[str, float]:
    """Return how much each float32 output of a signature may differ from the expected one, once `comparable`."""
    logits = ROUNDING * max(1.0, float(np.abs(expected[Output.LOGITS]).max(initial=0)))
    probabilities = min(1.0, logits / temperature)  # the softmax moves by half of that at most
    return {
        Output.LOGITS: logits,
        Output.PROBABILITIES: probabilities,
        Output.VIEW_PROBABILITIES: probabilities,
        Output.OOD_SCORE: max(logits, MAX_GAIN * ROUNDING),
    }


def comparable(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values whose differences can be compared with `allowed`: of a score its root, with its sign."""
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values))) if name == Output.OOD_SCORE else values
