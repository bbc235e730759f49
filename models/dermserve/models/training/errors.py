"""Errors of training, files of a run, and digests.

TrainingError
├── DataError        photos on disk that can't be trained on
├── ExperimentError  an experiment file that can't be run
└── RunError         a run folder that is not what the command needs
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import click
import numpy as np
import portalocker
from numpy.typing import NDArray

from dermserve.models.durable import locked_file, write_durably

DAMAGED = (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error)  # by `read_arrays`


class TrainingError(click.ClickException):
    """Base class; click prints the message, which says what is wrong and what to do, and ends with `exit_code`."""


class DataError(TrainingError):
    """Photos on disk that can't be trained on: a wrong layout, an unreadable photo, a class with too few."""

    exit_code = 2


class ExperimentError(TrainingError):
    """An experiment file that can't be run: an unknown key, a value out of range."""

    exit_code = 2


class RunError(TrainingError):
    """A run folder that is not what the command needs: absent, of another experiment, or not finished."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder. Raises RunError: another command is at work there."""
    try:
        with locked_file(folder / ".lock"):
            yield
    except portalocker.AlreadyLocked as error:
        raise RunError(f"{folder} is in use by another command: wait for it, or take another folder") from error


def plain_name(path: Path) -> str:
    """Return a path's last name as text that any file can hold: a file name may be no UTF-8."""
    return os.fsencode(path.resolve().name).decode(errors="replace")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file, atomically."""
    write_durably(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file of a run. Raises RunError: it is missing, not JSON, or of another kind."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise ValueError(f"it is no {kind.__name__}")
        return found
    except (OSError, ValueError) as error:
        raise RunError(f"{path} can't be read as JSON ({error}): restore it, or train again") from error


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a .npz file, by name. Raises one of DAMAGED: it is missing or damaged."""
    with path.open("rb") as file, np.load(file) as arrays:  # np.load leaves a damaged file open that it opened itself
        return dict(arrays)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
