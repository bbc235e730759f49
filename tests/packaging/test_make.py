"""The Makefile in a folder whose name has a space, as of a cloud drive."""

import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = '#!/bin/sh\nprintf "%s\\n" "$TMPDIR" "$@" >asked\n'


def test_make_test_deletes_and_writes_nothing_outside_of_its_folder(tmp_path: pathlib.Path) -> None:
    other, clone = tmp_path / "my" / "file", tmp_path / "my clone"
    python = clone / ".venv/bin/python"
    for file in (other, python):
        file.parent.mkdir(parents=True)
        file.touch()
    shutil.copy(ROOT / "Makefile", clone)
    python.write_text(PYTHON)
    python.chmod(0o755)
    for made in ("pyproject.toml", "constraints.txt", ".venv/pip", ".venv/local", ".venv/dev"):
        (clone / made).touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    subprocess.run(["make", "test"], cwd=clone, env=environment, check=True, timeout=100)
    assert other.exists()
    scratch = f"{clone}/build/tmp"
    asked = (clone / "asked").read_text().splitlines()
    assert (asked[0], f"--basetemp={scratch}/pytest" in asked) == (scratch, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my", "my clone"]
