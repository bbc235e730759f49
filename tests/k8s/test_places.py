"""What differs from cluster to cluster has one place: the registry, Prometheus' label, the runbooks' address."""

import itertools
import pathlib
import re

import pytest
import yaml

from tests.k8s.rendering import kustomize, named, of_kind, render, write_overlay


def test_monitoring_puts_the_clusters_label_and_address_where_they_belong() -> None:
    manifests = render("production+all")
    monitored = of_kind(manifests, "ServiceMonitor") + of_kind(manifests, "PrometheusRule")
    assert {each["metadata"]["name"] for each in monitored} == {"gateway", "edge", "modelserver", "dermserve-gateway"}
    assert {each["metadata"]["labels"]["release"] for each in monitored} == {"kube-prometheus-stack"}
    groups = named(manifests, "PrometheusRule", "dermserve-gateway")["spec"]["groups"]
    urls = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule]
    assert all(re.fullmatch(r"https://\S+/k8s/runbooks\.md#alert-[a-z-]+", url) for url in urls)
    assert not [m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "monitoring-place"]


@pytest.mark.parametrize(
    ("overlay", "components"),
    [
        *itertools.product(
            ["local", "production", "gpu"], [["edge"], ["cert-manager", "edge", "image-volume", "signed"]]
        ),
        ("../examples/kserve", []),
        ("../../loadtest/k8s/production", []),
    ],
)
def test_the_registry_is_set_in_one_place_for_every_image(
    overlay: str, components: list[str], tmp_path: pathlib.Path
) -> None:
    write_overlay(tmp_path, overlay, [*components, "registry"])
    images = re.findall(r"(?:image|reference): (\S+)", kustomize(tmp_path))
    assert images
    assert {image.partition("/")[0] for image in images} == {"registry.example"}


@pytest.mark.parametrize("component", [True, False])
def test_another_namespace_holds_everything(tmp_path: pathlib.Path, component: bool) -> None:
    parts = ["cert-manager", "edge", "edge-mtls", "edge-monitoring", "monitoring", "keda"]
    write_overlay(tmp_path, "production", [*parts, "namespace"] if component else parts)
    if not component:  # as kustomize does it by itself, for those without certificates, KEDA and alerts
        file = tmp_path / "kustomization.yaml"
        file.write_text(file.read_text() + "namespace: dermserve-staging\n")
    text = kustomize(tmp_path)
    manifests = list(yaml.safe_load_all(text))
    assert {m["metadata"].get("namespace") for m in manifests if m["kind"] != "Namespace"} == {"dermserve-staging"}
    assert [m["metadata"]["name"] for m in of_kind(manifests, "Namespace")] == ["dermserve-staging"]
    if component:
        names = [name for m in of_kind(manifests, "Certificate") for name in m["spec"].get("dnsNames", [])]
        assert {name.split(".")[1] for name in names if "." in name} == {"dermserve-staging"}
        assert {"gateway", "modelserver", "gateway.dermserve-staging.svc.cluster.local"} <= set(names)
        assert not re.findall(r'namespace="dermserve"', text)
        assert len(re.findall(r'namespace="dermserve-staging"', text)) == 4


def test_a_components_own_manifests_have_a_namespace_without_the_overlays_help(tmp_path: pathlib.Path) -> None:
    everywhere = {"Namespace", "PriorityClass"}
    for manifest in render("production+all"):
        assert manifest["kind"] in everywhere or manifest["metadata"]["namespace"] == "dermserve", manifest
