"""Copying a store to a local one: what a TensorFlow Serving needs that can't read object storage."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

from dermserve.models.lifecycle.desk import CANARY_FILE
from dermserve.models.lifecycle.errors import SignatureError, StoreError
from dermserve.models.lifecycle.manifest import MANIFEST, changes, check_signature, parse_manifest
from dermserve.models.lifecycle.server_config import CONFIG, ServerConfig
from dermserve.models.lifecycle.stores import Store
from dermserve.models.store import sync, sync_tree, version_folder, write_durably


def pull_versions(
    store: Store,
    target: pathlib.Path,
    *,
    models: Sequence[str] = (),
    latest: int | None = None,
    public_key: pathlib.Path | None = None,
) -> Iterator[tuple[str, int]]:
    """Copy the versions that a local store lacks, under their numbers, each whole or not at all; then models.config.

    A version that is there and does not agree with the manifest in the store, as after a power failure, is replaced.

    Args:
        store: where they are.
        target: folder of the local store; made when there is none.
        models: which; all when none is named.
        latest: only so many of the newest of each model, and those that are labelled or pinned.
        public_key: PEM file of the key that every version must be signed with; None to check none.

    Yields:
        Model and version of each copy.

    Raises:
        StoreError: a copy does not agree with its manifest or signature, or a model is not there.
    """
    config = _read(store, CONFIG)
    for model in models or store.models():
        present = store.versions(model)
        if not present:
            raise StoreError(f"{store.base} has no version of {model}")
        for version in _wanted(present, model, config, latest=latest):
            if not _same(store, model, version, target, public_key):
                _copy(store, model, version, target, public_key)
                yield model, version
    for name in (CONFIG, CANARY_FILE):
        if (text := _read(store, name)) is not None:
            write_durably(target / name, text)


def _wanted(present: list[int], model: str, config: str | None, *, latest: int | None) -> list[int]:
    if latest is None:
        return present
    listed = ServerConfig.parse(config) if config else ServerConfig()
    kept = set(present[-latest:])
    if model in listed.models:
        kept |= set(listed.labels(model).values()) | set(listed.pins(model) or ())
    return sorted(kept & set(present))


def _same(store: Store, model: str, version: int, target: pathlib.Path, public_key: pathlib.Path | None) -> bool:
    """Tell whether a version is there as it should be; one without a manifest is taken on trust."""
    folder = version_folder(target, model, version)
    if not folder.is_dir():
        return False
    try:
        data = store.read(model, version, MANIFEST)
    except FileNotFoundError:
        return public_key is None
    manifest = parse_manifest(data, where=f"{store.base}/{model}/{version}/{MANIFEST}")
    own = folder / MANIFEST
    if not own.is_file() or own.read_bytes() != data or changes(folder, manifest):
        return False
    if public_key is not None:
        try:
            check_signature(folder, public_key, model=model, where=str(folder))
        except SignatureError:
            return False
    return True


def _copy(store: Store, model: str, version: int, target: pathlib.Path, public_key: pathlib.Path | None) -> None:
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
        if public_key is not None:
            check_signature(folder, public_key, model=model, where=where)
        sync_tree(folder)
        place = version_folder(target, model, version)
        place.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            place.rename(pathlib.Path(scratch, "former"))
        folder.rename(place)
        sync(place.parent)
        sync(target)


def _read(store: Store, name: str) -> str | None:
    try:
        return store.read_text(name)
    except FileNotFoundError:
        return None
