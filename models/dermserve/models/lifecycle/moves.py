"""Promote, roll back, canary, unpin and retire versions; see `rollout` for how a change is made."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dermserve.models.lifecycle import audit
from dermserve.models.lifecycle.desk import Desk
from dermserve.models.lifecycle.errors import RefusedError, StoreError
from dermserve.models.lifecycle.gate import Requirement, check_figures, check_version
from dermserve.models.lifecycle.manifest import manifest_of
from dermserve.models.lifecycle.rollout import Intent, Served, change, pending, recover
from dermserve.models.lifecycle.stores import Store, known_version

STABLE, CANARY = "stable", "canary"
"""The labels dermserve moves; the gateway shows both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a move did."""

    model: str
    before: Mapping[str, int]
    """Versions by label."""
    after: Mapping[str, int]
    """The same now."""
    share: float = 0.0
    """Of the callers who name no version, for the canary."""


def promote(
    desk: Desk,
    model: str,
    version: int | None = None,
    *,
    require: Sequence[Requirement] = (),
    checked: bool = True,
    note: str = "",
) -> Moved:
    """Make a version the stable one: the newest in the store when none is named.

    Args:
        desk: the store and its servers.
        model: which.
        version: to promote.
        require: what its evaluation must have come to.
        checked: whether its golden predictions are replayed on every server before the label moves.
        note: for the log.

    Raises:
        GateError: it does not meet a requirement, or does not answer as it did when exported; nothing was changed.
        LifecycleError: no such version, or a server refuses or can't load it; nothing was changed then.
    """
    with _changing(desk):
        target = newest(desk.store, model) if version is None else version
        known_version(desk.store, model, target)
        check_figures(desk.store, model, target, require)
        return _make_stable(desk, model, target, what=audit.PROMOTE, note=note, checked=checked)


def rollback(desk: Desk, model: str, version: int | None = None, *, note: str = "") -> Moved:
    """Make the version stable that was so before the last promotion, or the one that is named.

    Raises:
        LifecycleError: the log knows of none, or as for `promote`.
    """
    with _changing(desk):
        current = desk.read_config().labels(model).get(STABLE)
        if current is None:
            raise RefusedError(f"{model} has no stable version to roll back from: promote one first")
        target = version if version is not None else audit.former_stable(desk.store, model, current)
        if target is None:
            raise RefusedError(f"no stable version of {model} before {current} is known: name one with --to")
        known_version(desk.store, model, target)
        return _make_stable(desk, model, target, what=audit.ROLLBACK, note=note, checked=False)


def canary(desk: Desk, model: str, version: int | None, *, share: float, checked: bool = True, note: str = "") -> Moved:
    """Give a share of the callers another version than the stable one: the newest in the store when none is named.

    Raises:
        LifecycleError: there is no stable version, or it is the same, or as for `promote`.
    """
    with _changing(desk):
        target = newest(desk.store, model) if version is None else version
        known_version(desk.store, model, target)
        before = _served(desk, model)
        if STABLE not in before.labels:
            raise RefusedError(f"{model} has no stable version for the other callers: promote one first")
        if before.labels[STABLE] == target:
            raise RefusedError(f"version {target} of {model} is the stable one already")
        after = {"version": target, "share": share}
        entry = _entry(desk, audit.CANARY, model, before=_canary_of(before), after=after, note=note)
        checks = functools.partial(check_version, desk, model, target, answers=checked)
        return _move(desk, entry, before, {**before.labels, CANARY: target}, share=share, check=checks)


def end_canary(desk: Desk, model: str, *, note: str = "") -> Moved:
    """Unload the canary; everybody gets the stable version.

    Raises:
        LifecycleError: there is none, or as for `promote`.
    """
    with _changing(desk):
        before = _served(desk, model)
        if CANARY not in before.labels:
            raise RefusedError(f"{model} has no canary")
        labels = {label: version for label, version in before.labels.items() if label != CANARY}
        entry = _entry(desk, audit.CANARY, model, before=_canary_of(before), after=None, note=note)
        return _move(desk, entry, before, labels)


def unpin(desk: Desk, model: str, *, note: str = "") -> Moved:
    """Take all labels off and let the servers follow the newest version, as before the first promotion.

    Raises:
        LifecycleError: as for `promote`.
    """
    with _changing(desk):
        before, needs = _served(desk, model), [newest(desk.store, model)]
        entry = _entry(desk, audit.UNPIN, model, before=dict(before.labels), after={}, note=note)
        change(desk, Intent(entry=entry, before=before, after=Served(labels={}), needs=needs))
        return Moved(model=model, before=before.labels, after={})


def retire(desk: Desk, model: str, *, keep: int, offline: bool = False, dry: bool = False, note: str = "") -> list[int]:
    """Delete the oldest versions of a model, but for the newest `keep` and all that are labelled, pinned or loaded.

    Args:
        desk: the store and its servers.
        model: which.
        keep: how many of the newest to keep.
        offline: don't ask the servers what is loaded; go by models.config alone.
        dry: delete nothing.
        note: for the log.

    Returns:
        The versions that are gone, or would be.

    Raises:
        LifecycleError: the store can't be used, or a server does not answer.
    """
    with desk.store.locked() if offline else _changing(desk):
        present = desk.store.versions(model)
        needed = set(present[-keep:]) | _needed(desk, model, offline=offline)
        gone = [version for version in present if version not in needed]
        for version in [] if dry else gone:
            digest = digest_of(desk.store, model, version)
            desk.store.remove(model, version)
            entry = _entry(desk, audit.RETIRE, model, before=version, after=None, digest=digest, note=note)
            audit.note(desk.store, entry)
        return gone


def digest_of(store: Store, model: str, version: int) -> str | None:
    """Return the digest in a version's manifest; None for one that has no manifest."""
    found = manifest_of(store, model, version)
    return found.digest if found else None


