"""The check that the gateway has not become slower: what counts as noise, as a warning, and as a failure."""

import pytest

from benchmarks.regression import Measured, judge


@pytest.mark.parametrize(
    ("ratio", "band", "verdict"),
    [
        (1.40, 0.02, "ok"),
        (1.20, 0.02, "ok"),
        (1.52, 0.02, "ok"),  # 9 % slower
        (1.57, 0.02, "warning"),
        (1.57, 0.20, "ok"),  # 12 % slower, where blocks of one run are 20 % apart
        (1.81, 0.02, "warning"),
        (1.83, 0.02, "failure"),  # 31 %
        (1.83, 0.50, "failure"),  # noise excuses no failure
    ],
)
def test_a_slower_gateway_is_told_from_noise(ratio: float, band: float, verdict: str):
    found, change = judge(Measured(ratio, band), Measured(1.4, 0.03))
    assert found == verdict
    assert change == pytest.approx(ratio / 1.4 - 1)
