"""What `kubectl kustomize` makes of our manifests: every overlay, and production with each component and with all."""

import functools
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Any

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
Manifest = dict[str, Any]


def _folders(kind: str) -> list[str]:
    return sorted(path.parent.name for path in (K8S / kind).glob("*/kustomization.yaml"))


COMPONENTS = [name for name in _folders("components") if name != "namespace"]
"""Those that can be added together to what the tests look for in the namespace `dermserve`."""
OVERLAYS = _folders("overlays")
TARGETS = [*OVERLAYS, *(f"production+{name}" for name in COMPONENTS), "production+all"]
LOAD_TEST = "loadtest"
"""Against production; it holds all that the one in plain text does."""
JOBS = {LOAD_TEST: ROOT / "loadtest" / "k8s" / "production", "command": K8S / "examples" / "model-command"}
"""What is applied beside a target, by folder."""


def kubectl() -> str:
    """Find kubectl with a kustomize that knows components' merging, or skip."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("NOT CHECKED: the manifests, because there is no kubectl (1.30 or later) on the PATH")
    return found


def kustomize(folder: pathlib.Path) -> str:
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@functools.cache
def rendered_text(target: str) -> str:
    if target in JOBS:
        return kustomize(JOBS[target])
    overlay, _, component = target.partition("+")
    if not component:
        return kustomize(K8S / "overlays" / overlay)
    with tempfile.TemporaryDirectory() as scratch:
        write_overlay(pathlib.Path(scratch), overlay, COMPONENTS if component == "all" else [component])
        return kustomize(pathlib.Path(scratch))


def write_overlay(folder: pathlib.Path, overlay: str, components: list[str]) -> None:
    """Write what a user writes who wants an overlay with components."""
    k8s = os.path.relpath(K8S, folder.resolve())
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{k8s}/overlays/{overlay}"],
        "components": [f"{k8s}/components/{name}" for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))


def render(target: str) -> list[Manifest]:
    """Give fresh copies of a target's manifests."""
    return [manifest for manifest in yaml.load_all(rendered_text(target), yaml.CSafeLoader) if manifest]


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = (m for m in of_kind(manifests, kind) if m["metadata"]["name"] == name)
    return found


def pod(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"]["template"]["spec"]
    return spec


def containers(manifest: Manifest) -> list[Manifest]:
    """Init containers too."""
    return [*pod(manifest).get("initContainers", []), *pod(manifest)["containers"]]


def settings(manifests: list[Manifest]) -> dict[str, str]:
    """The gateway's environment, from the ConfigMap that its pods name."""
    (source,) = pod(named(manifests, "Deployment", "gateway"))["containers"][0]["envFrom"]
    found: dict[str, str] = named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found
