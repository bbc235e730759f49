"""Promote, roll back, canary, retire and pull versions; see `rollout` for how a change is made."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dermserve.models.lifecycle.errors import LifecycleError, StoreError
from dermserve.models.lifecycle.gate import Requirement, check_figures, check_version
from dermserve.models.lifecycle.manifest import MANIFEST, problems
from dermserve.models.lifecycle.rollout import Intent, Served, change, recover
from dermserve.models.lifecycle.server_config import CANARY_FILE, CONFIG, Desk, ServerConfig
from dermserve.models.lifecycle.stores import LocalStore, Store, entries, known_version, manifest_of, new_entry

STABLE, CANARY = "stable", "canary"  # the labels dermserve moves; the gateway shows both


def promote(desk: Desk, model: str, version: int | None = None, *, require: Sequence[Requirement] = ()) -> Intent:
    """Make a version stable, the newest by default, after checks of evaluation and answers; return the change.

    Raises LifecycleError, a GateError for a failed check: nothing was changed.
    """
    with _changing(desk):
        target = known_version(desk.store, model, version)
        check_figures(desk.store, model, target, require)
        return _make_stable(desk, "promote", model, target)


def rollback(desk: Desk, model: str) -> Intent:
    """Make the version stable that was stable before the last promotion."""
    with _changing(desk):
        current = desk.read_config().labels(model).get(STABLE)
        if current is None:
            raise LifecycleError(f"{model} has no stable version to roll back from: promote one first")
        target = _former_stable(desk.store, model, current)
        if target is None:
            raise LifecycleError(f"no stable version of {model} before {current} is known: promote one")
        known_version(desk.store, model, target)
        return _make_stable(desk, "rollback", model, target)


def canary(desk: Desk, model: str, version: int | None, *, share: float) -> Intent:
    """Serve another version than the stable one to a share of the callers: the newest when none is named."""
    with _changing(desk):
        target, before = known_version(desk.store, model, version), _served(desk, model)
        if STABLE not in before.labels:
            raise LifecycleError(f"{model} has no stable version for the other callers: promote one first")
        if before.labels[STABLE] == target:
            raise LifecycleError(f"version {target} of {model} is the stable one already")
        return _move(desk, "canary", model, before, {**before.labels, CANARY: target}, share, target)


def end_canary(desk: Desk, model: str) -> Intent:
    """Unload the canary; everybody gets the stable version."""
    with _changing(desk):
        before = _served(desk, model)
        if CANARY not in before.labels:
            raise LifecycleError(f"{model} has no canary")
        labels = {name: one for name, one in before.labels.items() if name != CANARY}
        return _move(desk, "canary", model, before, labels, 0.0, None)


def retire(desk: Desk, model: str, *, keep: int) -> list[int]:
    """Delete all but the newest `keep` versions, those in use and rollback's target; return the deleted ones."""
    store = desk.store
    with _changing(desk):
        present, config = store.versions(model), desk.read_config()
        stable = config.labels(model).get(STABLE) if model in config.models else None
        served = config.needed(model) | desk.available(model)
        needed = {*present[-keep:], *served, _former_stable(store, model, stable)}
        gone = [version for version in present if version not in needed]
        for version in gone:
            # The log has it before it is gone: a killed command leaves no deletion that nobody knows of.
            manifest = manifest_of(store, model, version)
            entry = new_entry("retire", model, version, None, digest=manifest and manifest.digest)
            store.append_audit(json.dumps(entry))
            store.remove(model, version)
        return gone


def pull(
    store: Store, target: LocalStore, *, latest: int | None = None, public_key: Path | None = None
) -> Iterator[tuple[str, int]]:
    """Copy the versions that a local store lacks, under their numbers, each whole or not at all; then models.config.

    A local version that does not match the store's manifest is replaced. With `latest` only so many of the newest of
    each model are copied, and those labelled or pinned. With a public key (PEM), all must be signed with it. Yields
    model and version of each copy.
    """
    files = {name: store.read_text(name) for name in (CONFIG, CANARY_FILE)}
    if not (models := store.models()):
        raise StoreError(f"{store.base} has no version of any model")
    for model in models:
        wanted = store.versions(model)
        if latest is not None:
            wanted = sorted({*wanted[-latest:], *ServerConfig.parse(files[CONFIG] or "").needed(model)} & {*wanted})
        for version in wanted:
            check = functools.partial(problems, model=model, where=f"{store.base}/{model}/{version}")
            manifest = store.read(model, version, MANIFEST)
            same = version in target.versions(model) and target.read(model, version, MANIFEST) == manifest
            if same and not check(target.version_folder(model, version), public_key):
                continue
            with target.staged(model) as folder:
                store.fetch(model, version, folder)
                if wrong := check(folder, public_key):
                    raise StoreError(f"{store.base}/{model}/{version}: {'; '.join(wrong)}")
                target.replace(folder, model, version)
            yield model, version
    for name, text in files.items():
        if text is not None:
            target.write_text(name, text)


@contextlib.contextmanager
def _changing(desk: Desk) -> Iterator[None]:
    """Lock out other changes, and undo one that an earlier command left half done."""
    with desk.store.locked():
        recover(desk)
        yield


def _former_stable(store: Store, model: str, current: int | None) -> int | None:
    """Return the version that was stable before this one was promoted; None if it is not in the log."""
    found = None
    for entry in entries(store, model):
        if entry["what"] == "promote":
            before, after = (entry[end]["labels"].get(STABLE) for end in ("from", "to"))
            found = before if after == current != before else found
    return found


def _make_stable(desk: Desk, what: str, model: str, version: int) -> Intent:
    before = _served(desk, model)
    labels = {label: number for label, number in before.labels.items() if (label, number) != (CANARY, version)}
    share = before.share if CANARY in labels else 0.0
    return _move(desk, what, model, before, {**labels, STABLE: version}, share, version)


def _move(
    desk: Desk, what: str, model: str, before: Served, labels: Mapping[str, int], share: float, version: int | None
) -> Intent:
    """Serve the versions with these labels, and no others; check the one that the change is for, if there is one."""
    after = Served(labels, sorted(set(labels.values())), share)
    manifest = version and manifest_of(desk.store, model, version)
    facts = {
        "digest": manifest and manifest.digest,
        "servers": [server.address for server in desk.servers],
        "config_map": desk.config_map and desk.config_map.base,
    }
    entry = new_entry(what, model, dataclasses.asdict(before), dataclasses.asdict(after), **facts)
    intent = Intent(entry, before, after)
    if version is None:
        change(desk, intent)
    else:  # a rollback goes to a version that has served before, and must not wait for its answers
        change(desk, intent, check=functools.partial(check_version, desk, model, version, answers=what != "rollback"))
    return intent


def _served(desk: Desk, model: str) -> Served:
    config, share = desk.read_config(), desk.read_shares().get(model, 0.0)
    pins = config.pins(model)
    return Served(config.labels(model), pins, share, "" if pins else config.policy(model))
