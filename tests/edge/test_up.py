"""`dermserve up --edge`: one command for everything, and nothing left when it ends."""

import contextlib
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
import requests
from click.testing import CliRunner

from dermserve.cli import main
from tests.edge.envoys import CLASSIFY, ask


@contextlib.contextmanager
def _up(store: pathlib.Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    ports = ["--port", "0", "--tfs-port", "0", "--edge", "--edge-port", "0"]
    program = "from dermserve.cli import main; main()"
    chosen = ["up", "--store", str(store), "--model", "mobilenet_v3_small", *ports, *options]
    command = [sys.executable, "-c", program, *chosen]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            page = re.match(r"page:\s+(\S+)/app/", process.stdout.readline())
            assert page is not None
            yield process, page[1]
        finally:
            process.kill()


def test_one_command_serves_the_page_and_leaves_nothing_when_envoy_dies(own_store: pathlib.Path, photo: bytes) -> None:
    """What a signal ends: tests/e2e/test_commands.py."""
    with _up(own_store) as (process, url):
        assert ask(url, CLASSIFY, body=photo).status_code == 200
        assert requests.get(f"{url}/app/", timeout=100).status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        (envoy,) = (child for child in children if "envoy" in child.name())
        envoy.kill()
        assert process.wait(200) == 1
        assert process.stderr is not None
        assert "the edge was killed by signal 9" in process.stderr.read()
    assert not psutil.wait_procs(children, timeout=100)[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--edge-port", "9000"], "--edge-port needs --edge"),
        (["--edge", "--port", "8080"], "--port and --edge-port must differ"),
        (["--edge", "--edge-port", "9", "--tfs-port", "9"], "--tfs-port and --edge-port must differ"),
        (["--port", "8500"], "--port and --tfs-port must differ"),
    ],
)
def test_options_of_the_edge_that_lack_another_are_refused(options: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["up", *options])
    assert (result.exit_code, told in result.output) == (2, True)


def test_an_edge_that_cannot_start_is_told_before_anything_starts(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", str(tmp_path / "store"), "--model", "none")  # not built, once told
    ports = ("--edge", "--port", "0", "--tfs-port", "0", "--edge-port")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["up", *store, *ports, str(port)])
    assert (result.exit_code, f"port {port} is in use" in result.output) == (1, True)
    monkeypatch.setenv("DERMSERVE_ENVOY", str(tmp_path / "no-envoy"))
    result = CliRunner().invoke(main, ["up", *store, *ports, "0"])
    assert (result.exit_code, "no-envoy" in result.output) == (1, True)
    assert list(tmp_path.iterdir()) == []
