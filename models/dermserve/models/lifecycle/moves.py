"""Promote, roll back, canary, unpin, retire and pull versions; see `rollout` for how a change is made."""

import contextlib
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dermserve.models.lifecycle.errors import RefusedError, StoreError
from dermserve.models.lifecycle.gate import Requirement, check_figures, check_version
from dermserve.models.lifecycle.manifest import MANIFEST, check_folder
from dermserve.models.lifecycle.rollout import Intent, Served, change, pending, recover
from dermserve.models.lifecycle.server_config import CANARY_FILE, CONFIG, Desk, ServerConfig
from dermserve.models.lifecycle.stores import Entry, LocalStore, Store, entries, known_version, manifest_of

STABLE, CANARY = "stable", "canary"
"""The labels dermserve moves; the gateway shows both."""


def promote(
    desk: Desk, model: str, version: int | None = None, *, require: Sequence[Requirement] = (), checked: bool = True
) -> Intent:
    """Make a version the stable one, the newest in the store when none is named; return what was changed.

    Its evaluation must meet the requirements. When `checked`, its golden predictions are replayed on every server
    before the label moves.

    Raises:
        GateError: it does not meet a requirement, or does not answer as at export; nothing was changed.
        LifecycleError: no such version, or a server refuses or can't load it; nothing was changed.
    """
    with _changing(desk):
        target = known_version(desk.store, model, version)
        check_figures(desk.store, model, target, require)
        return _make_stable(desk, model, target, what="promote", checked=checked)


def rollback(desk: Desk, model: str, version: int | None = None) -> Intent:
    """Make the version stable that was stable before the last promotion, or the named one.

    Raises LifecycleError: the log has no such version, or as for `promote`.
    """
    with _changing(desk):
        current = desk.read_config().labels(model).get(STABLE)
        if current is None:
            raise RefusedError(f"{model} has no stable version to roll back from: promote one first")
        target = version or _former_stable(desk.store, model, current)
        if target is None:
            raise RefusedError(f"no stable version of {model} before {current} is known: name one with --to")
        known_version(desk.store, model, target)
        return _make_stable(desk, model, target, what="rollback", checked=False)


def canary(desk: Desk, model: str, version: int | None, *, share: float, checked: bool = True) -> Intent:
    """Serve another version than the stable one to a share of the callers: the newest in the store when none is named.

    Raises LifecycleError: there is no stable version, it is the same version, or as for `promote`.
    """
    with _changing(desk):
        target = known_version(desk.store, model, version)
        before = _served(desk, model)
        if STABLE not in before.labels:
            raise RefusedError(f"{model} has no stable version for the other callers: promote one first")
        if before.labels[STABLE] == target:
            raise RefusedError(f"version {target} of {model} is the stable one already")
        after = _pinned({**before.labels, CANARY: target}, share)
        return _move(desk, model, "canary", before, after, version=target, checked=checked)


def end_canary(desk: Desk, model: str) -> Intent:
    """Unload the canary; everybody gets the stable version.

    Raises LifecycleError: there is none, or as for `promote`.
    """
    with _changing(desk):
        before = _served(desk, model)
        if CANARY not in before.labels:
            raise RefusedError(f"{model} has no canary")
        after = _pinned({label: version for label, version in before.labels.items() if label != CANARY})
        return _move(desk, model, "canary", before, after)


def unpin(desk: Desk, model: str) -> Intent:
    """Remove all labels and let the servers follow the newest version, as before the first promotion.

    Raises LifecycleError: as for `promote`.
    """
    with _changing(desk):
        before, after = _served(desk, model), Served(labels={})
        return _move(desk, model, "unpin", before, after)


def retire(desk: Desk, model: str, *, keep: int, offline: bool = False, dry: bool = False) -> list[int]:
    """Delete all versions of a model except the newest `keep` and those that are needed.

    Needed are those that are labelled, pinned or loaded, and the one that `rollback` would go to.

    With `offline`, no server is asked which are loaded; with `dry`, nothing is deleted. Returns the versions that are
    deleted, or would be. Raises LifecycleError: the store can't be used, or a server does not answer.
    """
    store = desk.store
    with store.locked() if offline or dry else _changing(desk):
        present, config = store.versions(model), desk.read_config()
        stable = config.labels(model).get(STABLE) if model in config.models else None
        needed = {*present[-keep:], *config.needed(model), _former_stable(store, model, stable)}
        if (intent := pending(store)) is not None and intent.model == model:
            needed |= {*intent.needs, *intent.before.pins, *intent.before.labels.values()}
        if not offline:
            needed |= desk.servers.available(model)
        gone = [version for version in present if version not in needed]
        for version in [] if dry else gone:
            more = _more(desk, model, version)
            store.remove(model, version)
            store.append_audit(Entry(what="retire", model=model, before=version, after=None, more=more).json())
        return gone


