"""Promote, roll back, canary, unpin, retire: in an order in which no request is ever without a version.

TensorFlow Serving refuses a label on a version that is not AVAILABLE, and a label whose version is unloaded answers
nothing. So a move goes: load what is needed beside what is there; move the labels; write models.config; unload the
rest. A step that fails is undone, on every server.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dermserve.models.lifecycle import audit
from dermserve.models.lifecycle.desk import Desk, read_shares, write_shares
from dermserve.models.lifecycle.errors import RefusedError, ServerError, StoreError
from dermserve.models.lifecycle.manifest import MANIFEST, parse_manifest
from dermserve.models.lifecycle.server_config import ServerConfig
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


def promote(desk: Desk, model: str, version: int | None = None, *, note: str = "") -> Moved:
    """Make a version the stable one: the newest in the store when none is named.

    Raises:
        LifecycleError: no such version, or a server refuses or can't load it; nothing was changed then.
    """
    with desk.store.locked():
        target = _newest(desk.store, model) if version is None else version
        return _make_stable(desk, model, target, what=audit.PROMOTE, note=note)


def rollback(desk: Desk, model: str, version: int | None = None, *, note: str = "") -> Moved:
    """Make the version stable that was so before the last promotion, or the one that is named.

    Raises:
        LifecycleError: the log knows of none, or as for `promote`.
    """
    with desk.store.locked():
        current = desk.read_config().labels(model).get(STABLE)
        if current is None:
            raise RefusedError(f"{model} has no stable version to roll back from: promote one first")
        target = version if version is not None else audit.former_stable(desk.store, model, current)
        if target is None:
            raise RefusedError(f"no stable version of {model} before {current} is known: name one with --to")
        return _make_stable(desk, model, target, what=audit.ROLLBACK, note=note)


def canary(desk: Desk, model: str, version: int | None, *, share: float, note: str = "") -> Moved:
    """Give a share of the callers another version than the stable one: the newest in the store when none is named.

    Raises:
        LifecycleError: there is no stable version, or it is the same, or as for `promote`.
    """
    with desk.store.locked():
        target = _newest(desk.store, model) if version is None else version
        known_version(desk.store, model, target)
        config = desk.read_config()
        labels = config.labels(model)
        if STABLE not in labels:
            raise RefusedError(f"{model} has no stable version for the other callers: promote one first")
        if labels[STABLE] == target:
            raise RefusedError(f"version {target} of {model} is the stable one already")
        before = _canary_of(labels, read_shares(desk.store).get(model, 0.0))
        # The share first: a gateway that starts now and reads it sends callers to the canary once there is one.
        write_shares(desk.store, {**read_shares(desk.store), model: share})
        try:
            _move(desk, config, model, {**labels, CANARY: target})
        except BaseException:
            write_shares(desk.store, {**read_shares(desk.store), model: before["share"] if before else 0.0})
            raise
        after = {"version": target, "share": share}
        _note(desk, audit.CANARY, model, before=before, after=after, note=note)
        return Moved(model=model, before=labels, after={**labels, CANARY: target}, share=share)


def end_canary(desk: Desk, model: str, *, note: str = "") -> Moved:
    """Unload the canary; everybody gets the stable version.

    Raises:
        LifecycleError: there is none, or as for `promote`.
    """
    with desk.store.locked():
        config = desk.read_config()
        labels = config.labels(model)
        if CANARY not in labels:
            raise RefusedError(f"{model} has no canary")
        after = {label: version for label, version in labels.items() if label != CANARY}
        _move(desk, config, model, after)
        before = _canary_of(labels, read_shares(desk.store).get(model, 0.0))
        write_shares(desk.store, {**read_shares(desk.store), model: 0.0})
        _note(desk, audit.CANARY, model, before=before, after=None, note=note)
        return Moved(model=model, before=labels, after=after)


def unpin(desk: Desk, model: str, *, note: str = "") -> Moved:
    """Take all labels off and let the servers follow the newest version, as before the first promotion.

    Raises:
        LifecycleError: as for `promote`.
    """
    with desk.store.locked():
        config = desk.read_config()
        labels, newest = config.labels(model), _newest(desk.store, model)
        desk.servers.available(model)  # all must answer before anything changes
        wide = _wide(desk, config, model, {newest})
        _load(desk, wide, config, model, {newest})
        _settle(desk, config.labelled(model, {}).pinned(model, ()), {newest}, former=wide, model=model)
        write_shares(desk.store, {**read_shares(desk.store), model: 0.0})
        _note(desk, audit.UNPIN, model, before=labels, after={}, note=note)
        return Moved(model=model, before=labels, after={})


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
    with desk.store.locked():
        present = desk.store.versions(model)
        needed = set(present[-keep:]) | _needed(desk, model, offline=offline)
        gone = [version for version in present if version not in needed]
        for version in [] if dry else gone:
            digest = digest_of(desk.store, model, version)
            desk.store.remove(model, version)
            _note(desk, audit.RETIRE, model, before=version, after=None, digest=digest, note=note)
        return gone


def digest_of(store: Store, model: str, version: int) -> str | None:
    """Return the digest in a version's manifest; None for one that has no manifest."""
    try:
        return parse_manifest(store.read(model, version, MANIFEST), where=f"{store.base}/{model}/{version}").digest
    except FileNotFoundError:
        return None


