"""A container engine, podman or docker, and how it starts a container as the kubelet would."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.k8s.rendering import Manifest, containers, named, pod

ASK = "DERMSERVE_TEST_IMAGES"
_UNITS = {"Mi": "m", "Gi": "g"}


@dataclass(frozen=True)
class Engine:
    """Runs `podman …` or `docker …`."""

    program: str
    environment: Mapping[str, str]

    def __call__(self, *arguments: str, seconds: float = 300, check: bool = True) -> str:
        """Run a command of the engine; gives what it printed."""
        done = subprocess.run(
            [self.program, *arguments], env=self.environment, capture_output=True, text=True, check=False,
            timeout=seconds,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout[-1000:]}{done.stderr[-3000:]}"
        return done.stdout

    def inspect(self, name: str) -> Any:
        (found,) = json.loads(self("inspect", name))
        return found

    def read(self, image: str, path: str, to: pathlib.Path) -> str:
        """Copy a file out of an image, and read it; no program of the image runs."""
        name = self("create", "--pull=never", image).strip()
        try:
            self("cp", f"{name}:{path}", str(to))
        finally:
            self("rm", name)
        return to.read_text()

    def run(self, *options: str, seconds: float = 300) -> str:
        """Run a container to its end; gives what it printed. Not with --rm, which podman 4 may do too early."""
        name = f"dermserve-test-{uuid.uuid4().hex}"
        try:
            return self("run", "--pull=never", f"--name={name}", *options, seconds=seconds)
        finally:
            self.remove(name)

    def remove(self, name: str) -> None:
        self("rm", "--force", "--time=0" if self.is_podman else "--volumes", name, check=False)

    @contextlib.contextmanager
    def running(self, name: str, *options: str) -> Iterator[str]:
        """Start a container, and remove it in the end."""
        self("run", "--detach", "--pull=never", f"--name={name}", *options)
        try:
            yield name
        finally:
            self.remove(name)

    @property
    def is_podman(self) -> bool:
        return pathlib.Path(self.program).name == "podman"


def find_engine(scratch: pathlib.Path) -> Engine:
    """Find the engine that was asked for, or skip aloud."""
    asked = os.environ.get(ASK)
    if not asked:
        pytest.skip(
            "NOT CHECKED: the images. `make test-images` builds and runs them: ten minutes or more, and as root"
        )
    program = shutil.which(asked)
    if program is None or subprocess.run([program, "info"], capture_output=True, check=False).returncode:
        pytest.fail(f"{asked} does not work here: `{asked} info` says why (DOCKER=podman names another one)")
    environment = dict(os.environ)
    if pathlib.Path(program).name == "podman":
        (scratch / "containers.conf").write_text(_containers_conf())
        environment["CONTAINERS_CONF"] = str(scratch / "containers.conf")
    return Engine(program, environment)


def _containers_conf() -> str:
    """Lower what podman gives containers to what this process may have itself: it can't give more than that."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    most = int(pathlib.Path("/proc/sys/kernel/pid_max").read_text())
    processes = most if processes == resource.RLIM_INFINITY else min(processes, most)
    files = 1 << 20 if files == resource.RLIM_INFINITY else files
    return f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'


@dataclass(frozen=True)
class Container:
    """A container of a Deployment, which the engine is to start."""

    manifests: list[Manifest]
    deployment: str
    name: str

    @property
    def spec(self) -> Manifest:
        (found,) = (each for each in containers(self._deployment) if each["name"] == self.name)
        return found

    @property
    def pod(self) -> Manifest:
        return pod(self._deployment)

    @property
    def grace(self) -> int:
        """Give the seconds that are left between SIGTERM and SIGKILL, once the preStop sleep is over."""
        sleep: int = self.spec["lifecycle"]["preStop"]["sleep"]["seconds"]
        whole: int = self.pod["terminationGracePeriodSeconds"]
        return whole - sleep

    @property
    def _deployment(self) -> Manifest:
        return named(self.manifests, "Deployment", self.deployment)

    def options(
        self, engine: Engine, scratch: pathlib.Path, volumes: Mapping[str, pathlib.Path], **variables: str
    ) -> list[str]:
        """Give the options and arguments of `run` that do what the manifest says.

        Args:
            engine: that is to run them.
            scratch: folder for the files of ConfigMaps.
            volumes: folders for those volumes that outlive the container, by name; others are made here.
            variables: environment variables instead of those of the manifest.
        """
        environment = self._environment() | variables
        return [
            *self._security(engine),
            *(f"--env={key}={value}" for key, value in environment.items()),
            *self._mounts(scratch, volumes),
            *(f"--entrypoint={each}" for each in self.spec.get("command", [])[:1]),
            self.spec["image"],
            *self.spec.get("command", [])[1:],
            *self.spec.get("args", []),
        ]

    def _security(self, engine: Engine) -> Iterator[str]:
        context = self.pod["securityContext"] | self.spec["securityContext"]
        limits = self.spec["resources"]["limits"]
        yield f"--user={context['runAsUser']}:{context['runAsGroup']}"
        if context["readOnlyRootFilesystem"]:
            yield "--read-only"
            if engine.is_podman:
                yield "--read-only-tmpfs=false"
        yield from (f"--cap-drop={each}" for each in context["capabilities"]["drop"])
        if not context["allowPrivilegeEscalation"]:
            yield "--security-opt=no-new-privileges"
        yield f"--memory={limits['memory'][:-2]}{_UNITS[limits['memory'][-2:]]}"
        yield f"--cpus={_cores(limits['cpu'])}"

    def _environment(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in self.spec.get("envFrom", []):
            found |= named(self.manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
        return found | {each["name"]: each["value"] for each in self.spec.get("env", [])}

    def _mounts(self, scratch: pathlib.Path, volumes: Mapping[str, pathlib.Path]) -> Iterator[str]:
        kinds = {volume["name"]: volume for volume in self.pod["volumes"]}
        for mount in self.spec.get("volumeMounts", []):
            name, volume = mount["name"], kinds[mount["name"]]
            if name in volumes or "configMap" in volume:
                folder = volumes.get(name) or self._config_map(scratch, volume["configMap"]["name"])
                yield f"--volume={folder}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}"
            else:
                size = volume["emptyDir"]["sizeLimit"]
                yield f"--tmpfs={mount['mountPath']}:size={size[:-2]}{_UNITS[size[-2:]]},mode=1777"

    def _config_map(self, scratch: pathlib.Path, name: str) -> pathlib.Path:
        folder = scratch / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
        for file, text in named(self.manifests, "ConfigMap", name)["data"].items():
            (folder / file).write_text(text)
        return folder


def _cores(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def empty_dir(folder: pathlib.Path) -> pathlib.Path:
    """Make what the kubelet makes for an emptyDir: a folder that everybody may write."""
    folder.mkdir()
    folder.chmod(0o777)
    return folder
