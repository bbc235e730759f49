"""A store in object storage (s3://, gs://, …) through fsspec, where objects can't be renamed.

So a version's manifest is uploaded last, and makes it count; a conditional put, which succeeds once, claims a number.
"""

import contextlib
import datetime
import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.manifest import MANIFEST

LOCK_SECONDS = 60.0  # seconds to wait for another command's change of the same store
_GRAPH = "saved_model.pb"
_LARGEST = 2**63 - 1
_S3 = {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 2}}}


def is_version(name: str) -> bool:
    """Tell whether a folder's name is a version for TensorFlow Serving: an int64 in ASCII digits."""
    return name.isascii() and name.isdecimal() and int(name) <= _LARGEST


def as_text(data: bytes | None, *, where: str) -> str | None:
    """Decode a file of a store, if there is one; a StoreError if it is no text."""
    try:
        return None if data is None else data.decode()
    except UnicodeDecodeError as error:
        raise StoreError(f"{where} can't be understood: {error}") from error


class _AbsentError(StoreError):
    """There is no such object, or no such bucket."""


class ObjectStore:
    """Versions of models in object storage; LocalStore says what its methods do."""

    def __init__(self, url: str) -> None:
        self.base = url.rstrip("/")
        self._files, self._root = _open(self.base)
        self._lock: str | None = None  # the content of our lock while we hold it
        self._named: dict[tuple[str, int], str] = {}
        """Folder names of the versions listed last, which may begin with zeros."""

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of the storage's client, whose own errors become StoreErrors that name the store."""
        try:
            return function(*args, **kwargs)
        except FileExistsError:
            raise
        except Exception as error:  # each client has errors of its own
            kind = _AbsentError if isinstance(error, FileNotFoundError) else StoreError
            raise kind(f"{self.base} can't be used: {type(error).__name__}: {error}") from error

    def models(self) -> list[str]:
        names = sorted({key.split("/")[0] for key in self._keys("") if "/" in key and not key.startswith(".")})
        return [name for name in names if self.versions(name)]

    def versions(self, model: str) -> list[int]:
        marks = (key.partition("/") for key in self._keys(model))
        named = {int(name): name for name, _, rest in marks if is_version(name) and rest == MANIFEST}
        self._named.update({(model, number): name for number, name in named.items()})
        return sorted(named)

    @contextlib.contextmanager
    def staged(self, model: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix=f"dermserve-{model}-") as folder:
            yield Path(folder)

    def publish(self, staging: Path, model: str) -> int:
        # A number whose upload fails is never used again.
        used = [int(name) for key in self._keys(model) if is_version(name := key.partition("/")[0])]
        claim = f"{socket.gethostname()} {secrets.token_hex(4)}"
        number = self._create_next(".claims", model, text=claim, above=max(used, default=0))
        folder = self._path(model, str(number))
        names = [path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file()]
        try:
            for name in sorted(names, key=lambda name: (name == MANIFEST, name == _GRAPH, name)):
                self._call(self._files.put_file, str(staging / name), f"{folder}/{name}")
        except BaseException:
            with contextlib.suppress(Exception):  # without a manifest the rest does not count
                self._files.rm(folder, recursive=True)
            raise
        return number

    def read(self, model: str, version: int, name: str) -> bytes | None:
        return self._get(f"{self._folder(model, version)}/{name}")

    def fetch(self, model: str, version: int, into: Path) -> None:
        folder = self._folder(model, version)
        for name in self._keys(folder.removeprefix(f"{self._root}/")):
            target = into / name
            if not target.resolve().is_relative_to(into.resolve()):
                raise StoreError(f"{self.base}/{model}/{version} has an object whose name leads out of it: {name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            self._call(self._files.get_file, f"{folder}/{name}", str(target))

    @contextlib.contextmanager
    def opened(self, model: str, version: int) -> Iterator[Path]:
        with self.staged(model) as folder:
            self.fetch(model, version, folder)
            yield folder

    def remove(self, model: str, version: int) -> None:
        self._check_lock()
        folder = self._folder(model, version)
        self._call(self._files.rm_file, f"{folder}/{MANIFEST}")
        self._call(self._files.rm, folder, recursive=True)

    def read_text(self, name: str) -> str | None:
        return as_text(self._get(self._path(name)), where=f"{self.base}/{name}")

    def write_text(self, name: str, text: str) -> None:
        # A put is whole or nothing.
        self._check_lock()
        self._call(self._files.pipe_file, self._path(name), text.encode())

    def remove_text(self, name: str) -> None:
        self._check_lock()
        with contextlib.suppress(_AbsentError):
            self._call(self._files.rm_file, self._path(name))

    def append_audit(self, line: str) -> None:
        self._check_lock()
        self._create_next(".audit", text=line)  # an object a line, since objects can't grow

    def audit(self) -> list[str]:
        return [self.read_text(f".audit/{name}") or "" for name in self._keys(".audit")]

    @contextlib.contextmanager
    def locked(self, wait: float = LOCK_SECONDS) -> Iterator[None]:
        until, now = time.monotonic() + wait, datetime.datetime.now(datetime.UTC)
        mine = f"{socket.gethostname()}, process {os.getpid()}, {now:%Y-%m-%d %H:%M}Z ({secrets.token_hex(4)})"
        self._lock = mine
        try:
            while not self._create(self._path(".lock"), mine):
                if time.monotonic() >= until and (holder := self.read_text(".lock")):  # which may be a killed command
                    told = f"{self.base} is being changed by {holder}; if that is dead, delete {self.base}/.lock"
                    raise StoreError(told)
                time.sleep(0.5)
            yield
        finally:
            self._lock = None
            if self.read_text(".lock") == mine:
                self.remove_text(".lock")

    def _check_lock(self) -> None:
        """Stop a command whose lock somebody took for that of a dead one."""
        if self._lock is not None and self.read_text(".lock") != self._lock:
            raise StoreError(f"{self.base}/.lock was deleted while this command held it: nothing more was changed")

    def _create_next(self, *prefix: str, text: str, above: int = 0) -> int:
        """Create an object under a new number, higher than all used ones; return the number."""
        number = max([above, *(int(key) for key in self._keys(*prefix) if is_version(key))]) + 1
        while not self._create(self._path(*prefix, f"{number:012}"), text):
            number += 1
        return number

    def _create(self, path: str, text: str) -> bool:
        """Create an object, unless there is one; return whether it is this one, by its text, which is like no other.

        An attempt whose answer was lost may have created it, and then the next one finds it.
        """
        try:
            self._call(self._files.pipe_file, path, text.encode(), mode="create")
        except FileExistsError:
            pass
        except StoreError:
            if self._get(path) is None:
                raise
        return self._get(path) == text.encode()

    def _get(self, path: str) -> bytes | None:
        try:
            return bytes(self._call(self._files.cat_file, path))
        except _AbsentError:
            return None

    def _folder(self, model: str, version: int) -> str:
        return self._path(model, self._named.get((model, version), str(version)))

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    def _keys(self, *parts: str) -> list[str]:
        """List the keys below a prefix, without it, in order; none where there is nothing."""
        prefix = self._path(*(part for part in parts if part)) + "/"
        self._files.invalidate_cache()  # another command may have written
        found = self._call(self._files.find, prefix)
        # A key that ends in a slash is a folder marker made by a console.
        return sorted(key.removeprefix(prefix) for key in found if key.startswith(prefix) and not key.endswith("/"))


def _open(url: str) -> tuple[Any, str]:
    protocol = url.partition("://")[0]
    try:
        import fsspec  # type: ignore[import-untyped]  # ships no types

        files, root = fsspec.core.url_to_fs(url, **(_S3 if protocol == "s3" else {}))
        if protocol == "s3":
            files.retries = 2  # of two attempts each: five of five take seven minutes where nothing answers
    except ImportError as error:
        extra = {"s3": "pip install '.[s3]' in a clone", "gs": "pip install gcsfs"}.get(protocol, "")
        raise StoreError(f"{url} needs a package that is not installed ({error}) {extra}".rstrip()) from error
    except ValueError as error:
        raise StoreError(f"{url} is not a store: {error}") from error
    return files, str(root).rstrip("/")
