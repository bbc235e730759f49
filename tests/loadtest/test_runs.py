"""Whole runs: the command, Locust and its processes, against a gateway over real gRPC."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import psutil
import pytest
from click.testing import CliRunner, Result

from dermserve.loadtest import capacity, drive
from dermserve.loadtest.cli import main
from dermserve.loadtest.scenario import ServerError
from dermserve.v1 import classifier_pb2
from tests.certificates import make_certificate, server_credentials
from tests.client import fake_gateway

COMMAND = (sys.executable, "-m", "dermserve.loadtest")


def invoke(*arguments: str, cwd: pathlib.Path) -> Result:
    """Run the command in this process; Locust is one of its own in any case."""
    with contextlib.chdir(cwd):
        return CliRunner().invoke(main, arguments)


def run(*arguments: str, cwd: pathlib.Path, code: int = 0) -> Result:
    for _ in range(3):
        done = invoke(*arguments, cwd=cwd)
        if "no call was made after the warm-up" not in done.stderr:  # unless the machine stalled all the while
            break
    assert done.exit_code == code, f"{done.exit_code}\n{done.output}\n{done.exception!r}"
    return done


def quick(target: str, *arguments: str) -> tuple[str, ...]:
    return ("run", "--server", target, "--run-time", "4s", "--warm-up", "1s", *arguments)


def result(folder: pathlib.Path) -> dict:
    return json.loads((folder / "build/loadtest/result.json").read_text())


def test_a_closed_loop_calls_by_its_mix_and_reports_whatever_else_is_in_the_folder(
    target, gateway, tmp_path, monkeypatch
):
    monkeypatch.setenv("LOCUST_MASTER", "true")
    (tmp_path / "locust.conf").write_text("users = 3\nrun-time = 1h\n")
    (tmp_path / "pyproject.toml").write_text("[tool.locust\n")
    (tmp_path / "random.py").write_text("raise SystemExit('not the module of that name')\n")
    mix = ("--mix", "resnet50:full", "--mix", "resnet50:adaptive", "--mix", "resnet50:none:3")
    sizes = ("--side", "80", "--side", "200")
    done = run(*quick(target, *mix, "--users", "3", *sizes, "--warm-up", "0s", "--csv", "new/a"), cwd=tmp_path)
    said = result(tmp_path)
    kinds = ["Classify resnet50 ADAPTIVE", "Classify resnet50 FULL", "ClassifyStream resnet50 NONE", "all"]
    assert [row["name"] for row in said["calls"]] == kinds
    assert all(kind in done.stdout for kind in kinds)
    assert said["calls"][-1]["calls"] == len(gateway.requests), "each call is reported once"
    assert {call.tta for call in gateway.requests} == {
        classifier_pb2.TTA_MODE_FULL,
        classifier_pb2.TTA_MODE_ADAPTIVE,
        classifier_pb2.TTA_MODE_NONE,
    }
    assert len({call.image for call in gateway.requests}) > 8, "several photos, in both sizes"
    page = (tmp_path / "build/loadtest/report.html").read_text()
    assert page.count("data:image/png") == 4
    assert "Classify resnet50 FULL" in page
    assert said["history"]
    assert {call["name"]: sum(call["response_times"].values()) for call in said["stats"]} == {
        row["name"]: row["calls"] for row in said["calls"][:-1]
    }
    assert said["machine"]["cores"] >= 1
    assert any(sample["processes"].get("generator", {}).get("cores") for sample in said["server"]["samples"])
    assert "Classify resnet50 FULL" in (tmp_path / "new/a_stats.csv").read_text()


@pytest.mark.slow
def test_an_open_loop_keeps_its_rate_and_passes_its_gate(gateway, tmp_path, monkeypatch):
    """By TLS, which trusts the authorities of the environment."""
    certificate = make_certificate(tmp_path)
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    (tmp_path / "slo.toml").write_text("[[slo]]\nerror_rate = 0\nmin_rate = 0.1")
    load = ("--mix", "resnet50", "--rate", "40", "--users", "40", "--warm-up", "0s", "--slo", "slo.toml", "--tls")
    with fake_gateway.serving(gateway, host="localhost", credentials=server_credentials(certificate)) as port:
        done = invoke(*quick(f"localhost:{port}", *load), cwd=tmp_path)
    said = result(tmp_path)
    assert set(said["calls"][0]["statuses"]) == {"OK"}
    late = "the rate was not kept" in done.stderr  # on a machine with other work to do
    assert done.exit_code == (4 if late else 0), done.output
    assert said["calls"][0]["calls"] == said["pace"]["started"] == len(gateway.requests), "none is cut off at the end"
    assert said["pace"]["wanted"] <= 40 * (said["ended"] - said["started"]) + 40
    assert said["pace"]["wanted"] > 80 or late


@pytest.mark.slow
def test_a_rate_that_is_not_kept_is_reported_and_is_no_success(target, gateway, tmp_path):
    gateway.classify = lambda request, context: time.sleep(0.5) or fake_gateway.answer(request)
    arguments = ("--mix", "resnet50", "--rate", "40", "--users", "2", "--slo", "slo.toml")
    (tmp_path / "slo.toml").write_text("[[slo]]\nerror_rate = 0")
    run(*quick(target, *arguments), cwd=tmp_path, code=4)
    said = result(tmp_path)
    assert "the rate was not kept" in said["warnings"][0]
    assert said["calls"][0]["calls"] == said["pace"]["started"]
    assert said["calls"][0]["p99"] > 1000, "latency counts from when calls were due, not from when they could be made"


@pytest.mark.slow
def test_errors_are_counted_by_status_and_breach_the_gate_and_a_short_deadline_is_kept(target, gateway, tmp_path):
    def refuse(request, context):
        if len(gateway.requests) % 2:
            time.sleep(2)  # longer than the caller waits
        fake_gateway.abort(context, fake_gateway.rich_status(8, "full: try again"))

    gateway.classify = refuse
    (tmp_path / "slo.toml").write_text("[[slo]]\nerror_rate = 0.1")
    deadline = ("--deadline", "1s", "--users", "2")
    done = run(*quick(target, "--mix", "resnet50", *deadline, "--slo", "slo.toml"), cwd=tmp_path, code=1)
    assert "of the calls failed; --max-error-rate allows 1.00%" in done.stderr
    said = result(tmp_path)
    assert set(said["calls"][0]["statuses"]) == {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
    assert not said["slo"][0]["kept"]
    assert "full: try again" in (tmp_path / "build/loadtest/report.html").read_text()


@pytest.mark.slow
def test_users_whose_calls_fail_at_once_pause_and_do_not_call_thousands_of_times(target, gateway, tmp_path):
    gateway.classify = lambda _, context: fake_gateway.abort(context, fake_gateway.rich_status(14, "gone"))
    run(*quick(target, "--mix", "resnet50", "--users", "1"), cwd=tmp_path, code=1)
    assert 1 < len(gateway.requests) <= 41


@pytest.mark.slow
def test_a_local_server_that_dies_is_named_after_the_report(small_store, tmp_path):
    mix = ("--mix", "mobilenet_v3_small", "--users", "2", "--run-time", "8s", "--warm-up", "0s")
    with interruptible("run", "--local", "--store", str(small_store), *mix, cwd=tmp_path) as process:
        assert any("calls/s" in line for line in process.stderr)
        family = psutil.Process(process.pid).children(recursive=True)
        next(one for one in family if "dermserve.cli" in one.cmdline()).kill()
        _, err = process.communicate(timeout=200)
    assert (process.returncode, "Error: the gateway was killed by signal 9" in err) == (3, True), err
    assert "UNAVAILABLE" in result(tmp_path)["calls"][-1]["statuses"]


@pytest.mark.slow
def test_a_search_ends_when_the_gateway_is_gone(target, gateway, tmp_path, monkeypatch):
    def gone(*_):
        raise ServerError("no gateway answers")

    gateway.classify = lambda _, context: fake_gateway.abort(context, fake_gateway.rich_status(14, "gone"))
    monkeypatch.setattr(capacity, "check_server", gone)
    short = ("--callers", "1", "--probe", "1s", "--warm-up", "0s")
    run("capacity", "--server", target, "--mix", "resnet50", *short, cwd=tmp_path, code=3)


@pytest.mark.slow
def test_workers_send_everything_to_their_master_calls_in_flight_at_the_end_too(target, gateway, tmp_path):
    gateway.classify = lambda request, context: time.sleep(1.5) or fake_gateway.answer(request)
    run(*quick(target, "--mix", "resnet50", "--users", "4", "--processes", "2", "--warm-up", "0s"), cwd=tmp_path)
    said = result(tmp_path)
    assert said["calls"][-1]["calls"] == len(gateway.requests)
    sampled = {name for sample in said["server"]["samples"] for name in sample["processes"]}
    assert sampled == {"generator"}


@pytest.mark.slow
def test_a_locustfile_of_ones_own_uses_our_user(target, gateway, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from locust import constant, task\n"
        "from dermserve.loadtest.users import ClassifyUser\n"
        "class Clinic(ClassifyUser):\n"
        "    wait_time = constant(0.05)\n"
        "    @task\n"
        "    def one(self):\n"
        "        answer = self.classify(model='resnet50', mode='FULL')\n"
        "        assert answer.views_asked == 10\n"
    )
    # Long enough for a busy machine to answer something.
    command = [sys.executable, "-m", "locust", "-f", "mine.py", "--host", target, "--headless", "-u", "2", "-t", "10s"]
    done = subprocess.run(
        [*command, "-s", "99", "--json"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=300
    )
    assert {call.tta for call in gateway.requests} == {classifier_pb2.TTA_MODE_FULL}
    (stats,) = json.loads(done.stdout)
    assert (stats["name"], stats["num_requests"]) == ("Classify resnet50 FULL", len(gateway.requests))


@pytest.mark.slow
def test_the_web_ui_starts_a_test_and_ctrl_c_writes_the_report(target, gateway, tmp_path, unused_port):
    address = f"127.0.0.1:{unused_port}"
    arguments = ("run", "--server", target, "--mix", "resnet50", "--users", "1", "--web", address)
    with interruptible(*arguments, cwd=tmp_path) as process:
        wait_for(lambda: reachable(f"http://{address}/"))
        data = b"user_count=1&spawn_rate=1"
        urllib.request.urlopen(f"http://{address}/swarm", data, timeout=100).read()
        wait_for(lambda: len(gateway.requests) > 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(200) in {0, 1}  # 1: nothing came after the warm-up
    assert (tmp_path / "build/loadtest/report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "--server", "127.0.0.1:1"), 3, "dermserve up"),
        (("run",), 2, "--local"),
        (("run", "--server", "x:1", "--mix", "resnet50:often"), 2, "part of a mix"),
        (("run", "--server", "x:1", "--run-time", "2s"), 2, "warm-up"),
        (("run", "--server", "x:1", "--slo", "slo.toml"), 2, "p98"),
        (("run", "--server", "x:1", "--rate", "nan"), 2, "rate"),
        (("run", "--server", "x:1", "--rate", "1000000"), 2, "rate: Input should be less than or equal to 10000"),
        (("run", "--server", "x:1", "--users", "1000000"), 2, "users: Input should be less than or equal to 20000"),
        (("capacity", "--server", "x:1", "--callers", "1,99999"), 2, "users: Input should be less than"),
        (("run", "--server", "x:1", "--rate", "1e308"), 2, "rate: Input should be less than or equal to 10000"),
        (
            ("run", "--server", "x:1", "--run-time", "9999999999999h"),
            2,
            "'9999999999999h' is too long: 1000000s at most",
        ),
        (("run", "--server", "x:1", "--csv", "slo.toml/a"), 1, "slo.toml: File exists"),
        (("run", "--server", "x:1", "--deadline", "0"), 2, "deadline"),
        (("run", "--server", "x:1", "--deadline", "soon"), 2, "500ms"),
        (("run", "--server", ""), 2, "is not HOST:PORT"),
        (("capacity", "--server", "nowhere:"), 2, "is not HOST:PORT"),
        (("worker", "nowhere"), 2, "HOST:PORT"),
        (("worker", "127.0.0.1:5557", "--photos", "/nowhere"), 2, "/nowhere is not a folder"),
        (("run", "--server", "x:1", "--photos", "nowhere"), 2, "nowhere is not a folder"),
        (("capacity", "--server", "x:1", "--photos", "nowhere"), 2, "nowhere is not a folder"),
        (("run", "--server", "x:1", "--expect-workers", "1", "--side", "80"), 2, "--side to each worker"),
        (("run", "--server", "x:1", "--tls-cert", "slo.toml"), 2, "certificate and its key go together"),
        (("run", "--server", "x:1", "--photos", "text"), 2, "text/a.jpg: the bytes are not an image"),
        (("run", "--server", "x:1", "--photos", "empty"), 2, "empty/a.jpg: the photo is empty"),
        (("capacity", "--server", "x:1", "--photos", "odd"), 2, "odd has no photos"),
        (("run", "--server", "x:1", "--expect-workers", "1", "--bind", "nowhere"), 2, "'nowhere' is not HOST:PORT"),
        (("run", "--server", "x:1", "--expect-workers", "1", "--bind", "127.0.0.1:99999"), 2, "is not HOST:PORT"),
        (("run", "--server", "x:1", "--web", "nowhere"), 2, "'nowhere' is not HOST:PORT"),
        (("run", "--server", "x:1", "--tls-cert", "a.pem", "--tls-key", "b.key"), 2, "a.pem with the key b.key"),
        (("run", "--server", "x:1", "--out", "slo.toml/out"), 1, "can't use slo.toml/out: Not a directory"),
        (("run", "--server", "x:1", "--metrics", "x:9090"), 3, "x:9090 shows no metrics"),
        (("run", "--server", "x:1", "--metrics", "http://127.0.0.1:1/metrics"), 3, "shows no metrics"),
        (("run", "--server", "x:1", "--max-error-rate", "nan"), 2, "'nan' is not a number"),
        (("capacity", "--server", "x:1", "--precision", "nan"), 2, "'nan' is not a number"),
        (("capacity", "--server", "x:1", "--out", "slo.toml/out"), 1, "can't use slo.toml/out: Not a directory"),
        (("capacity", "--server", "x:1", "--slo", "fast"), 2, "p99=500ms"),
        (("capacity", "--server", "x:1", "--mix", "resnet50:none:3"), 2, "streams have no rate"),
        *((("capacity", "--server", "x:1", "--slo", f"p99={text}"), 2, "p99=500ms") for text in ("nan", "1e400", "-5")),
        (("capacity", "--server", "x:1", "--callers", "9" * 5000), 2, "are not numbers of callers"),
        (("capacity", "--server", "x:1", "--gateways", "2"), 2, "--local"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, arguments, code, says):
    (tmp_path / "slo.toml").write_text("[[slo]]\np98 = 3")
    for name in ("a", "b"):
        make_certificate(tmp_path, name)
    for name, content in (("text", b"text"), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(content)
    (tmp_path / "odd" / "folder.jpg").mkdir(parents=True)
    (tmp_path / "odd" / "nowhere.jpg").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "odd" / "pipe.jpg")  # whoever reads one waits for a writer
    done = invoke(*arguments, cwd=tmp_path)
    assert (done.exit_code, says in done.stderr) == (code, True), done.output


@pytest.mark.parametrize("option", ["--bind", "--web"])
def test_a_port_that_is_taken_is_said(target, tmp_path, option):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run(*quick(target, "--expect-workers", "1", option, f"127.0.0.1:{port}"), cwd=tmp_path, code=1)
    assert done.stderr.startswith(
        f"Error: port {port} is in use: stop what listens there, or choose another with {option}"
    )


@pytest.mark.slow
def test_a_test_whose_output_cannot_be_written_has_its_report(target, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, *quick(target, "--mix", "resnet50")], cwd=tmp_path, stdout=full, check=False)
    assert done.returncode == 1
    assert result(tmp_path)["calls"]
    assert (tmp_path / "build/loadtest/report.html").is_file()


@pytest.mark.slow
def test_ctrl_c_while_the_servers_stop_leaves_the_report(target, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def local_server(*_):
        try:
            yield drive.Server(target=target, pids={})
        finally:
            raise KeyboardInterrupt

    monkeypatch.setattr(drive, "local_server", local_server)
    run("run", "--local", "--mix", "resnet50", "--run-time", "4s", "--warm-up", "1s", cwd=tmp_path, code=130)
    assert result(tmp_path)["calls"]


def test_a_model_the_gateway_lacks_is_said_before_anything_is_sent(target, gateway, tmp_path):
    done = run(*quick(target, "--mix", "mobilenet_v3_small"), cwd=tmp_path, code=3)
    assert "ready: resnet50" in done.stderr
    assert not gateway.requests


@pytest.mark.slow
def test_capacity_is_found_and_drawn(target, gateway, tmp_path):
    turn = threading.Semaphore(2)

    def slowly(request, context):
        with turn:
            time.sleep(0.1)
        return fake_gateway.answer(request)

    gateway.classify = slowly
    arguments = ("--mix", "resnet50", "--slo", "p50=5s", "--probe", "2s", "--warm-up", "0.5s", "--probes", "1")
    sizes = ("--callers", "1,2,4", "--precision", "0.5")
    done = run("capacity", "--server", target, *arguments, *sizes, cwd=tmp_path)
    (found,) = json.loads((tmp_path / "build/capacity/capacity.json").read_text())["capacity"]
    # Two at a time, a tenth of a second each: 20 a second, and up to four more in two seconds that were on their way.
    # Four callers who did not have to wait would get 40.
    assert 0 < max(point["answers"] for point in found["closed_points"]) <= 26
    assert found["laws"]["1"]["rate"] > 0
    assert found["why"] in done.stdout
    assert (tmp_path / "build/capacity/capacity.png").stat().st_size > 10_000


@pytest.mark.slow
def test_ctrl_c_stops_the_local_stack_and_reports_what_there_is(small_store, tmp_path):
    mix = ("--mix", "mobilenet_v3_small", "--mix", "mobilenet_v3_small:full:2")
    arguments = ("run", "--local", "--store", str(small_store), *mix)
    with interruptible(*arguments, "--users", "2", "--warm-up", "1s", "--run-time", "10m", cwd=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "calls/s" in line and "p99" in line:
                break
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3, "model server, gateway, Locust"
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(200) == 0
    _, alive = psutil.wait_procs(family, timeout=100)
    assert not alive
    said = result(tmp_path)
    assert set(said["calls"][-1]["statuses"]) == {"OK"}
    assert {"modelserver", "gateway"} <= set(said["server"]["samples"][-1]["processes"])
    assert {stage["stage"] for stage in said["server"]["stages"]} >= {"decode", "predict"}


@contextlib.contextmanager
def interruptible(*arguments: str, cwd: pathlib.Path):
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).read()
    except OSError:
        return False
    return True


def wait_for(condition, seconds: float = 200) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.1)


@contextlib.contextmanager
def master(target: str, *arguments: str, cwd: pathlib.Path, port: int):
    """Start a `run` that waits for workers elsewhere."""
    waiting = ("--expect-workers", "2", "--bind", f"127.0.0.1:{port}")
    with interruptible(*quick(target, "--mix", "resnet50", *waiting, *arguments), cwd=cwd) as process:
        yield process


PREPARES = """
import pathlib
from dermserve.loadtest import scenario

