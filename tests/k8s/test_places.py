"""What differs from cluster to cluster has one place: the registry, Prometheus' label, the runbooks' address."""

import pathlib
import re

import pytest

from tests.k8s.rendering import kustomize, named, of_kind, render, write_overlay


def test_monitoring_puts_the_clusters_label_and_address_where_they_belong() -> None:
    manifests = render("production+all")
    monitored = of_kind(manifests, "ServiceMonitor") + of_kind(manifests, "PrometheusRule")
    assert {each["metadata"]["name"] for each in monitored} == {"gateway", "edge", "dermserve-gateway"}
    assert {each["metadata"]["labels"]["release"] for each in monitored} == {"kube-prometheus-stack"}
    groups = named(manifests, "PrometheusRule", "dermserve-gateway")["spec"]["groups"]
    urls = [rule["annotations"]["runbook_url"] for group in groups for rule in group["rules"] if "alert" in rule]
    assert all(re.fullmatch(r"https://\S+/k8s/README\.md#alert-[a-z-]+", url) for url in urls)
    assert not [m for m in of_kind(manifests, "ConfigMap") if m["metadata"]["name"] == "monitoring-place"]


@pytest.mark.parametrize("components", [["edge"], ["cert-manager", "edge", "image-volume"]])
@pytest.mark.parametrize("overlay", ["local", "production", "gpu"])
def test_the_registry_is_set_in_one_place_for_every_image(
    components: list[str], overlay: str, tmp_path: pathlib.Path
) -> None:
    write_overlay(tmp_path, overlay, [*components, "registry"])
    images = re.findall(r"(?:image|reference): (\S+)", kustomize(tmp_path))
    assert images
    assert {image.partition("/")[0] for image in images} == {"registry.example"}
