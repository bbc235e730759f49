"""The gateway is not slower beside a direct Predict and a relay than its bounds: `make regression`, a minute."""

import pathlib
import sys

import pytest

from benchmarks import gateway
from dermserve.local import DRAWN

MODEL = "mobilenet_v3_small"
BOUNDS = {"none": 2.0, "full": 1.8, "2 callers": 1.7, "8 callers": 1.7}
"""Largest ratios. The goals are 1.1 and 1.0 for two and eight callers."""


def test_every_ratio_is_within_its_bound(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = (DRAWN / "0.jpg").read_bytes()
    rows = list(gateway.measure(tmp_path / "store", (MODEL,), (photo,), rounds=60, seconds=2))
    with capsys.disabled():
        sys.stdout.write(f"\n{gateway.tables(rows)}\n\n")
    ratios = {row.what: row.ratio for row in rows}
    assert ratios.keys() == BOUNDS.keys()
    assert all(ratio <= BOUNDS[what] for what, ratio in ratios.items()), ratios
