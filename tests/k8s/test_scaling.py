"""Scaling by CPU, KEDA and prometheus-adapter have the same bounds and targets, by metrics that exist."""

import re

import pytest
import yaml

from tests.k8s.policy import scalers
from tests.k8s.rendering import K8S, ROOT, Manifest, named, pod, render, settings

RULES = K8S / "components" / "prometheus-adapter" / "rules.yaml"


def _external(scaler: Manifest) -> Manifest:
    (external,) = (metric["external"] for metric in scaler["metrics"] if metric["type"] == "External")
    return {"name": external["metric"]["name"], "value": external["target"]["averageValue"]}


@pytest.mark.parametrize("name", ["gateway", "modelserver"])
def test_all_ways_to_scale_have_the_same_bounds_and_behavior(name: str) -> None:
    cpu = scalers(render("production"))[name]
    for target in ("production+keda", "production+prometheus-adapter"):
        other = scalers(render(target))[name]
        assert [other[key] for key in ("minReplicas", "maxReplicas", "behavior")] == [
            cpu[key] for key in ("minReplicas", "maxReplicas", "behavior")
        ]


def test_a_model_server_is_meant_to_have_the_same_load_whatever_scales_it() -> None:
    (server,) = pod(named(render("production"), "Deployment", "modelserver"))["containers"]
    (cpu,) = scalers(render("production"))["modelserver"]["metrics"]
    share = cpu["containerResource"]["target"]["averageUtilization"] / 100
    calls = int(server["resources"]["limits"]["cpu"]) * share
    (trigger,) = scalers(render("production+keda"))["modelserver"]["triggers"]
    assert float(trigger["metadata"]["threshold"]) == pytest.approx(calls)
    external = _external(scalers(render("production+prometheus-adapter"))["modelserver"])
    assert external["value"] == f"{calls * 1000:.0f}m"


def test_gateways_scale_on_the_same_queue_and_cpu_whatever_scales_them() -> None:
    cpu = scalers(render("production"))["gateway"]["metrics"][0]["resource"]["target"]["averageUtilization"]
    queue, processor = scalers(render("production+keda"))["gateway"]["triggers"]
    assert int(processor["metadata"]["value"]) == cpu
    both = scalers(render("production+prometheus-adapter"))["gateway"]
    assert _external(both)["value"] == queue["metadata"]["threshold"]
    assert both["metrics"][0]["resource"]["target"]["averageUtilization"] == cpu


def test_the_adapters_rules_give_the_metrics_that_the_autoscalers_ask_for_from_those_that_exist() -> None:
    rules = yaml.safe_load(RULES.read_text())["rules"]["external"]
    scaled = scalers(render("production+prometheus-adapter"))
    assert {rule["name"]["as"] for rule in rules} == {_external(scaled[name])["name"] for name in scaled}
    queries = [rule[key] for rule in rules for key in ("seriesQuery", "metricsQuery")]
    triggers = [each for scaler in scalers(render("production+keda")).values() for each in scaler["triggers"]]
    queries += [each["metadata"]["query"] for each in triggers if each["type"] == "prometheus"]
    known = set(re.findall(r"dermserve_gateway_\w+", (ROOT / "docs" / "metrics.md").read_text()))
    assert {name for query in queries for name in re.findall(r"dermserve_gateway_\w+", query)} <= known


@pytest.mark.parametrize("target", ["production", "production+keda"])
def test_the_fewest_gateways_fill_the_cores_of_the_most_model_servers(target: str) -> None:
    manifests = render(target)
    (server,) = pod(named(manifests, "Deployment", "modelserver"))["containers"]
    most = scalers(manifests)["modelserver"]["maxReplicas"]
    cores = most * int(server["resources"]["limits"]["cpu"])
    in_flight = int(settings(manifests)["DERMSERVE_TFS_IN_FLIGHT"]) * most
    assert scalers(manifests)["gateway"]["minReplicas"] * in_flight >= cores
