"""Thresholds are read strictly, and hold or not; what is concluded of a result."""

import contextlib
import json
import pathlib
from collections import Counter

import numpy as np
import pytest
from click.testing import CliRunner

from dermserve.loadtest import cli, drive
from dermserve.loadtest import run as running
from dermserve.loadtest.capacity import read_threshold
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.result import Result, check, findings_table, read_slos
from dermserve.loadtest.scenario import Part, Scenario, ScenarioError

UNAVAILABLE = "UNAVAILABLE: no model server"


def entry(name: str, latency: dict[str, int], errors: int = 0) -> dict:
    """A kind of call as Locust writes it."""
    seconds = {"num_reqs_per_sec": {"1005": 50}, "num_fail_per_sec": {"1005": errors}}
    calls = sum(latency.values()) + errors
    return {"name": name, "response_times": latency, "num_requests": calls, "num_failures": errors, **seconds}


def recorded(*, errors: int = 0) -> Result:
    """A hundred calls of each model, of 10 and 100 ms, over ten seconds."""
    models = {"mobilenet_v3_small": "10.0", "resnet50": "100.0"}
    names = {f"Classify {model} NONE": milliseconds for model, milliseconds in models.items()}
    scenario = Scenario(target="x:1", mix=(Part(model="m"),), users=1, warm_up=0).public()
    used = {"gateway": {"cores": 0.5, "resident_mb": 100.0}}
    return Result({
        "scenario": scenario,
        "machine": describe_machine(),
        "server": {"stages": [{"model": "m", "stage": "decode", "calls": 3, "mean_ms": 2.0}],
                   "samples": [{"second": 1004, "machine_cores": 1.0, "processes": used}]},
        "started": 1000.0,
        "ended": 1010.0,
        "stats": [entry(name, {ms: 100 - errors}, errors) for name, ms in names.items()],
        "errors": [{"name": name, "error": UNAVAILABLE, "occurrences": errors} for name in names if errors],
        "history": [{f"response_time_percentile_{share}": ["1970-01-01T00:16:44+00:00", 10.0]
                     for share in (0.5, 0.95, 0.99)}],
        "pace": {"wanted": 0, "started": 0, "late": 0},
        "generator_busy": False,
        "worker_faults": [],
    })  # fmt: skip


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99, 1.0])
def test_percentiles_are_right_to_a_percent(share: float):
    values = np.random.default_rng(1).lognormal(4, 1, 5000)
    counts = Counter(f"{value:.3g}" for value in values)
    data = {**recorded().data, "stats": [entry("x", dict(counts))]}
    found = {0.5: "p50", 0.95: "p95", 0.99: "p99", 1.0: "worst"}[share]
    assert getattr(Result(data).all, found) == pytest.approx(
        np.quantile(values, share, method="inverted_cdf"), rel=0.005
    )


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
    findings = check(recorded(), slos(tmp_path, text))
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
    result = recorded(errors=50)
    assert [row.statuses for row in (*result.rows, result.all)] == [
        {"OK": many, "UNAVAILABLE": many} for many in (50, 50, 100)
    ]
    findings = check(result, slos(tmp_path, "[[slo]]\nerror_rate = 0.49\nmin_rate = 11"))
    assert [(each.kept, each.measured) for each in findings] == [
        (False, pytest.approx(0.5)),
        (False, pytest.approx(10, rel=0.01)),
    ]


def test_no_calls_of_a_kind_breach_its_thresholds(tmp_path):
    (finding,) = check(recorded(), slos(tmp_path, '[[slo]]\nmode = "FULL"\np99 = "9s"'))
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
        ("[[slo]]\np99 = inf", "p99"),
        ("[[slo]]\nmin_rate = 1e400", "min_rate"),
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
    assert read_threshold("p99=500") == read_threshold("p99=0.5s") == ("p99", 500)


def test_our_own_thresholds_can_be_read():
    assert len(read_slos(pathlib.Path(__file__).parents[2] / "loadtest" / "slo.toml")) > 1


@pytest.fixture
def concluded(monkeypatch, tmp_path):
    def conclude(result: Result):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(running, "under_test", lambda *_: contextlib.nullcontext((None, None)))
        monkeypatch.setattr(drive, "run", lambda *_, **__: result)
        return CliRunner().invoke(cli.main, ["run", "--out", "new"])

    return conclude


def test_the_report_shows_what_was_measured(concluded, tmp_path):
    done = concluded(recorded(errors=1))
    assert done.exit_code == 0, done.output
    assert ["all", "200", "19.8"] in [line.split()[:3] for line in done.stdout.splitlines()]
    assert "m decode" in done.stdout
    page = (tmp_path / "new/report.html").read_text()
    assert page.count("data:image/png") == 4
    assert UNAVAILABLE in page
    assert "decode" in page
    written = json.loads((tmp_path / "new/result.json").read_text())
    assert [row["p99"] for row in written["calls"]] == [10, 100, 100]


def test_errors_beyond_what_is_allowed_and_too_busy_generators_are_told(concluded):
    result = recorded(errors=2)
    done = concluded(Result({**result.data, "generator_busy": True}))
    assert done.exit_code == 1
    assert "failed: 2.00% of the calls failed; --max-error-rate allows 1.00%" in done.stderr
    assert "a generating process was busy" in done.stderr


def test_a_report_that_cannot_be_written_is_named_and_the_result_is_kept(concluded, tmp_path):
    (tmp_path / "new/report.html").mkdir(parents=True)
    done = concluded(recorded())
    assert (done.exit_code, "new/report.html: Is a directory" in done.stderr) == (1, True), done.stderr
    assert json.loads((tmp_path / "new/result.json").read_text())["calls"]
    assert "Classify resnet50 NONE" in done.stdout


class Locust:
    """A generator that writes its result, and is interrupted unless it has a status."""

    pid = 0
    status: int | None = None

    def __init__(self, command, **_):
        (self.file,) = (part.partition("=")[2] for part in command if part.startswith("--result="))

    def wait(self):
        pathlib.Path(self.file).write_text(json.dumps(recorded().data))
        if self.status is None:
            raise KeyboardInterrupt
        return self.status

    def died(self):
        return "its last lines"

    def stop(self, *, grace):
        pass


def _run(*, quiet: bool = False) -> Result:
    scenario = Scenario(target="x:1", mix=(Part(model="m"),), users=1)
    return drive.run(scenario, drive.Server(target="x:1", pids={}), processes=1, quiet=quiet)


@pytest.mark.parametrize("quiet", [True, False])
def test_ctrl_c_ends_a_search_and_a_single_run_is_reported(monkeypatch, quiet):
    monkeypatch.setattr(drive, "Child", Locust)
    expected = pytest.raises(KeyboardInterrupt) if quiet else contextlib.nullcontext()
    with expected:
        result = _run(quiet=quiet)
    assert quiet or result.all.calls == 200


def test_a_generator_that_fails_after_its_result_fails_the_test(monkeypatch):
    monkeypatch.setattr(drive, "Child", Locust)
    monkeypatch.setattr(Locust, "status", 1)  # as where a CSV file could not be written
    assert _run().data["worker_faults"] == ["its last lines"]
