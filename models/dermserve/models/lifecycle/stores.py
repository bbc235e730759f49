"""The port every store keeps, and which store a base names."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Protocol

from dermserve.models.lifecycle.errors import StoreError

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
        from dermserve.models.lifecycle.local_store import LocalStore

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
