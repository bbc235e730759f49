"""The parts that need no server: timetables, shapes, scenarios, judgements and the scalability law."""

import math
import random

import pydantic
import pytest
from PIL import Image

from dermserve.client import TLS
from dermserve.loadtest.capacity import Point, _Search, bisect, calls_needed, explain, fit_laws, judge
from dermserve.loadtest.machine import difference
from dermserve.loadtest.scenario import (
    SHAPES,
    Part,
    Scenario,
    ScenarioError,
    Timeline,
    load_photos,
    parse_mix,
    parse_seconds,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_user_that_keeps_its_timetable_is_never_late():
    clock = Clock()
    timeline = Timeline(10, clock=clock)
    for _ in range(20):
        clock.now += timeline.pause()
        timeline.take()
        clock.now += 0.03
    assert timeline.finish() == {"wanted": 20, "started": 20, "late": 0}


def test_after_a_stall_calls_are_timed_from_when_they_were_due_and_counted_late():
    clock = Clock()
    timeline = Timeline(10, clock=clock)
    assert timeline.take() == 100.0
    clock.now += 1.0  # the answer took ten slots
    assert timeline.pause() == 0
    assert [round(timeline.take(), 1) for _ in range(3)] == [100.1, 100.2, 100.3]
    pace = timeline.finish()
    assert pace == {"started": 4, "late": 3, "wanted": 10}, "seven slots came due and were never used"


def test_calls_that_start_during_the_warm_up_do_not_count_and_later_ones_do_however_long_they_were_due():
    clock = Clock()
    timeline = Timeline(10, phase=0.5, counted_from=101.0, clock=clock)
    clock.now += 0.9
    for _ in range(8):
        timeline.take()
    clock.now += 0.6  # over the end of the warm-up
    assert round(timeline.take(), 2) == 100.85
    assert timeline.finish() == {"started": 1, "late": 1, "wanted": 7}


def test_calls_due_after_the_end_are_not_wanted():
    clock = Clock()
    timeline = Timeline(10, clock=clock)
    timeline.take()
    clock.now += 5.0  # a last answer that was waited for
    assert timeline.finish(100.25) == {"started": 1, "late": 0, "wanted": 3}


def users(shape: str, *seconds: float) -> list[int | None]:
    scenario = Scenario(target="x:1", mix=(Part(model="m"),), users=50, run_time=100, shape=shape)
    return [scenario.users_at(second) for second in seconds]


def test_shapes_stay_within_the_peak_and_end():
    for shape in SHAPES:
        *seen, end = users(shape, *range(101))
        assert max(seen) in range(49, 51), shape
        assert min(seen) >= 1, shape
        assert end is None
    assert users("spike", 10, 50, 90) == [10, 50, 10]
    assert users("step", 5, 25, 95) == [10, 20, 50]


def test_a_mix_is_read_and_survives_its_way_to_a_worker():
    mix = parse_mix(["resnet50:full:16=0.5", "mobilenet_v3_small"])
    assert mix == (
        Part(model="resnet50", mode="FULL", stream=16, weight=0.5),
        Part(model="mobilenet_v3_small", mode="NONE"),
    )
    tls = TLS(
        certificate_chain=b"-----BEGIN CERTIFICATE\n", private_key=b"-----BEGIN PRIVATE KEY\nsecret", authority="name"
    )
    scenario = Scenario(target="x:1", mix=mix, users=3, sides=(640,), tls=tls)
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
    assert "secret" not in str(scenario.public())
    assert "secret" not in repr(scenario)
    assert len(parse_mix(["all"])) == 6


@pytest.mark.parametrize("text", ["", "a b", "resnet50:often", "resnet50=0", "resnet50=x", "resnet50:none:1:2"])
def test_a_part_that_makes_no_sense_is_refused(text: str):
    with pytest.raises(ScenarioError):
        Part.parse(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"users": -1},
        {"rate": 0.0},
        {"warm_up": 99.0},
        {"mix": ()},
        {"rate": 5.0, "mix": (Part(model="m", stream=2),)},
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused(wrong: dict):
    with pytest.raises(pydantic.ValidationError):
        Scenario(**{"target": "x:1", "mix": (Part(model="m"),), "users": 1, **wrong})


def test_durations_are_read():
    assert [parse_seconds(text) for text in ("500ms", "90s", "1.5m", "2h", "7")] == [0.5, 90, 90, 7200, 7]
    for wrong in ("soon", "1x", "", "1m 2s", "1m30s", "1..2s", "nan", "-3s", "inf"):
        with pytest.raises(ValueError, match="not a duration"):
            parse_seconds(wrong)


def test_photos_are_drawn_scaled_and_checked(tmp_path):
    drawn = load_photos("", (128, 300))
    assert len(drawn) == 16
    assert len(set(drawn)) == 16
    (tmp_path / "a.jpg").write_bytes(drawn[1])
    (tmp_path / "notes.txt").write_text("no photo")
    assert load_photos(str(tmp_path)) == [drawn[1]]
    with Image.open(tmp_path / "a.jpg") as image:
        assert max(image.size) == 300
    (tmp_path / "b.jpg").write_bytes(b"no photo either")
    with pytest.raises(ScenarioError, match=r"b\.jpg"):
        load_photos(str(tmp_path))
    with pytest.raises(ScenarioError):
        load_photos(str(tmp_path / "none"))


def test_few_calls_leave_a_p99_open_and_many_decide_it():
    assert judge(100, 0, share=0.01) is None
    assert judge(229, 0, share=0.01) is None
    assert judge(230, 0, share=0.01) is True
    assert judge(230, 10, share=0.01) is False
    assert judge(20, 20, share=0.01) is False
    assert judge(1, 1, share=0.5) is None
    assert judge(0, 0, share=0.01) is None


@pytest.mark.parametrize(("edge", "most"), [(37.0, 1000.0), (300.0, 1000.0), (1.1, 100.0)])
def test_bisection_closes_in_on_the_edge(edge: float, most: float):
    kept, broken = bisect(lambda rate: rate <= edge, start=50, precision=0.05, least=0.5, most=most)
    assert kept <= edge < broken
    assert broken - kept <= 0.05 * broken


def test_bisection_ends_where_nothing_or_everything_is_kept():
    tried = []
    kept, _ = bisect(lambda rate: bool(tried.append(rate)), start=50, precision=0.05, least=10, most=100)
    assert kept == 0
    assert tried == [50, 25, 12.5]
    assert bisect(lambda rate: True, start=50, precision=0.05, least=1, most=100)[0] == 100


@pytest.mark.parametrize("share", [0.01, 0.05, 0.5])
def test_a_verdict_needs_as_many_calls_as_it_says(share: float):
    needed = calls_needed(share=share)
    assert judge(needed, 0, share=share) is True
    assert judge(needed - 1, 0, share=share) is None


def _point(**values) -> Point:
    return Point(**{"rate": None, "callers": 8, "gateways": 1, "answers": 10, "p50": 1, "p99": 2, "calls": 9, "slow": 0,
                    "cores": {}, **values})  # fmt: skip


def test_the_law_is_found_again_in_its_own_points():
    chance = random.Random(2)
    callers = [1, 2, 4, 8, 16, 32, 64]
    rates = [40 * n / (1 + 0.05 * (n - 1) + 0.002 * n * (n - 1)) * chance.uniform(0.99, 1.01) for n in callers]
    points = [_point(callers=many, answers=rate) for many, rate in zip(callers, rates, strict=True)]
    (law,) = fit_laws([*points, *(_point(callers=many, gateways=2) for many in (1, 2))]).values()
    assert law.rate == pytest.approx(40, rel=0.05)
    assert law.contention == pytest.approx(0.05, abs=0.02)
    assert law.coherence == pytest.approx(0.002, abs=0.0005)
    assert law.peak == pytest.approx(math.sqrt(0.95 / 0.002), rel=0.1)


@pytest.mark.parametrize(
    ("cores", "says"),
    [
        ({"machine": 1.9, "modelserver": 1.6, "gateway": 0.2, "generator": 0.1}, "modelserver takes most"),
        ({"machine": 1.4, "modelserver": 0.3, "gateway": 0.97, "generator": 0.2}, "a gateway is the limit"),
        ({"machine": 1.5, "modelserver": 0.3, "gateway": 0.2, "generator": 0.98}, "load generator is the limit"),
        ({"machine": 0.4, "modelserver": 0.1, "gateway": 0.1, "generator": 0.1}, "waiting is the limit"),
        ({"machine": 2.0, "modelserver": 0.5, "gateway": 0.1, "generator": 0.1}, "no part of this"),
    ],
)
def test_the_limit_is_named(cores: dict[str, float], says: str):
    assert says in explain(_point(cores=cores), cores=2)


def test_stages_are_the_difference_between_two_looks():
    name, labels = "dermserve_gateway_stage_duration_seconds", (("model", "m"), ("stage", "decode"))
    before = {(f"{name}_sum", labels): 1.0, (f"{name}_count", labels): 10.0}
    after = {(f"{name}_sum", labels): 1.6, (f"{name}_count", labels): 40.0}
    assert difference(before, after) == [{"model": "m", "stage": "decode", "calls": 30, "mean_ms": pytest.approx(20)}]
    assert difference(None, after) == []
    assert difference(before, before) == []


class Search(_Search):
    """A search whose runs are given, by callers; None by rate."""

    def _run(self, part, seconds, *, gateways=1, rate=None, users=0):
        return _point(callers=users, p50=9000.0 if users == 8 else self.server, slow=9)


@pytest.mark.parametrize(("p50", "tried"), [(499.0, True), (501.0, False), (None, True)])
def test_no_rate_is_tried_where_a_lone_caller_waits_too_long_already(p50: float | None, tried: bool):
    limits = {"share": 0.5, "threshold": 500.0, "precision": 0.5, "seconds": 1.0, "probes": 1}
    found = Search(base=None, server=p50, gateways=1, processes=1, callers=(1, 8), **limits).find(Part(model="m"))
    assert (bool(found.open_points), "already wait 501 ms" in found.why) == (tried, not tried)
