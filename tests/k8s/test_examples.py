"""k8s/examples: a command as a Job; KServe's kinds by an excerpt of their schemas, and the pods that it makes of them.

KServe itself is not run: the Deployment that it makes is put together here as its documentation says.
"""

import pathlib
from typing import Any

import pytest
import yaml

from dermserve.models.lifecycle.cli import model
from dermserve.models.lifecycle.server_config import ConfigMap, ServerConfig
from tests.k8s.policy import broken
from tests.k8s.rendering import K8S, Manifest, kustomize, named, of_kind, pod, render
from tests.k8s.test_schemas import check
from tests.k8s.test_validate import errors

OF_KSERVE = {"model", "labels", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "deploymentStrategy"}


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(kustomize(K8S / "examples" / "kserve")) if manifest]


def _made_by_kserve(manifests: list[Manifest]) -> Manifest:
    """Merge the runtime into the predictor, and mount the store, as KServe's documentation says it does."""
    (service,), (runtime,) = of_kind(manifests, "InferenceService"), of_kind(manifests, "ServingRuntime")
    predictor: dict[str, Any] = service["spec"]["predictor"]
    assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
    spec = {key: value for key, value in predictor.items() if key not in OF_KSERVE}
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    mounts = [*container["volumeMounts"], {"name": "store", "mountPath": "/mnt/models", "readOnly": True}]
    spec["containers"] = [{**container, "name": "modelserver", "volumeMounts": mounts}]
    spec["volumes"] = [*runtime["spec"]["volumes"], {"name": "store", "emptyDir": {"sizeLimit": "4Gi"}}]
    template = {"metadata": {"labels": predictor["labels"]}, "spec": spec}
    return {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "modelserver", "namespace": "dermserve"},
        "spec": {"replicas": predictor["minReplicas"], "strategy": predictor["deploymentStrategy"],
                 "selector": {"matchLabels": predictor["labels"]}, "template": template},
    }  # fmt: skip


def test_kserves_kinds_have_no_other_fields_and_the_rest_is_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        check(manifest, "1.35")
    assert {"ServingRuntime", "InferenceService"} <= {manifest["kind"] for manifest in manifests}


@pytest.mark.slow  # builds Kubernetes' validation
def test_the_pods_keep_our_rules_and_kubernetes_own(manifests: list[Manifest], tmp_path: pathlib.Path) -> None:
    made = [manifest for manifest in manifests if "kserve" not in manifest["apiVersion"]]
    made.append(_made_by_kserve(manifests))
    assert errors(tmp_path, yaml.dump_all(made, Dumper=yaml.CSafeDumper)) == ""
    # The store is downloaded by the pods themselves, which may reach it and DNS.
    (download,) = broken(made).pop("allows_just_the_edges_of_the_flow")
    assert download.startswith("modelserver-store")
    assert set(broken(made)) == {"allows_just_the_edges_of_the_flow"}


def test_tensorflow_serving_runs_as_it_does_without_kserve(manifests: list[Manifest]) -> None:
    (ours,) = pod(named(render("production"), "Deployment", "modelserver"))["containers"]
    (theirs,) = pod(_made_by_kserve(manifests))["containers"]
    same = set(ours) - {"volumeMounts"}
    assert {key: theirs[key] for key in same} == {key: ours[key] for key in same}
    config = ServerConfig.parse(named(manifests, "ConfigMap", "models-config")["data"]["models.config"])
    usual = ServerConfig.parse(named(render("production"), "ConfigMap", "models-config")["data"]["models.config"])
    assert list(config.models) == list(usual.models)
    assert [one.base_path for one in config.message().model_config_list.config] == [
        f"/mnt/models/{name}" for name in config.models
    ]


def test_our_services_and_budgets_select_kserves_pods(manifests: list[Manifest]) -> None:
    labels = _made_by_kserve(manifests)["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget"):
        selector = named(manifests, kind, "modelserver")["spec"]["selector"]
        assert selector.get("matchLabels", selector).items() <= labels.items()


def test_the_job_of_a_command_has_a_command_that_exists_and_reaches_what_it_names() -> None:
    manifests = render("command")
    (container,) = pod(named(manifests, "Job", "model-command"))["containers"]
    group, name, *arguments = container["args"]
    assert group == model.name
    given = model.commands[name].make_context(name, arguments).params
    (rule,) = named(manifests, "Role", "model-command")["rules"]
    place = named(manifests, "Role", "model-command")["metadata"]["namespace"]
    assert [given["config_map"]] == [ConfigMap(place, each) for each in rule["resourceNames"]]
    served = render("production")
    assert named(served, "ConfigMap", given["config_map"].name)["metadata"]["namespace"] == place
    host, port = given["tfs"][0].split(":")
    assert int(port) in {each["port"] for each in named(served, "Service", host)["spec"]["ports"]}
    (out,) = (policy["spec"] for policy in of_kind(manifests, "NetworkPolicy") if "egress" in policy["spec"])
    reached = [(rule["to"][0].get("podSelector"), rule["ports"]) for rule in out["egress"]]
    for policy in (policy["spec"] for policy in of_kind(manifests, "NetworkPolicy") if "ingress" in policy["spec"]):
        (allowed,) = policy["ingress"]
        assert allowed["from"] == [{"podSelector": out["podSelector"]}]
        assert (policy["podSelector"], allowed["ports"]) in reached
