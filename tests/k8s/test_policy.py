"""Every container of every target keeps every rule, and every rule catches what breaks it."""

import copy
from collections.abc import Callable

import pytest

from tests.k8s.policy import RULES, broken
from tests.k8s.rendering import JOBS, TARGETS, Manifest, containers, named, of_kind, pod, render


@pytest.mark.parametrize("target", [*TARGETS, "gpu+keda", "gpu+all"])
def test_every_container_keeps_every_rule(target: str) -> None:
    assert broken(render(target)) == {}


@pytest.mark.parametrize("jobs", JOBS)
def test_jobs_keep_the_rules_of_every_pod(jobs: str) -> None:
    manifests = render(jobs)
    every = [check for check in RULES if check.__name__ in EVERY_POD]
    assert len(every) == len(EVERY_POD)
    assert [problem for check in every for problem in check(manifests)] == []


EVERY_POD = {
    "runs_as_a_numeric_user_that_is_not_root", "cannot_gain_privileges", "drops_all_capabilities",
    "has_the_default_seccomp_profile", "has_a_read_only_root", "writes_only_to_bounded_volumes",
    "shares_nothing_with_its_host", "says_what_it_needs_and_may_take", "may_fill_its_volumes", "pulls_an_image_once",
    "names_a_version_of_its_image", "names_the_registry_of_its_image",
}  # fmt: skip


def _first(manifests: list[Manifest]) -> Manifest:
    """An init container: those are easily forgotten."""
    return containers(named(manifests, "Deployment", "modelserver"))[0]


def _gateway(manifests: list[Manifest]) -> Manifest:
    return pod(named(manifests, "Deployment", "gateway"))


def _server(manifests: list[Manifest]) -> Manifest:
    server: Manifest = pod(named(manifests, "Deployment", "modelserver"))["containers"][0]
    return server


def _policy(manifests: list[Manifest], name: str) -> Manifest:
    spec: Manifest = named(manifests, "NetworkPolicy", name)["spec"]
    return spec


def _settings(manifests: list[Manifest]) -> Manifest:
    data: Manifest = next(m for m in of_kind(manifests, "ConfigMap") if "DERMSERVE_LISTEN" in m["data"])["data"]
    return data


def _set(place: Manifest, **values: object) -> None:
    place.update(values)


BREAKS: dict[str, Callable[[list[Manifest]], object]] = {
    "namespace_enforces_restricted": lambda all_: of_kind(all_, "Namespace")[0]["metadata"]["labels"].clear(),
    "runs_as_a_numeric_user_that_is_not_root": lambda all_: _set(_first(all_)["securityContext"], runAsUser=0),
    "cannot_gain_privileges": lambda all_: _first(all_)["securityContext"].pop("allowPrivilegeEscalation"),
    "drops_all_capabilities": lambda all_: _set(_first(all_)["securityContext"]["capabilities"], add=["NET_RAW"]),
    "has_the_default_seccomp_profile": lambda all_: _gateway(all_)["securityContext"].pop("seccompProfile"),
    "has_a_read_only_root": lambda all_: _first(all_)["securityContext"].pop("readOnlyRootFilesystem"),
    "writes_only_to_bounded_volumes": lambda all_: _gateway(all_)["volumes"].append({"name": "x", "hostPath": {}}),
    "shares_nothing_with_its_host": lambda all_: _set(_gateway(all_), hostNetwork=True),
    "has_no_token_of_the_cluster": lambda all_: _gateway(all_).pop("automountServiceAccountToken"),
    "gets_no_variables_of_services": lambda all_: _gateway(all_).pop("enableServiceLinks"),
    "says_what_it_needs_and_may_take": lambda all_: _first(all_)["resources"]["limits"].pop("memory"),
    "may_fill_its_volumes": lambda all_: [
        v["emptyDir"].update(sizeLimit="1Gi") for v in _gateway(all_)["volumes"] if "emptyDir" in v
    ],
    "pulls_an_image_once": lambda all_: _first(all_).pop("imagePullPolicy"),
    "names_a_version_of_its_image": lambda all_: _set(_first(all_), image="registry.example:5000/dermserve/models"),
    "names_the_registry_of_its_image": lambda all_: _set(_first(all_), image="dermserve/models:1"),
    "has_all_three_probes": lambda all_: _server(all_).pop("startupProbe"),
    "keeps_all_pods_during_a_rollout": lambda all_: named(all_, "Deployment", "gateway")["spec"].pop("strategy"),
    "spreads_over_nodes_and_zones": lambda all_: _gateway(all_)["topologySpreadConstraints"].pop(),
    "stops_within_its_grace": lambda all_: _set(_gateway(all_), terminationGracePeriodSeconds=30),
    "tells_tensorflow_serving_what_it_must_know": lambda all_: _server(all_)["env"].clear(),
    "has_memory_for_the_photos_it_lets_wait": lambda all_: _set(_settings(all_), DERMSERVE_MAX_HELD_BYTES="512000000"),
    "keeps_every_core_of_every_model_server_busy": lambda all_: _set(_settings(all_), DERMSERVE_TFS_IN_FLIGHT="2"),
    "allows_just_the_edges_of_the_flow": lambda all_: _policy(all_, "modelserver")["ingress"][0]["from"].append({}),
    "finds_names_wherever_a_cluster_resolves_them": lambda all_: _policy(all_, "dns")["egress"][0]["to"].pop(),
    "has_two_pods_that_scale_and_are_evicted_one_by_one": lambda all_: all_.remove(
        named(all_, "PodDisruptionBudget", "gateway")
    ),
    "listens_to_others_only_encrypted": lambda all_: _set(_settings(all_), DERMSERVE_INSECURE="true"),
}


@pytest.mark.parametrize("name", [check.__name__ for check in RULES])
def test_a_rule_catches_what_breaks_it(name: str) -> None:
    manifests = copy.deepcopy(render("production"))
    BREAKS[name](manifests)
    assert list(broken(manifests)) == [name]
