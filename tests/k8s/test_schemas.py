"""Every manifest is valid, strictly, for three minor versions of Kubernetes, and the YAML is tidy.

Kubernetes' own kinds are checked against its schemas as kubernetes-validate ships them. Of the operators' kinds we keep
an excerpt in `crds/`, in which what we don't use is refused.
"""

import functools
import json
import pathlib
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.k8s.rendering import JOBS, K8S, TARGETS, Manifest, named, render

MINORS = ("1.31", "1.33", "1.35")
CRDS = pathlib.Path(__file__).parent / "crds" / "operators.yaml"


@functools.cache
def _schemas() -> dict[tuple[str, str], Manifest]:
    found = {}
    for crd in yaml.safe_load_all(CRDS.read_text()):
        (version,) = crd["spec"]["versions"]
        key = (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"])
        found[key] = _closed(version["schema"]["openAPIV3Schema"])
    return found


def _closed(schema: Manifest) -> Manifest:
    """Refuse what is not named, as the API server does when it validates strictly."""
    schema = {key: _closed(value) if key == "items" else value for key, value in schema.items()}
    if schema.get("properties"):
        properties = {key: _closed(value) for key, value in schema["properties"].items()}
        schema |= {"properties": properties, "additionalProperties": False}
    return schema


def check(manifest: Manifest, minor: str) -> None:
    custom = _schemas().get((manifest["apiVersion"], manifest["kind"]))
    if custom is None:
        kubernetes_validate.validate(manifest, minor, strict=True)
    else:
        custom["properties"]["metadata"] = {"type": "object"}
        jsonschema.validate(manifest, custom)


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize("target", [*TARGETS, *JOBS])
def test_manifests_are_valid_strictly(target: str, minor: str) -> None:
    for manifest in render(target):
        _check_once(json.dumps(manifest), minor)


@functools.cache
def _check_once(manifest: str, minor: str) -> None:
    """Check what several targets share only once: each check reads all of Kubernetes' definitions."""
    check(json.loads(manifest), minor)


def test_a_misspelt_field_is_not_valid() -> None:
    deployment = named(render("production"), "Deployment", "gateway")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment, MINORS[0])


def test_a_misspelt_field_of_an_operators_kind_is_not_valid() -> None:
    monitor = named(render("production+monitoring"), "ServiceMonitor", "gateway")
    monitor["spec"]["endpoints"][0]["ports"] = "metrics"
    with pytest.raises(jsonschema.ValidationError):
        check(monitor, MINORS[0])


def test_yaml_is_tidy() -> None:
    linted = subprocess.run(
        [sys.executable, "-m", "yamllint", "--strict", "-c", K8S / ".yamllint.yaml", K8S],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert linted.returncode == 0, linted.stdout
