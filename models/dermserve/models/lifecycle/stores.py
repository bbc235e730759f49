"""Stores of versions: the store in a folder, how a store is opened, and the audit log."""

import contextlib
import datetime
import getpass
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import portalocker

from dermserve.models.durable import locked_file, sync, sync_tree, write_durably
from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.manifest import MANIFEST, Manifest, parse_manifest
from dermserve.models.lifecycle.object_store import LOCK_SECONDS, ObjectStore, as_text, is_version

_AUDIT = "audit.jsonl"
_SERVED = {"labels", "pins", "share"}  # of the ends of a move
Entry: TypeAlias = dict[str, Any]  # a line of the audit log


class LocalStore:
    """Versions of models in `<folder>/<model>/<version>/`, and files about them. ObjectStore has the same methods.

    A version appears whole or not at all, and never changes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = str(folder)

    def models(self) -> list[str]:
        """Name the models that have versions."""
        if not self.folder.is_dir():
            return []
        names = sorted(path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [name for name in names if self.versions(name)]

    def versions(self, model: str) -> list[int]:
        """Return the finished versions of a model, ascending; none if the store does not exist."""
        return sorted(self._folders(model))

    def version_folder(self, model: str, version: int) -> Path:
        """Return the folder of a version; its name may have leading zeros."""
        return self._folders(model).get(version, self.folder / model / str(version))

    def _folders(self, model: str) -> dict[int, Path]:
        """Map versions to folders, as TensorFlow Serving does: the last in byte order of two names."""
        folder = self.folder / model
        if not folder.is_dir():
            return {}
        return {int(path.name): path for path in sorted(folder.iterdir()) if is_version(path.name) and path.is_dir()}

    @contextlib.contextmanager
    def staged(self, model: str) -> Iterator[Path]:
        """Make a temporary folder for a version, which no server sees, for a block; remove those of killed commands."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # The model's folder may be on a disk of its own; a version is renamed into it.
        place = folder if (folder := self.folder / model).is_dir() else self.folder
        # The lock of a folder that a command writes is free once the command has ended or was killed.
        for left in (left for folder in {self.folder, place} for left in folder.glob(".staging-*")):
            # OSError: its command is removing it.
            with contextlib.suppress(portalocker.AlreadyLocked, OSError):
                if any(left.glob("*/*")):  # an empty folder may be new and not locked yet
                    with locked_file(left / "lock"):
                        shutil.rmtree(left, ignore_errors=True)
        made = tempfile.TemporaryDirectory(prefix=f".staging-{model}-", dir=place, ignore_cleanup_errors=True)
        with made as scratch, locked_file(Path(scratch, "lock")):
            folder = Path(scratch, "version")
            folder.mkdir()
            yield folder

    def publish(self, staging: Path, model: str) -> int:
        """Move a finished version into the store under a new number; return the number."""
        sync_tree(staging)
        folder = self.folder / model
        folder.mkdir(exist_ok=True)
        number = max(self.versions(model), default=0) + 1
        while True:
            try:
                staging.rename(folder / str(number))
            except OSError:  # another publisher has just taken this number: no version is empty
                if not (folder / str(number)).exists():
                    raise
                number += 1
            else:
                sync(folder)
                return number

    def replace(self, staging: Path, model: str, version: int) -> None:
        """Move a finished version into the store under its number, and replace an existing one."""
        sync_tree(staging)
        place = self.version_folder(model, version)
        place.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            place.rename(staging.with_name("former"))
        try:
            staging.rename(place)
        except OSError:  # another command has just moved it there
            if not place.exists():
                raise
        sync(place.parent)
        sync(self.folder)

    def read(self, model: str, version: int, name: str) -> bytes | None:
        """Read a file of a version, if it has one of that name."""
        with contextlib.suppress(FileNotFoundError):
            return (self.version_folder(model, version) / name).read_bytes()
        return None

    def fetch(self, model: str, version: int, into: Path) -> None:
        """Copy a version into an empty local folder."""
        try:
            shutil.copytree(self.version_folder(model, version), into, dirs_exist_ok=True)
        except shutil.Error as error:  # it lists every file
            raise StoreError(error.args[0][0][2]) from error

    def opened(self, model: str, version: int) -> contextlib.AbstractContextManager[Path]:
        """Return a local folder with a version's files, for reading."""
        return contextlib.nullcontext(self.version_folder(model, version))

    def remove(self, model: str, version: int) -> None:
        """Delete a version: first rename it away, then delete its files."""
        with self.staged(model) as bin_:
            self.version_folder(model, version).rename(bin_ / str(version))

    def read_text(self, name: str) -> str | None:
        """Read a small file at the top of the store, if there is one of that name."""
        data = None
        with contextlib.suppress(FileNotFoundError):
            data = (self.folder / name).read_bytes()
        return as_text(data, where=f"{self.base}/{name}")

    def write_text(self, name: str, text: str) -> None:
        """Write a small file at the top of the store, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_durably(self.folder / name, text)

    def remove_text(self, name: str) -> None:
        """Remove a small file at the top of the store, if it is there."""
        (self.folder / name).unlink(missing_ok=True)
        sync(self.folder)

    def append_audit(self, line: str) -> None:
        """Add a line to the audit log; lines are only ever added."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked_file(self.folder / _AUDIT, wait=LOCK_SECONDS) as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)  # a line that a full disk or a power failure cut off
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())

    def audit(self) -> list[str]:
        """Return the lines of the audit log, oldest first."""
        return (self.read_text(_AUDIT) or "").split("\n")[:-1]  # the last part is empty, or a line that was cut off

    @contextlib.contextmanager
    def locked(self, wait: float = LOCK_SECONDS) -> Iterator[None]:
        """Lock the store against other changes for a block; a StoreError if that takes longer than `wait` seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked_file(self.folder / ".lock", wait=wait):
                yield
        except portalocker.AlreadyLocked as error:
            raise StoreError(f"{self.base} is being changed by another command: try again when that is done") from error


Store: TypeAlias = LocalStore | ObjectStore


def open_store(base: str | Path) -> Store:
    """Open a store: a local path, or the URL of one in object storage (s3://, gs://, and others fsspec knows)."""
    if isinstance(base, Path) or "://" not in base or base.startswith("file://"):
        return LocalStore(Path(str(base).removeprefix("file://")))
    return ObjectStore(base)


def known_version(store: Store, model: str, version: int | None) -> int:
    """Return a version of a store, the newest when none is named; a StoreError if the store does not have it."""
    present = store.versions(model)
    if not present:
        raise StoreError(
            f"{store.base} has no version of {model}; it has {', '.join(store.models()) or 'no model at all'}"
        )
    if version is not None and version not in present:
        raise StoreError(f"{store.base} has no version {version} of {model}: it has {', '.join(map(str, present))}")
    return present[-1] if version is None else version


def manifest_of(store: Store, model: str, version: int) -> Manifest | None:
    """Read the manifest of a version in a store; None if it has none, a StoreError if it is not valid."""
    data = store.read(model, version, MANIFEST)
    return None if data is None else parse_manifest(data, where=f"{store.base}/{model}/{version}/{MANIFEST}")


def new_entry(what: str, model: str, before: Any, after: Any, **more: Any) -> Entry:
    """Describe a change for the audit log, as of now, by USER@HOST or DERMSERVE_WHO; leave out empty facts."""
    if not (who := os.environ.get("DERMSERVE_WHO")):
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container may have no such user
            user = f"uid{os.getuid()}"
        who = f"{user}@{socket.gethostname()}"
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    facts = {name: value for name, value in more.items() if value}
    return {"when": when, "who": who, "what": what, "model": model, "from": before, "to": after, **facts}


def entries(store: Store, model: str | None = None) -> Iterator[Entry]:
    """Return a store's audit log, or that of one model, oldest first; a StoreError at a line that is not valid."""
    for number, line in enumerate(store.audit(), 1):
        try:
            entry: Entry = json.loads(line)
            valid = {"when", "who", "what", "model", "from", "to"} <= entry.keys()
            if entry["what"] not in {"publish", "retire"}:
                ends = (entry["from"].keys(), entry["to"].keys())
                valid = valid and all(_SERVED <= end <= {*_SERVED, "policy"} for end in ends)
        except (ValueError, KeyError, TypeError, AttributeError):
            valid = False
        if not valid:
            raise StoreError(f"line {number} of the audit log of {store.base} is not valid")
        if model in (None, entry["model"]):
            yield entry
