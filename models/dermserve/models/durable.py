"""Write files whole or not at all, and so that they survive a power failure."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, with its suffix, which replaces it if the block succeeds."""
    # A process id is not unique: containers may share the folder.
    partial = path.with_name(f"partial-{uuid.uuid4().hex}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno:
            error.filename = str(path)  # not the other name, or none, as of a full disk
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_durably(path: Path, text: str) -> None:
    """Write a file, whole or not at all, so that it survives a power failure."""
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8")
        sync(fresh)
    sync(path.parent)


def sync_tree(folder: Path) -> None:
    """Sync a folder and everything in it to disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and shared file systems sync no folders.
        if error.errno not in (errno.EINVAL, errno.EBADF) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
