"""Every target passes the API groups' own validation and Pod Security admission (k8s/validate), without a server."""

import functools
import os
import pathlib
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.k8s.go import CACHE, go
from tests.k8s.rendering import JOBS, K8S, TARGETS, Manifest, named, of_kind, render, rendered_text

pytestmark = pytest.mark.slow  # builds Kubernetes' validation


@functools.cache
def _program() -> pathlib.Path:
    partial = CACHE / f"validate-{os.getpid()}"
    go("build", "-o", partial, ".", what="the API groups' validation", folder=K8S / "validate")
    return partial.rename(CACHE / "validate")


def errors(tmp_path: pathlib.Path, text: str) -> str:
    file = tmp_path / "manifests.yaml"
    file.write_text(text)
    done = subprocess.run([_program(), file], capture_output=True, text=True, check=False, timeout=60)
    assert bool(done.stdout) == bool(done.returncode), done
    return done.stdout


def test_every_target_is_accepted(tmp_path: pathlib.Path) -> None:
    texts = (rendered_text(target) for target in [*TARGETS, *JOBS])
    assert errors(tmp_path, "\n---\n".join(texts)) == ""


def _gateway(manifests: list[Manifest]) -> Any:
    return named(manifests, "Deployment", "gateway")["spec"]


DAMAGES: dict[str, tuple[Callable[[list[Manifest]], object], str]] = {
    "a misspelt field": (lambda m: _gateway(m).update(replica=2), "unknown field"),
    "a selector that selects nothing": (
        lambda m: _gateway(m)["selector"]["matchLabels"].update({"app.kubernetes.io/name": "other"}),
        "selector",
    ),
    "a volume that is not there": (
        lambda m: _gateway(m)["template"]["spec"]["containers"][0]["volumeMounts"][0].update(name="other"),
        "Not found",
    ),
    "a request above its limit": (
        lambda m: _gateway(m)["template"]["spec"]["containers"][0]["resources"]["requests"].update(cpu="64"),
        "must be less than or equal to cpu limit",
    ),
    "a probe by two means": (
        lambda m: _gateway(m)["template"]["spec"]["containers"][0]["readinessProbe"].update(tcpSocket={"port": 1}),
        "may not specify more than 1 handler type",
    ),
    "a privileged container": (
        lambda m: _gateway(m)["template"]["spec"]["containers"][0]["securityContext"].update(privileged=True),
        "violates Pod Security",
    ),
    "the node's network": (lambda m: _gateway(m)["template"]["spec"].update(hostNetwork=True), "violates Pod Security"),
    "fewer pods at most than at least": (
        lambda m: of_kind(m, "HorizontalPodAutoscaler")[0]["spec"].update(maxReplicas=1),
        "maxReplicas",
    ),
    "a port out of range": (lambda m: of_kind(m, "Service")[0]["spec"]["ports"][0].update(port=70000), "65535"),
    "no namespace": (lambda m: of_kind(m, "Service")[0]["metadata"].pop("namespace"), "namespace: Required value"),
    "a budget by two measures": (
        lambda m: of_kind(m, "PodDisruptionBudget")[0]["spec"].update(minAvailable=1, maxUnavailable=1),
        "cannot be both set",
    ),
    "a policy with a bad address": (
        lambda m: of_kind(m, "NetworkPolicy")[0]["spec"].update(
            egress=[{"to": [{"ipBlock": {"cidr": "169.254.20.10/40"}}]}], policyTypes=["Egress"]
        ),
        "cidr",
    ),
    "a kind that is not checked": (
        lambda m: m.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}}),
        "see validate()",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_an_api_server_would_refuse_is_refused(tmp_path: pathlib.Path, damage: str) -> None:
    spoil, words = DAMAGES[damage]
    manifests = render("production")
    spoil(manifests)
    assert words in errors(tmp_path, yaml.dump_all(manifests, Dumper=yaml.CSafeDumper))
