"""The docs, the dashboard and the alerts speak of the metrics that there are, by the labels that they have."""

import json
import pathlib
import re

import pytest
import yaml
from prometheus_client import ProcessCollector

from dermserve.gateway.catalog import Catalog
from dermserve.gateway.classify import Classifier
from dermserve.gateway.config import Config
from dermserve.gateway.metrics import Metrics, Snapshot
from dermserve.gateway.model_servers import ModelServers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs" / "metrics.md"
MONITORING = ROOT / "k8s" / "components" / "monitoring"
PROMETHEUS = {"namespace", "pod"}
"""Labels that Prometheus adds in Kubernetes."""


def _families() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Return help, label names and type by name, as documented: counters with their _total."""
    config, metrics = Config(models="m"), Metrics(("m",))
    servers = ModelServers([], connect=lambda *_: None, slots=1)
    classifier = Classifier(config, servers, Catalog(servers, config), metrics)
    classifier.workers.close()
    snapshot = Snapshot(classifier, ())
    own = [
        collector for collector in metrics.registry._collector_to_names if not isinstance(collector, ProcessCollector)
    ]
    found = {metric._name: (metric._documentation, metric._labelnames, metric._type) for metric in own}
    found |= {
        family.name: (family.documentation, tuple(family._labelnames), family.type) for family in snapshot.collect()
    }
    found |= {
        family.name: (family.documentation, (), family.type) for family in ProcessCollector(registry=None).collect()
    }
    return {name + "_total" * (facts[2] == "counter"): facts for name, facts in found.items()}


FAMILIES = _families()


def _series() -> dict[str, set[str]]:
    """Return the labels of each series that can be asked for."""
    series = {}
    for name, (_, labels, kind) in FAMILIES.items():
        if kind == "histogram":
            series |= {f"{name}_bucket": {*labels, "le"}, f"{name}_sum": {*labels}, f"{name}_count": {*labels}}
        else:
            series[name] = set(labels)
    return series


SERIES = _series()


def _expressions() -> dict[str, tuple[str, str]]:
    """Return every expression of the dashboard and the alerts, with the text that shows its labels."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    found = {}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = (target["expr"], target["legendFormat"])
    for rule in _rules():
        found[rule.get("alert") or rule["record"]] = (rule["expr"], " ".join(rule.get("annotations", {}).values()))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found[f"${variable['name']}"] = (variable["definition"].removeprefix("label_values("), "")
    return found


def _rules() -> list[dict]:
    """Return every alert and recording rule."""
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["spec"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


def _expanded(expression: str) -> str:
    """Put what recording rules record where their names are used; a rule only uses those above it."""
    for rule in reversed(_rules()):
        if "record" in rule:
            expression = expression.replace(rule["record"], f"({rule['expr']})")
    return expression


EXPRESSIONS = _expressions()


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_asks_for_series_and_labels_that_there_are(name):
    expression, shown = EXPRESSIONS[name]
    expression = _expanded(expression)
    asked = re.findall(r"\b((?:dermserve|process)_\w+)(?:\{([^}]*)\})?", expression)
    assert asked
    for series, selector in asked:
        assert series in SERIES
        assert set(re.findall(r"(\w+)\s*[=!]~?", selector)) <= SERIES[series] | PROMETHEUS
    held = set().union(*(SERIES[series] for series, _ in asked)) | PROMETHEUS
    kept = {label for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in group.split(", ")}
    assert kept <= held
    visible = set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", shown))
    assert visible <= (kept or held)


def test_every_metric_of_the_gateway_is_on_the_dashboard():
    drawn = " ".join(expression for expression, _ in EXPRESSIONS.values())
    own = [name for name in FAMILIES if name.startswith("dermserve")]
    assert not [name for name in own if name not in drawn]


@pytest.mark.parametrize("rule", [rule for rule in _rules() if "alert" in rule], ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_it_means_and_what_to_do(rule):
    assert rule["labels"]["severity"] in {"critical", "warning"}
    words = re.sub(r"(?<!^)(?=[A-Z])", "-", rule["alert"]).lower()
    assert rule["annotations"]["runbook_url"] == f"k8s/runbooks.md#alert-{words}"
    assert all(rule["annotations"][text].endswith(".") for text in ("summary", "description"))
    assert re.fullmatch(r"\d+[mh]", rule["for"])


def test_the_panels_of_the_dashboard_have_ids_of_their_own_and_do_not_overlap():
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (column, line)
        for panel in panels
        for at in [panel["gridPos"]]
        for column in range(at["x"], at["x"] + at["w"])
        for line in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(column for column, _ in taken) < 24


def rows() -> list[str]:
    """Write the rows of the docs' table; `python tests/gateway/test_observability.py` prints them."""
    return [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |"
        for name, (text, labels, kind) in FAMILIES.items()
    ]


def test_the_docs_have_every_metric_with_its_labels_and_meaning():
    documented = [line for line in DOCS.read_text().splitlines() if re.match(r"\| `(dermserve|process)_", line)]
    assert documented == rows()


def test_every_log_event_is_in_the_docs():
    sources = "".join(file.read_text() for file in (ROOT / "serving/dermserve/gateway").glob("*.py"))
    events = set(re.findall(r'(?:_log(?:\.\w+)?)\(\s*"(\w+)"', sources))
    assert len(events) > 15
    page = (ROOT / "docs" / "observability.md").read_text()
    assert not [event for event in events if f"`{event}`" not in page]


if __name__ == "__main__":
    print("\n".join(rows()))  # noqa: T201
