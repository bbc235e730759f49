"""The versioned store: `<base>/<model>/<version>/`, where a version appears whole or not at all and never changes.

Imports no TensorFlow, so that asking what a store holds is quick.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

_LARGEST = 2**63 - 1


def versions(base: pathlib.Path, model: str) -> list[int]:
    """Return the versions of a model in a store, ascending; none where there is no store."""
    return sorted(_folders(base / model))


def version_folder(base: pathlib.Path, model: str, version: int) -> pathlib.Path:
    """Return the folder of a version, which TensorFlow Serving serves with leading zeros in its name, too."""
    return _folders(base / model).get(version, base / model / str(version))


def _folders(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Map versions to folders, as TensorFlow Serving does: int64 alone, and the last in byte order of two names."""
    if not folder.is_dir():
        return {}
    named = [path for path in sorted(folder.iterdir()) if path.name.isascii() and path.name.isdecimal()]
    return {int(path.name): path for path in named if path.is_dir() and int(path.name) <= _LARGEST}


@contextlib.contextmanager
def staged(base: pathlib.Path, model: str) -> Iterator[pathlib.Path]:
    """Give a scratch folder on the store's own file system, invisible to TensorFlow Serving; removed in the end."""
    base.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f".staging-{model}-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(staging: pathlib.Path, base: pathlib.Path, model: str) -> int:
    """Move a finished version into the store under the next free number, atomically and durably.

    Renaming onto a version that another publisher has just claimed fails, since no version is empty; then the next
    number is tried. So two publishers never share one.

    Returns:
        The version.
    """
    _sync(staging)
    folder = base / model
    folder.mkdir(parents=True, exist_ok=True)
    staging.chmod(0o755)
    number = max(versions(base, model), default=0) + 1
    while True:
        try:
            staging.rename(folder / str(number))
        except OSError:
            if not (folder / str(number)).exists():
                raise
            number += 1
        else:
            _sync_folder(folder)
            return number


def _sync(folder: pathlib.Path) -> None:
    for root, _, files in os.walk(folder):
        for name in files:
            with (pathlib.Path(root) / name).open("rb") as file:
                os.fsync(file.fileno())
        _sync_folder(pathlib.Path(root))


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