load_photos = scenario.load_photos

def when_it_is_let(folder, sides):
    pathlib.Path("let").read_text()  # a pipe: it blocks the process
    return load_photos(folder, sides)

scenario.load_photos = when_it_is_let
"""


@pytest.fixture
def preparing(tmp_path, monkeypatch):
    """Let processes prepare photos only once the pipe `let` in their folder is written to."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(PREPARES)  # which Python imports at its start
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "first"))


@pytest.mark.slow
@pytest.mark.usefixtures("preparing")
def test_workers_prepare_their_photos_first_and_then_send_everything(target, gateway, tmp_path, unused_port):
    pipes = [tmp_path / name / "let" for name in ("one", "two")]
    for pipe in pipes:
        pipe.parent.mkdir()
        os.mkfifo(pipe)
    with (
        master(target, "--users", "4", "--warm-up", "0s", cwd=tmp_path, port=unused_port) as process,
        contextlib.ExitStack() as workers,
    ):
        for pipe in pipes:
            workers.enter_context(interruptible("worker", f"127.0.0.1:{unused_port}", cwd=pipe.parent))
        for _ in range(2):  # five seconds apart
            assert any("waiting for workers: 0 of 2 connected" in line for line in process.stderr)
        assert not gateway.requests
        for pipe in pipes:
            pipe.write_text("now")
        _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert result(tmp_path)["calls"][-1]["calls"] == len(gateway.requests) > 0


