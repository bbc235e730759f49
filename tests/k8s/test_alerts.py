"""Every alert fires when it should and only then, and knows each reason a request can fail for."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from dermserve.gateway.errors import STATUSES
from tests.k8s.rendering import K8S, Manifest

ALERTS = K8S / "components" / "monitoring" / "alerts.yaml"
CASES = pathlib.Path(__file__).parent / "alerts_test.yaml"
CALLERS = {"INVALID_ARGUMENT", "NOT_FOUND", "DEADLINE_EXCEEDED"}
"""Statuses whose reasons are a caller's doing."""


def _groups() -> list[Manifest]:
    groups: list[Manifest] = yaml.safe_load(ALERTS.read_text())["spec"]["groups"]
    return groups


def _rules() -> list[Manifest]:
    return [rule for group in _groups() for rule in group["rules"]]


def _promtool(*arguments: object) -> None:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("NOT CHECKED: what alerts fire, because there is no promtool (Debian's `prometheus`) on the PATH")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_expressions_and_templates_are_valid(tmp_path: pathlib.Path) -> None:
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump({"groups": _groups()}))
    _promtool("check", "rules", "--lint-fatal", tmp_path / "alerts.yaml")


def test_alerts_fire_when_they_should_and_only_then(tmp_path: pathlib.Path) -> None:
    groups = _groups()
    for rule in (rule for group in groups for rule in group["rules"]):
        rule.pop("annotations", None)  # promtool would compare them word by word
    (tmp_path / "alerts.yaml").write_text(yaml.safe_dump({"groups": groups}))
    shutil.copy(CASES, tmp_path)
    _promtool("test", "rules", tmp_path / CASES.name)


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in _rules() if "alert" in rule}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


@pytest.mark.parametrize(
    ("title", "legend", "series"),
    [
        ("Answered, of what is no caller's fault", "answered", 'requests_total{method="Classify",code="UNAVAILABLE"}'),
        ("Refused by overload", "refused", 'requests_total{method="Classify",code="OK"}'),
        ("ADAPTIVE: views saved", "{{model}} stopped early", 'adaptive_answers_total{stopped="late"}'),
        ("ADAPTIVE: agreement with FULL", "{{model}}", 'adaptive_agreement_total{agreed="false"}'),
        ("Failed, by label", "{{model}} {{label}}", 'canary_requests_total{ended="ok"}'),
        ("Disagreement with the stable version", "{{model}}", 'canary_comparisons_total{result="agreed"}'),
    ],
)
def test_a_share_of_which_nothing_was_counted_yet_is_nought_and_not_absent(
    title: str, legend: str, series: str, tmp_path: pathlib.Path
) -> None:
    panels = json.loads((ALERTS.parent / "dashboard.json").read_text())["panels"]
    (panel,) = (panel for panel in panels if panel["title"] == title)
    (target,) = (each for each in panel["targets"] if each["legendFormat"] == legend)
    expression = re.sub(r'"\$(namespace|pod)"', '".*"', target["expr"]).replace("$__rate_interval", "5m")
    case = {"expr": expression, "eval_time": "9m", "exp_samples": [{"labels": "{}", "value": 0}]}
    counted = {"series": f"dermserve_gateway_{series}", "values": "0+60x10"}
    test = {"interval": "1m", "input_series": [counted], "promql_expr_test": [case]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}))
    _promtool("test", "rules", tmp_path / "test.yaml")


def _matched(name: str) -> set[str]:
    """Reasons in the rule of that name."""
    (rule,) = (rule for rule in _rules() if name in (rule.get("alert"), rule.get("record")))
    return set(re.findall(r'reason=~"([^"]*)"', rule["expr"])[0].split("|"))


@pytest.mark.parametrize("window", ["5m", "30m", "1h", "6h"])
def test_every_reason_is_a_fault_or_overload_or_the_callers(window: str) -> None:
    callers = {reason for reason, status in STATUSES.items() if status.name in CALLERS} | {"IMAGE_TOO_LARGE"}
    faults = _matched(f"namespace:dermserve_gateway_faults:rate{window}")
    overload = _matched("DermserveOverloaded")
    assert not faults & (overload | callers)
    assert not overload & callers
    assert faults | overload | callers == {*STATUSES}
