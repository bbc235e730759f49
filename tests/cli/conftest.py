import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import TypeAlias

import pytest
from click.testing import CliRunner

from dermserve.cli import main
from tests.client import conftest

gateway, target = conftest.gateway, conftest.target  # fixtures

Run: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]
DERMSERVE = (sys.executable, "-c", "from dermserve.cli import main; main(prog_name='dermserve')")


@pytest.fixture
def start(target: str) -> Callable[..., "subprocess.Popen[str]"]:
    """Start `dermserve ARGUMENTS` as a process that asks the fake gateway.

    The process runs `first`, Python code, before. `preexec_fn` would fork this process, which has gRPC's threads.
    """

    def call(*arguments: str | pathlib.Path, first: str = "", **options: object) -> "subprocess.Popen[str]":
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = {**os.environ, "DERMSERVE_SERVER": target}
        command = [*DERMSERVE, *map(str, arguments)]
        if first:
            become = "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
            command[1:1] = ["-c", f"import os, resource, sys; {first}; {become}"]
        return subprocess.Popen(command, env=environment, **{**streams, **options})

    return call


@pytest.fixture
def run(
    target: str, start: Callable[..., "subprocess.Popen[str]"]
) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run `dermserve ARGUMENTS` to its end: in this process, or as one where its streams or environment are chosen."""

    def call(*arguments: str | pathlib.Path, **options: object) -> "subprocess.CompletedProcess[str]":
        if not options:
            runner = CliRunner(env={"DERMSERVE_SERVER": target})
            done = runner.invoke(main, [str(argument) for argument in arguments], prog_name="dermserve")
            return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)
        given = options.pop("input", None)
        with start(*arguments, **({"stdin": subprocess.PIPE} if given is not None else {}), **options) as process:
            out, err = process.communicate(given, timeout=200)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    return call


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Three photos at two depths, and a file that is none."""
    photos = tmp_path / "photos"
    (photos / "deeper").mkdir(parents=True)
    for name in ("b.JPG", "a.png", "deeper/c.webp"):
        (photos / name).write_bytes(name.encode())
    (photos / "notes.txt").write_text("no photo")
    return photos
