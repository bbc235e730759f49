"""A real API server: kube-apiserver and etcd as processes, as envtest runs them."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml

from tests.k8s.rendering import kubectl

TOKEN = "an-administrator-of-this-test-alone"


@dataclass(frozen=True)
class Cluster:
    """A control plane without nodes: it checks, admits and stores, and nothing runs."""

    kubeconfig: pathlib.Path

    def kubectl(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [kubectl(), "--kubeconfig", str(self.kubeconfig), *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=900)

    def apply(self, text: str, *more: str) -> list[str]:
        """Apply on the server's side, strictly; gives a line for each object."""
        done = self.kubectl(
            "apply", "--server-side", "--validate=strict", "--field-manager=test", *more, "-f", "-", text=text
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.splitlines()


def assets() -> pathlib.Path:
    """Find kube-apiserver and etcd by envtest's convention, or skip aloud."""
    folder = pathlib.Path(os.environ.get("KUBEBUILDER_ASSETS") or "/usr/local/kubebuilder/bin")
    for name in ("kube-apiserver", "etcd"):
        if not shutil.which(name, path=folder):
            pytest.skip(
                f"NOT CHECKED against a real API server: no {name} in {folder}. `make test-k8s` builds it, or set "
                "KUBEBUILDER_ASSETS to the folder of envtest's binaries"
            )
    return folder


@contextlib.contextmanager
def running(scratch: pathlib.Path) -> Iterator[Cluster]:
    folder = assets()
    client, peer, secure = _free_ports(3)
    with contextlib.ExitStack() as stack:
        etcd = [f"--listen-client-urls=http://127.0.0.1:{client}", f"--advertise-client-urls=http://127.0.0.1:{client}"]
        etcd += [
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        ]
        etcd += [f"--initial-cluster=default=http://127.0.0.1:{peer}", f"--data-dir={scratch / 'etcd'}"]
        stack.enter_context(_process(scratch / "etcd.log", str(folder / "etcd"), *etcd))
        _wait(f"http://127.0.0.1:{client}/health", scratch / "etcd.log")
        subprocess.run(["openssl", "genrsa", "-out", scratch / "accounts.key", "2048"], check=True, capture_output=True)
        (scratch / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        server = [f"--etcd-servers=http://127.0.0.1:{client}", f"--secure-port={secure}", "--bind-address=127.0.0.1"]
        server += [f"--cert-dir={scratch / 'certificates'}", f"--token-auth-file={scratch / 'tokens.csv'}"]
        server += ["--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16"]
        server += [f"--service-account-key-file={scratch / 'accounts.key'}", "--service-account-issuer=https://test"]
        server += [f"--service-account-signing-key-file={scratch / 'accounts.key'}"]
        # It would wait for accounts and tokens that controllers make, and none run here.
        server += ["--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none"]
        server += ["--feature-gates=ImageVolume=true"]  # on by default from 1.35
        server += ["--allow-privileged=true"]  # so that it is Pod Security which refuses such pods
        stack.enter_context(_process(scratch / "kube-apiserver.log", str(folder / "kube-apiserver"), *server))
        kubeconfig = _kubeconfig(scratch / "kubeconfig", secure)
        cluster = Cluster(kubeconfig)
        _until(lambda: cluster.kubectl("get", "--raw=/readyz").returncode == 0, scratch / "kube-apiserver.log")
        yield cluster


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def _process(log: pathlib.Path, *command: str) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(url: str, log: pathlib.Path) -> None:
    def answers() -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            return urllib.request.urlopen(url, timeout=5).status == 200
        return False

    _until(answers, log)


def _until(ready: object, log: pathlib.Path, seconds: float = 900) -> None:
    assert callable(ready)
    ends = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < ends, log.read_text()[-3000:]
        time.sleep(0.2)


def _kubeconfig(file: pathlib.Path, port: int) -> pathlib.Path:
    cluster = {"server": f"https://127.0.0.1:{port}", "insecure-skip-tls-verify": True}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    file.write_text(yaml.safe_dump(content))
    return file
