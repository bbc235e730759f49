"""The sizing page is computed from measurements that are there, and by the manifests' own numbers."""

import json
import runpy
import types

import pytest

from dermserve.loadtest.capacity import Capacity, Point
from tests.k8s.rendering import ROOT

sizing = types.SimpleNamespace(**runpy.run_path(str(ROOT / "scripts" / "sizing.py")))


def _point(answers: float, **cores: float) -> Point:
    return Point(rate=None, callers=4, gateways=1, answers=answers, p50=1, p99=2, calls=9, slow=0, cores=cores)


def _capacity(*points: Point) -> Capacity:
    return Capacity(
        model="resnet50", mode="NONE", kept=0, broken=1, open_points=(), closed_points=points, laws={}, why=""
    )


def test_the_page_is_what_the_committed_costs_give() -> None:
    found = json.loads(sizing.COSTS.read_text())
    assert sizing.PAGE.read_text() == sizing.page(found)
    assert "| resnet50 | NONE |" in sizing.PAGE.read_text()
    assert {(cost["model"], cost["mode"]) for cost in found["capacity"]} == {
        (model, mode) for model in ("resnet50", "mobilenet_v3_small") for mode in ("NONE", "FULL")
    }


def test_a_capacity_says_what_a_photo_costs_where_throughput_was_highest() -> None:
    full = _point(10.0, modelserver=1.5, gateway=0.1, **{"gateway 2": 0.1}, machine=2, generator=0.2)
    capacity = _capacity(_point(4.0, modelserver=0.9, gateway=0.1), full)
    found = capacity.to_json()
    assert found["core_ms"] == {"model_server": pytest.approx(150), "gateway": pytest.approx(20)}
    assert found["photos_per_core"] == pytest.approx(1000 / 170)
    machine = {"cores": 2, "processor": "x"}
    (cost,) = sizing.keep({"machine": machine, "capacity": [found]}, date="today")["capacity"]
    assert (cost["model"], cost["mode"]) == ("resnet50", "NONE")


@pytest.mark.parametrize("point", [_point(0.0, modelserver=1), _point(5.0, machine=2, generator=1)])
def test_without_answers_or_processes_there_is_no_cost(point: Point) -> None:
    found = _capacity(point).to_json()
    assert (found["core_ms"], found["photos_per_core"]) == ({}, None)
    machine = {"cores": 2, "processor": "x"}
    assert sizing.keep({"machine": machine, "capacity": [found]}, date="today")["capacity"] == []


def test_pods_are_enough_with_one_missing_and_at_least_two() -> None:
    pod = sizing.read_pod("modelserver")
    assert (pod.cores, pod.most) == (pytest.approx(2.8), 8)
    assert pod.count(1, 1.0) == 2
    assert pod.count(2 * 1000 * pod.cores / 100 + 1, 100.0) == 4
