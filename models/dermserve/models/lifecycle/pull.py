"""Copy a store to a local one, for a TensorFlow Serving that can't read object storage."""

import pathlib
from collections.abc import Iterator, Sequence

from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.manifest import MANIFEST, changes, check_signature, parse_manifest
from dermserve.models.lifecycle.server_config import CANARY_FILE, CONFIG, ServerConfig
from dermserve.models.lifecycle.stores import LocalStore, Store, known_version


def pull_versions(
    store: Store,
    target: LocalStore,
    *,
    models: Sequence[str] = (),
    latest: int | None = None,
    public_key: pathlib.Path | None = None,
) -> Iterator[tuple[str, int]]:
    """Copy the versions that a local store lacks, under their numbers, each whole or not at all; then models.config.

    A local version that does not match the manifest in the store, as after a power failure, is replaced.

    Args:
        store: the store to copy from.
        target: the local store, created if it does not exist.
        models: names; all models when empty.
        latest: only so many of the newest versions of each model, and those that are labelled or pinned.
        public_key: PEM file of the key that every version must be signed with; None to check none.

    Yields model and version of each copy. Raises StoreError: a copy does not match its manifest or signature, or a
    model does not exist.
    """
    config, shares = store.read_text(CONFIG), store.read_text(CANARY_FILE)
    names = models or store.models()
    if not names:
        raise StoreError(f"{store.base} has no version of any model")
    for model in names:
        known_version(store, model, None)
        wanted = present = store.versions(model)
        if latest is not None:
            needed = ServerConfig.parse(config or "").needed(model)
            wanted = [version for version in present if version in needed or version in present[-latest:]]
        for version in wanted:
            if not _same(store, model, version, target, public_key):
                _copy(store, model, version, target, public_key)
                yield model, version
    for name, text in ((CONFIG, config), (CANARY_FILE, shares)):
        if text is not None:
            target.write_text(name, text)


def _same(store: Store, model: str, version: int, target: LocalStore, public_key: pathlib.Path | None) -> bool:
    """Tell whether a version exists and matches its manifest; one without a manifest is trusted."""
    if version not in target.versions(model):
        return False
    data = store.read(model, version, MANIFEST)
    if data is None:
        return public_key is None
    if target.read(model, version, MANIFEST) != data:
        return False
    try:
        _check(target.version_folder(model, version), f"{store.base}/{model}/{version}", model, public_key)
    except StoreError:
        return False
    return True


def _copy(store: Store, model: str, version: int, target: LocalStore, public_key: pathlib.Path | None) -> None:
    with target.staged(model) as folder:
        store.fetch(model, version, folder)
        _check(folder, f"{store.base}/{model}/{version}", model, public_key)
        target.replace(folder, model, version)


def _check(folder: pathlib.Path, where: str, model: str, public_key: pathlib.Path | None) -> None:
    if (file := folder / MANIFEST).exists():
        wrong = changes(folder, parse_manifest(file.read_bytes(), where=f"{where}/{MANIFEST}"))
        if wrong:
            raise StoreError(f"{where} does not match its manifest: {'; '.join(wrong)}")
    if public_key is not None:
        check_signature(folder, public_key, model=model, where=where)
