"""The sizing table is computed from measurements that are there, and by the manifests' own numbers."""

import json
import pathlib
import runpy
import types

import pytest

from tests.k8s.rendering import ROOT

sizing = types.SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "sizing.py")))


def test_the_committed_measurements_give_a_cost_for_each_model_and_mode() -> None:
    costs = list(sizing.from_measurements())
    assert {(cost.model, cost.mode) for cost in costs} == {
        (model, mode) for model in ("resnet50", "mobilenet_v3_small") for mode in ("NONE", "FULL")
    }
    assert all(cost.server > 0 and cost.gateway > 0 for cost in costs)


def test_a_capacity_gives_what_the_kept_rate_cost_in_cores(tmp_path: pathlib.Path) -> None:
    kept = {
        "rate": 10.0,
        "answers": 10.0,
        "cores": {"modelserver": 1.5, "gateway": 0.1, "gateway 2": 0.1, "machine": 2},
    }
    broken = {"rate": 12.0, "answers": 11.0, "cores": {"modelserver": 1.9, "gateway": 0.2}}
    found = {"model": "resnet50", "mode": "NONE", "found": {"kept": 10.0}, "open_points": [kept, broken]}
    nothing = {"model": "resnet50", "mode": "FULL", "found": {"kept": 0.0}, "open_points": [broken]}
    (tmp_path / "capacity.json").write_text(json.dumps({"capacity": [found, nothing]}))
    (cost,) = sizing.from_capacity(tmp_path / "capacity.json")
    assert (cost.model, cost.mode) == ("resnet50", "NONE")
    assert (cost.server, cost.gateway) == (pytest.approx(150), pytest.approx(20))


def test_pods_are_enough_with_one_missing_and_at_least_two() -> None:
    pod = sizing.read_pod("modelserver")
    assert (pod.cores, pod.most) == (pytest.approx(2.8), 8)
    assert pod.count(1, 1.0) == 2
    assert pod.count(2 * 1000 * pod.cores / 100 + 1, 100.0) == 4
