"""Write files so that they survive a power failure whole."""

import os
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Write a file, whole or not at all, so that it survives a power failure."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text, encoding="utf-8")
        sync(fresh)
        fresh.replace(path)
        sync(path.parent)
    except OSError as error:
        error.filename = str(path)  # not the other name
        raise
    finally:
        fresh.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Sync a folder and everything in it to disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
