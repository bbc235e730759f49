"""Thresholds are read strictly, and hold or not."""

import json
import pathlib

import pytest

from dermserve.loadtest.calls import Call
from dermserve.loadtest.recorder import Recorder
from dermserve.loadtest.result import Result
from dermserve.loadtest.scenario import ScenarioError
from dermserve.loadtest.slo import check, findings_table, read_slos


def recorded(tmp_path, *, errors: int = 0) -> Result:
    """A hundred calls of each model, of 10 and 100 ms, over ten seconds."""
    recorder = Recorder()
    recorder.clear()
    for model, milliseconds in (("mobilenet_v3_small", 10.0), ("resnet50", 100.0)):
        for index in range(100):
            recorder.note(
                Call(
                    method="Classify",
                    model=model,
                    mode="NONE",
                    status="UNAVAILABLE" if index < errors else "OK",
                    milliseconds=milliseconds,
                )
            )
    recorder.ended = recorder.started + 10
    recorder.write(tmp_path / "raw.json")
    raw = json.loads((tmp_path / "raw.json").read_text())
    about = {"scenario": {"warm_up": 0}, "machine": {}, "server": {"stages": [], "samples": []}}
    return Result({**about, **raw})


def slos(tmp_path, text: str):
    file = tmp_path / "slo.toml"
    file.write_text(text)
    return read_slos(file)


def test_thresholds_hold_for_the_calls_they_name(tmp_path):
    text = """
        [[slo]]
        min_rate = 19
        error_rate = 0
        p50 = "20ms"
        [[slo]]
        model = "resnet50"
        mode = "none"
        p99 = 99
        [[slo]]
        model = "mobilenet_v3_small"
        p95 = "0.011s"
    """
    findings = check(recorded(tmp_path), slos(tmp_path, text))
    kept = {(each.name, each.limit): each.kept for each in findings}
    assert kept == {
        ("all", "p50"): True,
        ("all", "error_rate"): True,
        ("all", "min_rate"): True,
        ("Classify resnet50 NONE", "p99"): False,
        ("Classify mobilenet_v3_small NONE", "p95"): True,
    }
    assert findings_table(findings).count("BREACHED") == 1


def test_errors_breach_an_error_rate_and_a_rate(tmp_path):
    findings = check(recorded(tmp_path, errors=50), slos(tmp_path, "[[slo]]\nerror_rate = 0.49\nmin_rate = 11"))
    assert [(each.kept, each.measured) for each in findings] == [
        (False, pytest.approx(0.5)),
        (False, pytest.approx(10, rel=0.01)),
    ]


def test_no_calls_of_a_kind_breach_its_thresholds(tmp_path):
    (finding,) = check(recorded(tmp_path), slos(tmp_path, '[[slo]]\nmode = "FULL"\np99 = "9s"'))
    assert not finding.kept
    assert "no calls" in findings_table([finding])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "slo"),
        ("x = 1", "slo"),
        ("[[slo]]\np98 = 1", "p98"),
        ("[[slo]]", "threshold"),
        ('[[slo]]\np99 = "soon"', "soon"),
        ("[[slo]]\nerror_rate = 2", "error_rate"),
        ("[[slo]]\nmin_rate = -1", "min_rate"),
        ('[[slo]]\nmode = "MOST"\np99 = 1', "FULL"),
        ("[[slo", "slo.toml"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, text, says):
    with pytest.raises(ScenarioError, match=says):
        slos(tmp_path, text)


def test_our_own_thresholds_can_be_read():
    assert len(read_slos(pathlib.Path(__file__).parents[2] / "loadtest" / "slo.toml")) > 1
