"""The benchmarks' own judgement and load."""

import functools
import itertools
import json
import pathlib
import subprocess
import sys
import threading

import pytest

from benchmarks import figures, gateway, serving
from benchmarks.serving import alternate, closed_loop
from tests.benchmarks.regression import BOUNDS
from tests.drawing import draw_lesion

TOOLS = ("comparison", "gateway", "overload")
MODEL = "mobilenet_v3_small"


def test_callers_call_again_at_once_until_the_time_is_over_and_enough_were_answered() -> None:
    counts, together = [itertools.count(1) for _ in range(3)], threading.Barrier(3)

    def call(photo: bytes, count: "itertools.count[int]") -> None:
        if next(count) == 1:
            together.wait(100)

    calls = [functools.partial(call, count=count) for count in counts]
    loop = closed_loop(calls, (b"a", b"b"), seconds=0.1, warm_up=0.01)
    assert sum(next(count) - 1 for count in counts) >= 4
    assert 0 < loop.p50 <= loop.p99
    assert loop.p50 < 50  # milliseconds, of which a call takes none

    opened = threading.Event()
    threading.Timer(0.1, opened.set).start()
    closed_loop([lambda photo: opened.wait()] * 2, (b"a",), seconds=0.01, warm_up=0)
    assert opened.is_set()


def test_no_more_answers_are_counted_than_callers_can_have_had() -> None:
    long_calls = [lambda photo: threading.Event().wait(0.1)] * 2  # they end together
    loop = closed_loop(long_calls, (b"a",), seconds=0.06, warm_up=0.05)
    assert loop.answers <= 2 / 0.1


def test_a_call_that_fails_ends_the_loop_with_its_error() -> None:
    def fail(photo: bytes) -> None:
        raise ValueError(photo)

    with pytest.raises(ValueError, match="photo"):
        closed_loop([fail, lambda photo: None], (b"photo",), seconds=60)


def test_rounds_alternate() -> None:
    order: list[str] = []
    times = alternate([lambda: order.append("a"), lambda: order.append("b")], 3, warm_up=1)
    assert order == ["a", "b"] * 4
    assert times.shape == (3, 2)


def test_figures_are_read_as_they_were_written_and_shown_as_markdown(tmp_path: pathlib.Path) -> None:
    machine = {"processor": "x", "usable_cores": 2, "memory_gb": 1, "load_before": [0.5], "commit": ""}
    tables = [figures.Table("speed", ["x", "y"], [["a", 1.26]])]
    options = {"plan": "once", "notes": ["a note"], "out": tmp_path}
    shown = figures.report(tables, machine, **options)
    assert shown.endswith("; once.\n\n**speed**\n\n| x | y |\n| --- | --- |\n| a | 1.3 |\n\n- a note\n")
    assert figures.markdown(json.loads((tmp_path / "figures.json").read_text())) == shown


@pytest.mark.parametrize("file", sorted(figures.FOLDER.glob("*.json")), ids=lambda file: file.name)
def test_committed_figures_name_their_command_and_every_row_fits_its_head(file: pathlib.Path) -> None:
    found = json.loads(file.read_text())
    assert found["command"].startswith(("python -m benchmarks.", "make "))
    assert all(len(row) == len(each["head"]) for each in found["tables"] for row in each["rows"])
    assert any(f"<!-- figures: {file.name} -->" in page.read_text() for page in figures.FOLDER.parent.glob("*.md"))


HELP = """
import runpy, sys
tools, sys.argv = sys.argv[1:], ["", "--help"]
for tool in tools:
    try:
        runpy.run_module(f"benchmarks.{tool}", run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, tool
"""


@pytest.mark.slow
def test_every_tool_has_help() -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *TOOLS], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.count("Usage:") == len(TOOLS)


@pytest.mark.slow
def test_the_gateway_is_measured_beside_direct_predict_and_the_relay(
    small_store: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "closed_loop", functools.partial(closed_loop, warm_up=0.1))
    monkeypatch.setattr(serving, "_LEAST", 50)  # answers, which take more than a tick of the processor's clock
    rows = list(gateway.measure(small_store, (MODEL,), (draw_lesion(),), 3, 0.1, with_edge=True))
    ratios, ways = rows[:4], rows[4:]
    assert [row.what for row in ratios] == list(BOUNDS)
    assert all(row.ratio > 0 and row.numbers["relay"] > 0 for row in ratios)
    assert (len(ways), ways[0].ratio, min(row.ratio for row in ways) > 0) == (4, 1, True)