def pull(
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
    files = {name: store.read_text(name) for name in (CONFIG, CANARY_FILE)}
    names = models or store.models()
    if not names:
        raise StoreError(f"{store.base} has no version of any model")
    for model in names:
        known_version(store, model, None)
        wanted = store.versions(model)
        if latest is not None:
            wanted = sorted({*wanted[-latest:], *ServerConfig.parse(files[CONFIG] or "").needed(model)} & {*wanted})
        for version in wanted:
            check = functools.partial(check_folder, model=model, where=f"{store.base}/{model}/{version}")
            manifest = store.read(model, version, MANIFEST)
            same = version in target.versions(model) and target.read(model, version, MANIFEST) == manifest
            if same and not any(problem for _, problem in check(target.version_folder(model, version), public_key)):
                continue
            with target.staged(model) as folder:
                store.fetch(model, version, folder)
                if wrong := [problem for _, problem in check(folder, public_key) if problem]:
                    raise StoreError(f"{store.base}/{model}/{version}: {'; '.join(wrong)}")
                target.replace(folder, model, version)
            yield model, version
    for name, text in files.items():
        if text is not None:
            target.write_text(name, text)


@contextlib.contextmanager
def _changing(desk: Desk) -> Iterator[None]:
    """Lock out other changes, and finish or undo one that an earlier command left half done."""
    with desk.store.locked():
        recover(desk)
        yield


def _former_stable(store: Store, model: str, current: int | None) -> int | None:
    """Return the version that was stable before this one was promoted; None if it is not in the log."""
    found = None
    for entry in entries(store, model):
        if entry.what == "promote" and entry.after == current and entry.before != current:
            found = entry.before
    return found


def _make_stable(desk: Desk, model: str, version: int, *, what: str, checked: bool) -> Intent:
    before = _served(desk, model)
    labels = {label: number for label, number in before.labels.items() if (label, number) != (CANARY, version)}
    after = _pinned({**labels, STABLE: version}, before.share if CANARY in labels else 0.0)
    return _move(desk, model, what, before, after, version=version, checked=checked)


def _move(
    desk: Desk, model: str, what: str, before: Served, after: Served, version: int | None = None, checked: bool = False
) -> Intent:
    """Make a change that brings a version, or none, and log it."""
    more = _more(desk, model, version, servers=list(desk.servers.addresses))
    entry = Entry(what=what, model=model, before=_told(what, before), after=_told(what, after), more=more)
    needs = after.pins or [known_version(desk.store, model, None)]
    intent = Intent(entry=entry, before=before, after=after, needs=needs, config_map=desk.config_map)
    if version is None:
        change(desk, intent)
    else:
        change(desk, intent, check=functools.partial(check_version, desk, model, version, answers=checked))
    return intent


def _served(desk: Desk, model: str) -> Served:
    config = desk.read_config()
    return Served(labels=config.labels(model), pins=config.pins(model), share=desk.read_shares().get(model, 0.0))


def _pinned(labels: Mapping[str, int], share: float = 0.0) -> Served:
    """Serve the versions with labels, and no others."""
    return Served(labels=labels, pins=sorted(set(labels.values())), share=share)


def _told(what: str, served: Served) -> Any:
    """Return what the log records of a move: the labels, the canary, or the stable version."""
    if what == "unpin":
        return served.labels
    if what == "canary":
        return {"version": served.labels[CANARY], "share": served.share} if CANARY in served.labels else None
    return served.labels.get(STABLE)


def _more(desk: Desk, model: str, version: int | None, **more: Any) -> dict[str, Any]:
    """Return further facts for the log: the version's digest, if it has one, and the command's note."""
    manifest = None if version is None else manifest_of(desk.store, model, version)
    more |= {"digest": manifest and manifest.digest, "note": desk.note}
    return {name: value for name, value in more.items() if value}