def _make_stable(desk: Desk, model: str, version: int, *, what: str, note: str, checked: bool) -> Moved:
    before = _served(desk, model)
    labels = {label: number for label, number in before.labels.items() if (label, number) != (CANARY, version)}
    labels[STABLE] = version
    digest = digest_of(desk.store, model, version)
    entry = _entry(desk, what, model, before=before.labels.get(STABLE), after=version, digest=digest, note=note)
    checks = functools.partial(check_version, desk, model, version, answers=checked)
    return _move(desk, entry, before, labels, share=before.share if CANARY in labels else 0.0, check=checks)


def _move(
    desk: Desk,
    entry: audit.Entry,
    before: Served,
    labels: Mapping[str, int],
    *,
    share: float = 0.0,
    check: Callable[[], None] = lambda: None,
) -> Moved:
    """Load what the labels need, move them, and unload what nothing needs any more."""
    pins = sorted(set(labels.values()))
    after = Served(labels=labels, pins=pins, share=share)
    change(desk, Intent(entry=entry, before=before, after=after, needs=pins), check=check)
    return Moved(model=entry.model, before=before.labels, after=labels, share=share)


def _served(desk: Desk, model: str) -> Served:
    return Served.of(desk.read_config(), model, share=desk.read_shares().get(model, 0.0))


@contextlib.contextmanager
def _changing(desk: Desk) -> Iterator[None]:
    """Keep other changes out, and finish or undo what an earlier one left half done."""
    with desk.store.locked():
        recover(desk)
        yield


def _needed(desk: Desk, model: str, *, offline: bool) -> set[int]:
    config = desk.read_config()
    needed: set[int] = set()
    if model in config.models:
        needed |= set(config.labels(model).values()) | set(config.pins(model) or ())
    if (intent := pending(desk.store)) is not None and intent.model == model:
        needed |= {*intent.needs, *intent.before.pins, *intent.before.labels.values()}
    if not offline:
        needed = needed.union(*desk.servers.available(model).values())
    return needed


def newest(store: Store, model: str) -> int:
    """Return the newest version of a model.

    Raises:
        StoreError: there is none; the message says which models there are.
    """
    present = store.versions(model)
    if not present:
        held = ", ".join(store.models()) or "no model at all"
        raise StoreError(f"{store.base} has no version of {model}; it has {held}")
    return present[-1]


def _canary_of(served: Served) -> dict[str, Any] | None:
    return {"version": served.labels[CANARY], "share": served.share} if CANARY in served.labels else None


def _entry(
    desk: Desk, what: str, model: str, *, before: Any, after: Any, note: str, digest: str | None = None
) -> audit.Entry:
    more: dict[str, Any] = {"servers": list(desk.servers.addresses)} if what != audit.RETIRE else {}
    more |= {key: value for key, value in (("digest", digest), ("note", note)) if value}
    return audit.Entry(what=what, model=model, before=before, after=after, more=more)
