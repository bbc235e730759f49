"""Thresholds are read strictly, and hold or not; what is concluded of a result."""

import contextlib
import functools
import json
import pathlib

import pytest
from click.testing import CliRunner

from dermserve.loadtest import capacity_cli, cli, drive
from dermserve.loadtest.calls import Call
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.recorder import Recorder
from dermserve.loadtest.result import Result
from dermserve.loadtest.scenario import Part, Scenario, ScenarioError
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
    scenario = Scenario(target="x:1", mix=(Part(model="m"),), users=1, warm_up=0).public()
    about = {"scenario": scenario, "machine": describe_machine(), "server": {"stages": [], "samples": []}}
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
        ("[[slo]]\nerror_rate = nan", "error_rate"),
        ('[[slo]]\np99 = "nan"', "p99"),
        ("[[slo]]\np99 = [1]", "p99"),
        ('[[slo]]\nmode = "MOST"\np99 = 1', "FULL"),
        ("[[slo", "slo.toml"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, text, says):
    with pytest.raises(ScenarioError, match=says):
        slos(tmp_path, text)


def test_a_latency_without_a_unit_is_milliseconds_also_in_quotes(tmp_path):
    (slo,) = slos(tmp_path, '[[slo]]\np50 = "500"\np95 = 500\np99 = "500ms"')
    assert (slo.p50, slo.p95, slo.p99) == (500, 500, 500)
    assert capacity_cli._threshold("p99=500") == capacity_cli._threshold("p99=0.5s") == ("p99", 500)


def test_our_own_thresholds_can_be_read():
    assert len(read_slos(pathlib.Path(__file__).parents[2] / "loadtest" / "slo.toml")) > 1


@pytest.mark.parametrize(
    ("csv", "fault"),
    [
        ("/dev/full", "/dev/full: No space left on device"),
        ("new/rows.csv", ""),
        ("new/result.json/rows.csv", "new/result.json: Is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_leaves_everything_else(tmp_path, monkeypatch, csv, fault):
    result = recorded(tmp_path)
    monkeypatch.chdir(tmp_path)
    pathlib.Path(csv).parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(cli, "under_test", lambda *_, **__: contextlib.nullcontext((None, None)))
    monkeypatch.setattr(cli, "run", lambda *_: result)
    done = CliRunner().invoke(cli.main, ["run", "--csv", csv, "--out", "new", "--json"])
    assert done.exit_code == bool(fault), done.output
    assert [line for line in done.stderr.splitlines() if "failed" in line] == [f"failed: {fault}"] * bool(fault)
    assert json.loads(done.stdout)["calls"]
    assert {"result.json", "report.html"} <= {file.name for file in (tmp_path / "new").iterdir()}


def _paths(value, path=()):
    """Every place in a JSON value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield *path, key
        yield from _paths(inner, (*path, key))


@pytest.mark.parametrize("damage", ["lacks", "a list", "nothing"])
def test_a_result_that_lacks_something_is_named_in_one_line(tmp_path, damage):
    data = dict(recorded(tmp_path).data)
    data["cells"] = data["cells"][:1]
    data["messages"] = {"UNAVAILABLE: full": 3}
    data["generators"] = [{"second": int(data["started"]), "name": "host/1", "cpu": 0.5, "lag_ms": 1.0}]
    used = {"gateway": {"cores": 0.5, "resident_mb": 100.0}}
    sample = {"second": int(data["started"]), "machine_cores": 1.0, "processes": used}
    data["server"] = {"samples": [sample], "stages": [{"model": "m", "stage": "decode", "calls": 3, "mean_ms": 2.0}]}
    file, read = tmp_path / "some.json", set()
    for *inner, key in _paths(data):
        copy = json.loads(json.dumps(data))
        holder = functools.reduce(lambda value, key: value[key], inner, copy)
        if damage == "lacks":
            del holder[key]
        else:
            holder[key] = [[]] if damage == "a list" else None
        file.write_text(json.dumps(copy))
        with contextlib.suppress(ScenarioError):
            Result.read(file)
            read.add((*inner, key))
    assert not [path for path in read if len(path) == 1 or path in {("scenario", "target"), ("server", "samples")}]
    if damage == "a list":
        assert not [path for path in read if path[0] in {"pace", "cells"}]


def test_a_generator_that_idles_after_the_test_was_busy_all_the_same(tmp_path):
    result = recorded(tmp_path)
    end = int(result.data["ended"])
    result.data["generators"] = [
        {"second": end - 5 + index, "name": "host/1", "cpu": 1.0 if index <= 5 else 0.0, "lag_ms": 1.0}
        for index in range(100)
    ]
    assert result.generators == {"host/1": (1.0, 1.0)}
    assert "the generator host/1 was busy" in result.warnings[0]


@pytest.mark.parametrize("quiet", [True, False])
def test_ctrl_c_ends_a_search_and_a_single_run_is_reported(tmp_path, monkeypatch, quiet):
    written = json.dumps(recorded(tmp_path).data)

    class Interrupted:
        """Locust that writes its result and is interrupted."""

        def __init__(self, command, **_):
            (self.file,) = (part.partition("=")[2] for part in command if part.startswith("--result="))

        def wait(self):
            pathlib.Path(self.file).write_text(written)
            raise KeyboardInterrupt

        def stop(self, *, grace):
            pass

    monkeypatch.setattr(drive, "Child", Interrupted)
    scenario = Scenario(target="x:1", mix=(Part(model="m"),), users=1)
    expected = pytest.raises(KeyboardInterrupt) if quiet else contextlib.nullcontext()
    with expected:
        result = drive.run(scenario, drive.Server(target="x:1", pids={}), drive.Generator(), quiet=quiet)
    assert quiet or result.all.calls == 200