@pytest.mark.slow
def test_workers_that_are_lost_are_named_the_last_one_too_and_fail_the_test(target, gateway, tmp_path, unused_port):
    with (
        master(target, "--run-time", "60s", "--users", "2", cwd=tmp_path, port=unused_port) as process,
        interruptible("worker", f"127.0.0.1:{unused_port}", cwd=tmp_path) as first,
        interruptible("worker", f"127.0.0.1:{unused_port}", cwd=tmp_path) as second,
    ):
        assert process.stderr is not None
        wait_for(lambda: len(gateway.requests) > 10)
        first.kill()
        assert any("was lost: its last calls are missing" in line for line in process.stderr)
        second.kill()
        _, err = process.communicate(timeout=200)
    assert process.returncode == 1
    assert "was lost: its last calls are missing" in err.partition("failed: ")[0]
    assert err.count("failed: worker") == 2


@pytest.mark.slow
def test_a_worker_of_this_machine_that_dies_is_named_and_fails_the_test(target, gateway, tmp_path):
    load = ("--mix", "resnet50", "--run-time", "90s", "--users", "2", "--processes", "2")
    with interruptible(*quick(target, *load), cwd=tmp_path) as process:
        wait_for(lambda: len(gateway.requests) > 10)
        (generator,) = psutil.Process(process.pid).children()
        workers = generator.children()
        workers[0].kill()
        assert any("was lost: its last calls are missing" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=200)
    assert (process.returncode, len(workers), "Traceback" in err) == (1, 2, False), err
    assert (tmp_path / "build/loadtest/report.html").is_file()
    assert not [worker for worker in workers if worker.is_running()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a matter of the kernel")
def test_a_command_that_is_killed_leaves_no_worker_behind(target, gateway, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where its scratch folder stays
    load = ("--mix", "resnet50", "--run-time", "90s", "--users", "2", "--processes", "2")
    with interruptible(*quick(target, *load), cwd=tmp_path) as process:
        wait_for(lambda: len(gateway.requests) > 10)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        _, alive = psutil.wait_procs(family, timeout=50)  # a worker gives up its master after a minute
    assert (len(family), alive) == (3, [])


def test_a_master_whose_workers_do_not_come_gives_up(target, gateway, tmp_path, unused_port, monkeypatch):
    monkeypatch.setattr(drive, "_WORKERS_TIMEOUT", 1)
    waiting = ("--expect-workers", "1", "--bind", f"127.0.0.1:{unused_port}")
    done = run(*quick(target, "--mix", "resnet50", *waiting), cwd=tmp_path, code=1)
    assert "the generator ended with status 1" in done.stderr
    assert "Gave up waiting for workers" in done.stderr
    assert not gateway.requests


@pytest.mark.slow
def test_a_master_without_workers_says_what_it_waits_for_and_stops_on_ctrl_c(target, tmp_path, unused_port):
    with master(target, cwd=tmp_path, port=unused_port) as process:
        assert any("waiting for workers: 0 of 2 connected" in line for line in process.stderr)
        with interruptible("worker", f"127.0.0.1:{unused_port}", cwd=tmp_path) as worker:
            assert any("waiting for workers: 1 of 2 connected" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            assert "Traceback" not in process.stderr.read()
            assert process.wait(100) == 130
            assert worker.wait(100) == 0  # it was told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_worker_without_a_master_says_what_it_waits_for_and_stops_when_it_is_told(tmp_path, unused_port, number):
    with interruptible("worker", f"127.0.0.1:{unused_port}", cwd=tmp_path) as process:
        assert process.stderr.readline() == f"waiting for a run at 127.0.0.1:{unused_port}\n"
        process.send_signal(number)
        assert "Traceback" not in process.stderr.read()
        assert process.wait(100) == 130


def test_without_its_extra_it_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['locust'] = sys.modules['pydantic'] = None;"
    code += "from dermserve.loadtest.cli import main; main(['capacity'], prog_name='dermserve-loadtest')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "`dermserve-loadtest capacity` needs more" in done.stderr
    assert "'.[loadtest]'" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("preparing")
def test_ctrl_c_while_photos_are_prepared_is_130_without_a_traceback(target, tmp_path):
    os.mkfifo(tmp_path / "let")
    with (
        interruptible(*quick(target, "--mix", "resnet50"), cwd=tmp_path) as process,
        (tmp_path / "let").open("w"),
    ):  # which waits for a reader
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=200)
    assert (process.returncode, "Traceback" in err) == (130, False), err


def test_ctrl_c_before_the_first_call_is_130_without_a_traceback(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with interruptible("run", "--server", address, cwd=tmp_path) as process:
            silent.accept()[0].close()
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=200)
    assert (process.returncode, "Traceback" in err) == (130, False), err
