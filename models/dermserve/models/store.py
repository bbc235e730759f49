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
    return {int(path.name): path for path in sorted(folder.iterdir()) if is_version(path.name) and path.is_dir()}


def is_version(name: str) -> bool:
    """Tell whether TensorFlow Serving takes a folder's name for a version: an int64 in ASCII digits."""
    return name.isascii() and name.isdecimal() and int(name) <= _LARGEST


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
    sync_tree(staging)
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
            sync(folder)
            return number


def write_durably(path: pathlib.Path, text: str) -> None:
    """Write a file, whole or not at all, so that it is still there after a power failure."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def sync_tree(folder: pathlib.Path) -> None:
    """Have the disk hold a folder with all that is in it."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync(pathlib.Path(root, name))
        sync(pathlib.Path(root))


def sync(path: pathlib.Path) -> None:
    """Have the disk hold a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
