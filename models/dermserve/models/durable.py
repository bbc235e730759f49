"""Write files so that they survive a power failure whole."""

import os
import pathlib


def write_durably(path: pathlib.Path, text: str) -> None:
    """Write a file, whole or not at all, so that it survives a power failure."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        sync(fresh)
        fresh.replace(path)
        sync(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        fresh.unlink(missing_ok=True)


def sync_tree(folder: pathlib.Path) -> None:
    """Sync a folder and everything in it to disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            sync(pathlib.Path(root, name))
        sync(pathlib.Path(root))


def sync(path: pathlib.Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
