"""A test that hangs, or that ends its worker, fails by name, and the others run to the end."""

import os
import pathlib
import subprocess
import sys

from tests.conftest import ROOT

FILES = {
    "pytest.ini": "[pytest]\ntimeout = 2\n",
    "test_hangs.py": """
import threading, pytest

@pytest.fixture
def left():
    yield
    threading.Event().wait()

def test_body():
    threading.Event().wait()

def test_teardown_of_one_that_fails(left):
    assert False

def test_fine():
    pass
""",
    "test_worker_ends.py": """
import os

def test_end():
    os._exit(1)

def test_of_the_same_group():
    pass
""",
}


def test_what_hangs_or_ends_its_worker_fails_by_name(tmp_path: pathlib.Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:schemathesis",
    ]
    command += ["--numprocesses=1", "--dist=loadscope", "--no-loadscope-reorder", f"--basetemp={tmp_path / 'scratch'}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    for said in (
        "FAILED test_hangs.py::test_body - Failed: Timeout",
        "FAILED test_hangs.py::test_teardown_of_one_that_fails - assert False",
        "ERROR test_hangs.py::test_teardown_of_one_that_fails - Failed: Timeout",
        "worker 'gw0' crashed while running 'test_worker_ends.py::test_end'",
        "ERROR test_worker_ends.py::test_of_the_same_group - Failed: test_worker_ends.py is on two workers",
        "3 failed, 1 passed, 3 errors",
    ):
        assert said in done.stdout, done.stdout
