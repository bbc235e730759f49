"""Write files whole or not at all, so that they survive a power failure, and by one command at a time."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


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


@contextmanager
def locked_file(file: Path, *, wait: float = 0.0) -> Iterator[IO[bytes]]:
    """Open a file, which is made if it is absent, and lock it for a block.

    Raises portalocker.AlreadyLocked after `wait` seconds, and OSError where the file system has no locks.
    """
    import portalocker  # not in the bare install, which uses the rest of this module

    lock = portalocker.Lock(file, "a+b", timeout=wait, check_interval=0.1)
    try:
        lock.acquire()
    except portalocker.AlreadyLocked:
        raise
    except portalocker.LockException as error:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(file)) from error
    with lock as opened:
        yield opened


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
