"""Stores of versions: what every store can do, one in a folder, and which one a base names."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Protocol

import portalocker

from dermserve.models import store as folders
from dermserve.models.lifecycle.errors import StoreError

_AUDIT = "audit.jsonl"
_PAUSE = 0.1
LOCK_SECONDS = 60.0
"""How long to wait for somebody else's change of the same store."""


class Store(Protocol):
    """Versions of models, and what is known about them. A version appears whole or not at all and never changes."""

    base: str
    """Where it is, as given."""

    def models(self) -> list[str]:
        """Name the models that have versions."""
        ...

    def versions(self, model: str) -> list[int]:
        """Return the finished versions of a model, ascending."""
        ...

    def staged(self, model: str) -> contextlib.AbstractContextManager[pathlib.Path]:
        """Give a local scratch folder for a new version, removed in the end."""
        ...

    def publish(self, staging: pathlib.Path, model: str) -> int:
        """Put a finished version into the store under a number nobody else gets; return it."""
        ...

    def read(self, model: str, version: int, name: str) -> bytes:
        """Read a file of a version.

        Raises:
            FileNotFoundError: it has none of that name.
        """
        ...

    def fetch(self, model: str, version: int, into: pathlib.Path) -> None:
        """Copy a version into an empty local folder."""
        ...

    def opened(self, model: str, version: int) -> contextlib.AbstractContextManager[pathlib.Path]:
        """Give a local folder with a version's files, to be read only."""
        ...

    def remove(self, model: str, version: int) -> None:
        """Delete a version: first it disappears, then its files do."""
        ...

    def read_text(self, name: str) -> str:
        """Read a small file at the top of the store.

        Raises:
            FileNotFoundError: there is none.
        """
        ...

    def write_text(self, name: str, text: str) -> None:
        """Write a small file at the top of the store, whole or not at all."""
        ...

    def remove_text(self, name: str) -> None:
        """Remove a small file at the top of the store, if it is there."""
        ...

    def append_audit(self, line: str) -> None:
        """Add a line to the audit log; lines are only ever added."""
        ...

    def audit(self) -> Iterator[str]:
        """Give the lines of the audit log, oldest first."""
        ...

    def locked(self, wait: float = LOCK_SECONDS) -> contextlib.AbstractContextManager[None]:
        """Keep other changes of labels and of what is kept out, while the block lasts."""
        ...


def open_store(base: str | pathlib.Path) -> Store:
    """Open a store: a local path, or the URL of one in object storage (s3://, gs://, and others fsspec knows).

    Raises:
        StoreError: the URL is of a kind that can't be used here.
    """
    if isinstance(base, pathlib.Path) or "://" not in base or base.startswith("file://"):
        return LocalStore(pathlib.Path(str(base).removeprefix("file://")))
    from dermserve.models.lifecycle.object_store import ObjectStore

    return ObjectStore(base)


def known_version(store: Store, model: str, version: int) -> None:
    """Check that a store holds a version.

    Raises:
        StoreError: it does not; the message says what it holds.
    """
    present = store.versions(model)
    if version not in present:
        held = f"it has {', '.join(map(str, present))}" if present else f"it has none of {model}"
        raise StoreError(f"{store.base} has no version {version} of {model}: {held}")


class LocalStore:
    """The Store in a folder of this machine."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.base = str(folder)

    def models(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        names = sorted(path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [name for name in names if self.versions(name)]

    def versions(self, model: str) -> list[int]:
        return folders.versions(self.folder, model)

    def staged(self, model: str) -> contextlib.AbstractContextManager[pathlib.Path]:
        # On the store's own file system, so that it can be renamed into place.
        return folders.staged(self.folder, model)

    def publish(self, staging: pathlib.Path, model: str) -> int:
        return folders.publish(staging, self.folder, model)

    def read(self, model: str, version: int, name: str) -> bytes:
        return (folders.version_folder(self.folder, model, version) / name).read_bytes()

    def fetch(self, model: str, version: int, into: pathlib.Path) -> None:
        shutil.copytree(folders.version_folder(self.folder, model, version), into, dirs_exist_ok=True)

    def opened(self, model: str, version: int) -> contextlib.AbstractContextManager[pathlib.Path]:
        return contextlib.nullcontext(folders.version_folder(self.folder, model, version))

    def remove(self, model: str, version: int) -> None:
        with folders.staged(self.folder, model) as bin_:
            folders.version_folder(self.folder, model, version).rename(bin_ / str(version))

    def read_text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        folders.write_durably(self.folder / name, text)

    def remove_text(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        folders.sync(self.folder)

    def append_audit(self, line: str) -> None:
        # One write to a file opened for appending, which the kernel doesn't mix with another's.
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / _AUDIT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def audit(self) -> Iterator[str]:
        with contextlib.suppress(FileNotFoundError), (self.folder / _AUDIT).open(encoding="utf-8") as file:
            yield from (line.rstrip("\n") for line in file)

    @contextlib.contextmanager
    def locked(self, wait: float = LOCK_SECONDS) -> Iterator[None]:
        """The lock goes with the process that holds it, however that ends.

        Raises:
            StoreError: somebody else holds it for `wait` seconds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = portalocker.Lock(self.folder / ".lock", timeout=wait, check_interval=_PAUSE)
        try:
            lock.acquire()
        except portalocker.LockException as error:
            raise StoreError(f"{self.base} is being changed by another command: try again when that is done") from error
        try:
            yield
        finally:
            lock.release()
