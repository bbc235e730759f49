"""A real API server accepts every target twice, changes nothing the second time, and refuses what is wrong.

It runs with the binaries of KUBEBUILDER_ASSETS, which `make test-k8s` builds. There are no nodes: no pod starts.
"""

import pathlib
from collections.abc import Iterator

import pytest
import yaml

from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.server_config import ConfigMap, ServerConfig
from tests.k8s.api_server import Cluster, running
from tests.k8s.rendering import JOBS, TARGETS, Manifest, containers, named, of_kind, render, rendered_text

CRDS = pathlib.Path(__file__).parent / "crds" / "operators.yaml"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as started:
        started.apply(CRDS.read_text())
        waited = started.kubectl("wait", "--for=condition=Established", "--timeout=120s", "crd", "--all")
        assert waited.returncode == 0, waited.stderr
        started.apply(yaml.safe_dump(of_kind(render("production"), "Namespace")[0]))
        yield started


def _pod_of(workload: Manifest) -> Manifest:
    template = workload["spec"]["template"]
    metadata = {"name": "a-pod", "namespace": "dermserve", **template["metadata"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _objects(cluster: Cluster, text: str) -> list[Manifest]:
    """Give what the server holds, but for the version that it counts: a claim of a volume gets a new one, unchanged."""
    got = cluster.kubectl("get", "-f", "-", "-o", "yaml", text=text)
    assert got.returncode == 0, got.stderr
    found: list[Manifest] = yaml.safe_load(got.stdout)["items"]
    assert all(each["metadata"].pop("resourceVersion") for each in found)
    return found


@pytest.mark.parametrize("target", [*TARGETS, *JOBS])
def test_a_target_is_accepted_twice_and_the_second_time_changes_nothing(cluster: Cluster, target: str) -> None:
    text = rendered_text(target)
    assert len(cluster.apply(text, "--force-conflicts")) == len(render(target))
    before = _objects(cluster, text)
    cluster.apply(text)
    assert _objects(cluster, text) == before


@pytest.mark.parametrize("target", [*TARGETS, *JOBS])
def test_pods_are_admitted_where_restricted_is_enforced(cluster: Cluster, target: str) -> None:
    manifests = render(target)
    for workload in of_kind(manifests, "Deployment") + of_kind(manifests, "Job"):
        pod = _pod_of(workload)
        pod["spec"].pop("priorityClassName", None)  # the class is not applied by every target
        cluster.apply(yaml.safe_dump(pod), "--dry-run=server")


def test_a_pod_with_a_privileged_init_container_is_refused(cluster: Cluster) -> None:
    deployment = named(render("production"), "Deployment", "modelserver")
    containers(deployment)[0]["securityContext"] = {"privileged": True}
    refused = cluster.kubectl("create", "--dry-run=server", "-f", "-", text=yaml.safe_dump(_pod_of(deployment)))
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted' in refused.stderr


def test_a_misspelt_field_is_refused(cluster: Cluster) -> None:
    deployment = named(render("production"), "Deployment", "gateway")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    refused = cluster.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", text=yaml.safe_dump(deployment))
    assert refused.returncode != 0
    assert "terminationGracePeriod" in refused.stderr


def test_a_commands_account_changes_the_config_map_which_the_next_apply_does_not_undo(
    cluster: Cluster, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = rendered_text("production")
    cluster.apply(text, "--force-conflicts")
    cluster.apply(rendered_text("command"))
    as_the_account = yaml.safe_load(cluster.kubeconfig.read_text())
    as_the_account["users"][0]["user"]["as"] = "system:serviceaccount:dermserve:model-command"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(as_the_account))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    held = ConfigMap("dermserve", "models-config")

    def config() -> ServerConfig:
        return ServerConfig.parse(held.read_text("models.config") or "")

    held.write_text("models.config", config().changed("resnet50", labels={"stable": 3}, pins=[3]).render())
    applied = cluster.kubectl("apply", "--server-side", "--field-manager=test", "-f", "-", text=text)
    assert 'conflict with "dermserve-model"' in applied.stderr
    assert (config().labels("resnet50"), config().pins("resnet50")) == ({"stable": 3}, [3])
    with pytest.raises(StoreError, match="forbidden"):
        ConfigMap("dermserve", "gateway-dashboard").read_text("dashboard.json")
    cluster.apply(text, "--force-conflicts")
