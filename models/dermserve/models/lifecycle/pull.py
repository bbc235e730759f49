"""Copying a store to a local one: what a TensorFlow Serving needs that can't read object storage."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from dermserve.models.lifecycle.desk import CANARY_FILE
from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.manifest import MANIFEST, changes, parse_manifest
from dermserve.models.lifecycle.server_config import CONFIG, ServerConfig
from dermserve.models.lifecycle.stores import Store


def pull_versions(
    store: Store, target: pathlib.Path, *, models: Sequence[str] = (), latest: int | None = None
) -> Iterator[tuple[str, int]]:
    """Copy the versions that a local store lacks, under their numbers, each whole or not at all; then models.config.

    Args:
        store: where they are.
        target: folder of the local store; made when there is none.
        models: which; all when none is named.
        latest: only so many of the newest of each model, and those that are labelled or pinned.

    Yields:
        Model and version of each copy.

    Raises:
        StoreError: a copy does not agree with its manifest, or a model is not there.
    """
    config = _read(store, CONFIG)
    for model in models or store.models():
        present = store.versions(model)
        if not present:
            raise StoreError(f"{store.base} has no version of {model}")
        for version in _wanted(present, model, config, latest=latest):
            if not (target / model / str(version)).exists():
                _copy(store, model, version, target)
                yield model, version
    for name in (CONFIG, CANARY_FILE):
        if (text := _read(store, name)) is not None:
            _write(target / name, text)


def _wanted(present: list[int], model: str, config: str | None, *, latest: int | None) -> list[int]:
    if latest is None:
        return present
    listed = ServerConfig.parse(config) if config else ServerConfig()
    kept = set(present[-latest:])
    if model in listed.models:
        kept |= set(listed.labels(model).values()) | set(listed.pins(model) or ())
    return sorted(kept & set(present))


def _copy(store: Store, model: str, version: int, target: pathlib.Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".staging-{model}-", dir=target) as scratch:
        folder = pathlib.Path(scratch, str(version))
        folder.mkdir()
        store.fetch(model, version, folder)
        where = f"{store.base}/{model}/{version}"
        if (folder / MANIFEST).exists():
            wrong = changes(folder, parse_manifest((folder / MANIFEST).read_bytes(), where=f"{where}/{MANIFEST}"))
            if wrong:
                raise StoreError(f"{where} does not agree with its manifest: {'; '.join(wrong)}")
        (target / model).mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.rename(target / model / str(version))


def _read(store: Store, name: str) -> str | None:
    try:
        return store.read_text(name)
    except FileNotFoundError:
        return None


def _write(path: pathlib.Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.fresh")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
