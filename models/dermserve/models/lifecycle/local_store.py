"""A store in a folder: a rename makes a version appear and disappear, and the kernel locks."""

import contextlib
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import IO

import portalocker

from dermserve.models import store as folders
from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.stores import LOCK_SECONDS

_AUDIT = "audit.jsonl"
_PAUSE = 0.1


class LocalStore:
    """The Store in a folder of this machine."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.base = str(folder)

    def models(self) -> list[str]:
        """See Store."""
        if not self.folder.is_dir():
            return []
        names = sorted(path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [name for name in names if self.versions(name)]

    def versions(self, model: str) -> list[int]:
        """See Store."""
        return folders.versions(self.folder, model)

    def staged(self, model: str) -> contextlib.AbstractContextManager[pathlib.Path]:
        """See Store: on the store's own file system, so that it can be renamed into place."""
        return folders.staged(self.folder, model)

    def publish(self, staging: pathlib.Path, model: str) -> int:
        """See Store."""
        return folders.publish(staging, self.folder, model)

    def read(self, model: str, version: int, name: str) -> bytes:
        """See Store."""
        return (folders.version_folder(self.folder, model, version) / name).read_bytes()

    def fetch(self, model: str, version: int, into: pathlib.Path) -> None:
        """See Store."""
        shutil.copytree(folders.version_folder(self.folder, model, version), into, dirs_exist_ok=True)

    def opened(self, model: str, version: int) -> contextlib.AbstractContextManager[pathlib.Path]:
        """See Store."""
        return contextlib.nullcontext(folders.version_folder(self.folder, model, version))

    def remove(self, model: str, version: int) -> None:
        """See Store."""
        with folders.staged(self.folder, model) as bin_:
            folders.version_folder(self.folder, model, version).rename(bin_ / str(version))

    def read_text(self, name: str) -> str:
        """See Store."""
        return (self.folder / name).read_text(encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        """See Store."""
        self.folder.mkdir(parents=True, exist_ok=True)
        folders.write_durably(self.folder / name, text)

    def remove_text(self, name: str) -> None:
        """See Store."""
        (self.folder / name).unlink(missing_ok=True)
        folders.sync(self.folder)

    def append_audit(self, line: str) -> None:
        """See Store: one write to a file opened for appending, which the kernel doesn't mix with another's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / _AUDIT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, f"{line}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def audit(self) -> Iterator[str]:
        """See Store."""
        with contextlib.suppress(FileNotFoundError), (self.folder / _AUDIT).open(encoding="utf-8") as file:
            yield from (line.rstrip("\n") for line in file)

    @contextlib.contextmanager
    def locked(self, wait: float = LOCK_SECONDS) -> Iterator[None]:
        """See Store. The lock goes with the process that holds it, however that ends.

        Raises:
            StoreError: somebody else holds it for `wait` seconds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            _lock(file, until=time.monotonic() + wait, base=self.base)
            yield


def _lock(file: IO[str], *, until: float, base: str) -> None:
    while True:
        try:
            return portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.AlreadyLocked as error:
            if time.monotonic() >= until:
                raise StoreError(f"{base} is being changed by another command: try again when that is done") from error
        time.sleep(_PAUSE)
