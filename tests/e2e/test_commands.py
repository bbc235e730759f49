"""`dermserve` as a person runs it."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from dermserve.local import Stack

DERMSERVE = str(pathlib.Path(sys.executable).parent / "dermserve")
MODEL = "mobilenet_v3_small"


def _run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DERMSERVE, *arguments], capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture
def photo_file(photo: bytes, tmp_path: pathlib.Path) -> pathlib.Path:
    file = tmp_path / "photo.jpg"
    file.write_bytes(photo)
    return file


def test_json_has_one_object_a_line_and_the_promised_keys(stack: Stack, photo_file: pathlib.Path) -> None:
    files = [str(photo_file), str(photo_file.with_name("another.jpg"))]
    shutil.copy(*files)
    done = _run("classify", *files, "--model", MODEL, "--json", "--server", stack.gateway_address)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(answer["file"] for answer in answers) == sorted(files)
    promised = {"file", "model", "version", "classes", "verdict", "reasons", "timings_ms", "request_id"}
    promised |= {"views_used", "views_asked"}
    for answer in answers:
        assert promised <= set(answer)
        assert answer["verdict"] == "UNCERTAIN"
        assert "OUT_OF_SCOPE" in answer["reasons"]
        entries = {"code", "name", "probability", "std", "common_name", "malignant"}
        assert all(set(entry) == entries for entry in answer["classes"])


def test_up_serves_until_a_signal_and_leaves_nothing_running(
    own_store: pathlib.Path, photo_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    (tmp_path / "random.py").write_text("raise SystemExit('not the module of that name')\n")
    command = [DERMSERVE, "up", "--store", str(own_store), "--model", MODEL, "--port", "0", "--tfs-port", "0"]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as up:
        try:
            address = _address_of(up)
            assert _run("classify", str(photo_file), "--model", MODEL, "--server", address).returncode == 0
            children = psutil.Process(up.pid).children(recursive=True)
            assert len(children) >= 2
            up.send_signal(signal.SIGTERM)
            up.communicate(timeout=200)
        finally:
            up.kill()
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert list(scratch.iterdir()) == []


def _address_of(up: subprocess.Popen[str]) -> str:
    assert up.stdout is not None
    for line in up.stdout:
        if match := re.search(r"--server (\S+:\d+)", line):
            return match[1]
    raise AssertionError(f"dermserve up ended with {up.wait()} before it was ready")


def _started_with(scratch: pathlib.Path) -> list[psutil.Process]:
    """Find the processes that inherited a TMPDIR of ours."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("TMPDIR") == str(scratch):
                found.append(process)
    return found


def test_demo_answers_with_both_models_and_leaves_nothing(
    own_store: pathlib.Path, photo_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    done = _run("demo", str(photo_file), "--store", str(own_store), env={**os.environ, "TMPDIR": str(scratch)})
    assert done.returncode == 0, done.stderr
    for words in ("resnet50", "mobilenet_v3_small", "melanoma", "10 of 10", "not a diagnosis"):
        assert words in " ".join(done.stdout.split()), done.stdout  # lines are wrapped
    assert _started_with(scratch) == []
    assert list(scratch.iterdir()) == []


def test_demo_refuses_a_missing_picture_before_starting_anything(tmp_path: pathlib.Path) -> None:
    done = _run("demo", str(tmp_path / "none.jpg"), "--store", str(tmp_path / "store"))
    assert done.returncode == 2
    assert not (tmp_path / "store").exists()