def _make_stable(desk: Desk, model: str, version: int, *, what: str, note: str) -> Moved:
    known_version(desk.store, model, version)
    config = desk.read_config()
    labels = config.labels(model)
    after = {label: number for label, number in labels.items() if (label, number) != (CANARY, version)}
    after[STABLE] = version
    _move(desk, config, model, after)
    if CANARY not in after:
        write_shares(desk.store, {**read_shares(desk.store), model: 0.0})
    digest = digest_of(desk.store, model, version)
    _note(desk, what, model, before=labels.get(STABLE), after=version, digest=digest, note=note)
    return Moved(model=model, before=labels, after=after)


def _move(desk: Desk, config: ServerConfig, model: str, labels: Mapping[str, int]) -> None:
    """Load what the labels need, move them, write them down, and unload what nothing needs any more."""
    desk.servers.available(model)  # all must answer before anything changes
    wide = _wide(desk, config, model, set(labels.values()))
    _load(desk, wide, config, model, set(labels.values()))
    named = {address: wide[address].labelled(model, labels) for address in wide}
    try:
        desk.servers.reload(named)
    except ServerError:
        desk.servers.restore(_former(desk, config))
        raise
    final, needed = config.labelled(model, labels), set(labels.values())
    _settle(desk, final.pinned(model, needed), needed, former=wide, model=model)


def _wide(desk: Desk, config: ServerConfig, model: str, versions: set[int]) -> dict[str, ServerConfig]:
    """By server: what it has loaded now and some versions besides, with those of its labels that it can keep."""
    lists = _former(desk, config)
    for address, available in desk.servers.available(model).items():
        lists[address] = lists[address].pinned(model, available | versions)
    return lists


def _former(desk: Desk, config: ServerConfig) -> dict[str, ServerConfig]:
    """By server: the list as it is, but for labels whose version is not there, which a server would refuse."""
    lists = {}
    for server in desk.servers:
        lists[server.address] = config
        for name in config.models:
            available = server.available(name)
            kept = {label: version for label, version in config.labels(name).items() if version in available}
            lists[server.address] = lists[server.address].labelled(name, kept)
    return lists


def _load(desk: Desk, wide: dict[str, ServerConfig], config: ServerConfig, model: str, versions: set[int]) -> None:
    former = _former(desk, config)
    try:
        desk.servers.reload(wide)
        for server in desk.servers:
            server.wait_available(model, versions, timeout=desk.timeout)
    except BaseException:
        desk.servers.restore(former)
        raise


def _settle(desk: Desk, config: ServerConfig, needed: set[int], *, former: dict[str, ServerConfig], model: str) -> None:
    """Write models.config and make it what is served. From here on a restarted server comes back as it is to be.

    Waits until the rest is unloaded: the next move must not take for loaded what is about to go.
    """
    try:
        desk.write_config(config)
    except StoreError:
        desk.servers.restore(former)
        raise
    desk.servers.reload(dict.fromkeys(desk.servers.addresses, config))
    for server in desk.servers:
        server.wait_only(model, needed, timeout=desk.timeout)


def _needed(desk: Desk, model: str, *, offline: bool) -> set[int]:
    config = desk.read_config()
    needed: set[int] = set()
    if model in config.models:
        needed |= set(config.labels(model).values()) | set(config.pins(model) or ())
    if not offline:
        needed = needed.union(*desk.servers.available(model).values())
    return needed


def _newest(store: Store, model: str) -> int:
    present = store.versions(model)
    if not present:
        held = ", ".join(store.models()) or "no model at all"
        raise StoreError(f"{store.base} has no version of {model}; it has {held}")
    return present[-1]


def _canary_of(labels: Mapping[str, int], share: float) -> dict[str, Any] | None:
    return {"version": labels[CANARY], "share": share} if CANARY in labels else None


def _note(desk: Desk, what: str, model: str, *, before: Any, after: Any, note: str, digest: str | None = None) -> None:
    more: dict[str, Any] = {"servers": list(desk.servers.addresses)} if what != audit.RETIRE else {}
    more |= {key: value for key, value in (("digest", digest), ("note", note)) if value}
    audit.note(desk.store, audit.Entry(what=what, model=model, before=before, after=after, more=more))
