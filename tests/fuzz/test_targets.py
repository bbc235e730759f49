"""The fuzz targets hold on their own corpus and near it; where atheris is installed, they run under it, too."""

import importlib.util
import pathlib
import subprocess
import sys
from random import Random

import pytest

from tests.fuzz import answer, decode, request

HERE = pathlib.Path(__file__).resolve().parent
TARGETS = {"answer": answer, "decode": decode, "request": request}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_holds_on_its_corpus_and_near_it(name):
    random = Random(7)
    for seed in TARGETS[name].seeds():
        TARGETS[name].target(seed)
        for _ in range(20):
            near = bytearray(seed or b"\0")
            near[random.randrange(len(near))] = random.randrange(256)
            TARGETS[name].target(bytes(near[: random.randint(1, len(near))]))


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs the extra fuzz")
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_runs_under_atheris(name):
    command = [sys.executable, "-m", f"tests.fuzz.{name}", "-runs=500", "-seed=1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=HERE.parents[1], check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "Done 5" in ended.stderr
