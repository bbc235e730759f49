"""Checks that are Go programs, built once and kept beside Go's own cache."""

import os
import pathlib
import shutil
import subprocess

import pytest

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "dermserve"


def go(*arguments: str | pathlib.Path, what: str, folder: pathlib.Path | None = None, **variables: str) -> None:
    """Run go; skip aloud without it, or where modules can't be had."""
    program = shutil.which("go")
    if program is None:
        pytest.skip(f"NOT CHECKED by {what}: there is no Go")
    CACHE.mkdir(parents=True, exist_ok=True)
    environment, command = {**os.environ, **variables}, [program, *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"NOT CHECKED by {what}: to fetch and build it takes too long")
    if done.returncode:
        unreachable = any(
            word in done.stderr for word in ("dial tcp", "lookup ", "module lookup disabled", "403", "404")
        )
        (pytest.skip if unreachable else pytest.fail)(f"NOT CHECKED by {what}: {done.stderr[-300:]}")
