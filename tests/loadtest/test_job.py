"""The Jobs' containers, as processes here: what the manifests say, but for addresses, folders and lengths."""

import functools
import json
import pathlib
import subprocess
import sys

import pytest

from dermserve.loadtest import drive
from dermserve.loadtest.scenario import parse_seconds
from tests.certificates import make_certificate, server_credentials
from tests.client import fake_gateway
from tests.k8s.rendering import LOAD_TEST, Manifest, named, pod, render

pytestmark = pytest.mark.slow


def _command(job: Manifest, here: dict[str, str], *more: str) -> list[str]:
    (container,) = pod(job)["containers"]
    assert container["command"] == ["dermserve-loadtest"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    arguments = []
    for text in container["args"]:
        path = text.partition("=")[2]
        assert not path.startswith("/") or any(path.startswith(mount) for mount in mounts), f"{text} is nowhere"
        arguments.append(functools.reduce(lambda argument, each: argument.replace(*each), here.items(), text))
    return [sys.executable, "-m", "dermserve.loadtest", *arguments, *more]


def test_the_jobs_commands_load_a_gateway_over_mtls_and_leave_a_report_on_the_volume(
    tmp_path: pathlib.Path, unused_port: int
) -> None:
    certificate = make_certificate(tmp_path)
    (tmp_path / "report").mkdir()
    (tmp_path / "tls").mkdir()
    for name, file in (("ca.crt", certificate), ("tls.crt", certificate), ("tls.key", certificate.with_suffix(".key"))):
        (tmp_path / "tls" / name).write_bytes(file.read_bytes())
    jobs = render(LOAD_TEST)
    (tmp_path / "slo.toml").write_text("[[slo]]\nerror_rate = 0.0\n")
    credentials = server_credentials(certificate, client_ca=certificate)
    gateway = fake_gateway.FakeGateway()
    with fake_gateway.serving(gateway, host="localhost", credentials=credentials) as port:
        here = {
            "dns:///gateway:50051": f"localhost:{port}",
            "/etc/loadtest": str(tmp_path),
            "/report": str(tmp_path / "report"),
            "/tls/": f"{tmp_path}/tls/",
            "dermserve-loadtest:5557": f"127.0.0.1:{unused_port}",
            "--run-time=5m": "--run-time=5s",
            "--mix=all": "--mix=resnet50",
        }
        master = _command(
            named(jobs, "Job", "dermserve-loadtest"), here, f"--bind=127.0.0.1:{unused_port}", "--warm-up=1s"
        )
        worker = _command(named(jobs, "Job", "dermserve-loadtest-workers"), here)
        count = named(jobs, "Job", "dermserve-loadtest-workers")["spec"]["parallelism"]
        workers = [subprocess.Popen(worker, stderr=subprocess.DEVNULL, cwd=tmp_path) for _ in range(count)]
        try:
            done = subprocess.run(master, capture_output=True, text=True, check=False, timeout=200, cwd=tmp_path)
        finally:
            for each in workers:
                each.kill()
                each.wait()
    assert done.returncode in {0, 4}, done.stderr  # 4: a busy machine did not keep the rate
    assert gateway.requests
    assert json.loads((tmp_path / "report" / "result.json").read_text())["calls"][-1]["calls"] > 0
    assert {file.name for file in (tmp_path / "report").iterdir()} >= {"result.json", "report.html"}
    secret = certificate.with_suffix(".key").read_text().splitlines()[1]
    for name in ("result.json", "report.html"):
        assert secret not in (tmp_path / "report" / name).read_text(), "the report holds no key"


def test_the_report_outlives_the_pod_the_master_waits_for_every_worker_and_both_jobs_end() -> None:
    manifests = render(LOAD_TEST)
    master = pod(named(manifests, "Job", "dermserve-loadtest"))
    (container,) = master["containers"]
    claims = {
        v["name"]: v["persistentVolumeClaim"]["claimName"] for v in master["volumes"] if "persistentVolumeClaim" in v
    }
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    (out,) = (argument.partition("=")[2] for argument in container["args"] if argument.startswith("--out="))
    assert named(manifests, "PersistentVolumeClaim", claims[mounts[out]])
    workers = named(manifests, "Job", "dermserve-loadtest-workers")["spec"]
    assert f"--expect-workers={workers['parallelism']}" in container["args"]
    (run_time,) = (argument.partition("=")[2] for argument in container["args"] if argument.startswith("--run-time="))
    for job in (workers, named(manifests, "Job", "dermserve-loadtest")["spec"]):
        assert job["activeDeadlineSeconds"] > drive._WORKERS_TIMEOUT + parse_seconds(run_time)
