"""kube-score finds nothing in any target; what it is not to check, annotations say, with the reason beside them."""

import functools
import pathlib
import subprocess

import pytest
import yaml

from tests.k8s.go import CACHE, go
from tests.k8s.rendering import JOBS, TARGETS, Manifest, named, of_kind, pod, render, rendered_text

pytestmark = pytest.mark.slow  # builds kube-score

VERSION = "v1.20.0"
WITH_OTHERS = {"production+edge-monitoring", "production+ingress"}
"""Components for `edge`, checked with it in production+all."""


@functools.cache
def _program() -> pathlib.Path:
    folder = CACHE / f"kube-score-{VERSION}"
    if not (folder / "kube-score").exists():
        source = f"github.com/zegl/kube-score/cmd/kube-score@{VERSION}"
        go("install", source, what="kube-score", GOBIN=str(folder))
    return folder / "kube-score"


def _problems(text: str) -> list[str]:
    command = [_program(), "score", "--output-format=ci", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith(("[OK]", "[SKIPPED]"))]


@pytest.mark.parametrize("target", [*(target for target in TARGETS if target not in WITH_OTHERS), *JOBS])
def test_kube_score_finds_nothing(target: str) -> None:
    assert _problems(rendered_text(target)) == []


def test_kube_score_finds_what_is_wrong() -> None:
    manifests: list[Manifest] = render("production")
    (container,) = pod(named(manifests, "Deployment", "gateway"))["containers"]
    del container["resources"]["limits"]["ephemeral-storage"]
    manifests.remove(of_kind(manifests, "PodDisruptionBudget")[0])
    found = "\n".join(_problems(yaml.dump_all(manifests, Dumper=yaml.CSafeDumper)))
    assert "Ephemeral Storage limit is not set" in found
    assert "PodDisruptionBudget" in found
