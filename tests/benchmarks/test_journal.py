"""A comparison that ended early goes on where it was, and only with the same plan."""

import dataclasses
import pathlib

from benchmarks.comparison.journal import Journal
from benchmarks.comparison.measuring import Loop, Plan, Visit

_PLAN = Plan(
    callers=(1, 8),
    kinds=("1", "10"),
    seconds=3.0,
    warm_up=1.0,
    photos=(b"a", b"b"),
    weights=pathlib.Path("weights"),
    environments=pathlib.Path("venvs"),
)
_VISIT = Visit(
    contender="flask",
    model="resnet50",
    start_seconds=1.5,
    idle_mb=100.0,
    loaded_mb=120.5,
    loops={"1/8": Loop(answers=12.5, p50=80.0, p99=150.0), "10/8": Loop(answers=0.5, p50=8000.0, p99=float("nan"))},
)


def test_a_resumed_run_knows_the_visits_of_before(tmp_path: pathlib.Path):
    file = tmp_path / "out" / "visits.jsonl"
    Journal(file, _PLAN, resume=True).add(1, _VISIT)
    found = Journal(file, _PLAN, resume=True).find(1, "resnet50", "flask")
    assert found is not None
    assert repr(found) == repr(_VISIT)  # NaN is not equal to itself
    assert Journal(file, _PLAN, resume=True).find(0, "resnet50", "flask") is None


def test_another_plan_or_a_fresh_run_begins_anew(tmp_path: pathlib.Path):
    file = tmp_path / "visits.jsonl"
    Journal(file, _PLAN, resume=False).add(0, _VISIT)
    longer = dataclasses.replace(_PLAN, seconds=10.0)
    assert Journal(file, longer, resume=True).find(0, "resnet50", "flask") is None
    Journal(file, _PLAN, resume=False).add(0, _VISIT)
    assert Journal(file, _PLAN, resume=False).find(0, "resnet50", "flask") is None
