"""Change a model's labels and pins on every model server and in models.config: wholly, or not at all.

TensorFlow Serving refuses a label on a version that is not AVAILABLE, and requests for a label whose version is
unloaded fail. So a change loads the new version beside the old one, moves the labels, writes models.config, and then
unloads the rest. Its intent is in the store from before the first step until after the last, so that the next command
can finish or undo the change of a killed one: finish it if models.config has the new entry, else undo it.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from dermserve.models.lifecycle.errors import LifecycleError, RefusedError, ServerError, StoreError
from dermserve.models.lifecycle.server_config import Desk, ServerConfig
from dermserve.models.lifecycle.servers import Server
from dermserve.models.lifecycle.stores import Entry, Store, entries

_Check: TypeAlias = Callable[[], None]
INTENT = "intent.json"
"""Name in a store: the change that is being made; absent otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is served of a model: labels, pins and the canary's share."""

    labels: Mapping[str, int]
    """Versions by label."""
    pins: list[int] = field(default_factory=list)
    """The versions that servers load; with none, they follow the newest."""
    share: float = 0.0
    """The canary's share of the requests without version and label."""

    def put_into(self, config: ServerConfig, model: str) -> ServerConfig:
        """Write this into a model's entry."""
        return config.labelled(model, self.labels).pinned(model, self.pins)

    def is_in(self, config: ServerConfig, model: str) -> bool:
        """Tell whether a model's entry has this."""
        return (config.labels(model), config.pins(model)) == (dict(self.labels), self.pins)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A change that is being made."""

    entry: Entry
    """Its line in the audit log."""
    before: Served
    after: Served
    needs: list[int]
    """The versions that must be AVAILABLE afterwards."""
    config_map: str = ""
    """The ConfigMap that has models.config, in the form of --config; empty where servers are told."""

    @property
    def model(self) -> str:
        """The model whose labels and pins change."""
        return self.entry.model

    @property
    def labels(self) -> set[str]:
        """The labels that the model has before or afterwards."""
        return {*self.before.labels, *self.after.labels}

    def __str__(self) -> str:
        entry = self.entry
        return f"{entry.what} of {entry.model}, {entry.change()}, begun {entry.when} by {entry.who}"


def change(desk: Desk, intent: Intent, *, check: _Check = lambda: None) -> None:
    """Make a change; undo it if a step fails. The store must be locked.

    `check` is called once the versions are loaded on every server, before a label moves. If it raises, the change is
    undone.

    Raises:
        LifecycleError: a step failed. Servers that could not be restored are restored by the next command.
    """
    desk.servers.available(intent.model)  # all servers must answer before anything changes
    desk.store.write_text(INTENT, json.dumps(dataclasses.asdict(intent), indent=1))
    _finish_or_undo(desk, intent, check)


def recover(desk: Desk) -> None:
    """Finish or undo the change that an earlier command left half done, if there is one, and report it.

    Raises LifecycleError: a model server does not answer, or a step failed; it is tried again by the next command.
    """
    intent = pending(desk.store)
    if intent is None:
        return
    if intent.config_map != desk.config_map:
        how = f"with --config {intent.config_map}" if intent.config_map else "without the ConfigMap"
        raise RefusedError(f"half done: {intent}; a command must finish or undo it first, run one {how}")
    desk.servers.available(intent.model)
    finished = intent.after.is_in(desk.read_config(), intent.model)
    if finished:
        _finish_or_undo(desk, intent, noted=intent.entry in entries(desk.store, intent.model))
    elif left := _undo(desk, intent):
        raise left[0]
    desk.say(f"{'finished' if finished else 'undid'} what an earlier command left half done: {intent}")


def pending(store: Store) -> Intent | None:
    """Read the change that is being made, or was left half done. Raises StoreError: the file is not valid."""
    text = store.read_text(INTENT)
    if text is None:
        return None
    try:
        content: dict[str, Any] = json.loads(text)
        before, after = Served(**content.pop("before")), Served(**content.pop("after"))
        return Intent(entry=Entry(**content.pop("entry")), before=before, after=after, **content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{store.base}/{INTENT} can't be understood: {error}") from error


def _finish_or_undo(desk: Desk, intent: Intent, check: _Check = lambda: None, noted: bool = False) -> None:
    try:
        _finish(desk, intent, check)
        if not noted:
            desk.store.append_audit(intent.entry.json())
    except BaseException as error:
        if left := _undo(desk, intent):
            desk.say(f"{left[0]}: the next command will undo the change on it")
        elif not isinstance(error, LifecycleError):
            desk.say(f"undone: {intent}")
        raise
    desk.store.remove_text(INTENT)


def _finish(desk: Desk, intent: Intent, check: _Check) -> None:
    """Do the remaining steps. A second call changes nothing."""
    model, after, needs = intent.model, intent.after, set(intent.needs)
    if after.share:
        # The share comes first: gateways read it, and send callers to the canary once it exists.
        desk.write_share(model, after.share)
    if desk.config_map:
        _lead(desk, intent, after, needs, check)
    else:
        servers, final = list(desk.servers), after.put_into(desk.read_config(), model)
        _widen(desk, servers, intent, final, needs, check)
        desk.write_config(final)  # from here on, a server that restarts has the new state
        _narrow(desk, servers, model, final, needs)
    desk.write_share(model, after.share)


def _undo(desk: Desk, intent: Intent) -> list[ServerError]:
    """Restore everything. If a server could not be restored, the intent stays; returns the errors of such servers."""
    model, before, left = intent.model, intent.before, list[ServerError]()
    config = desk.read_config()
    if not desk.config_map and intent.after.is_in(config, model):
        config = before.put_into(config, model)
        desk.write_config(config)
    steps = [functools.partial(_restore, desk, server, intent, config) for server in desk.servers]
    if desk.config_map:
        steps = [functools.partial(_lead, desk, intent, before, {*before.pins, *before.labels.values()})]
    for step in steps:
        try:
            step()
        except ServerError as error:
            left.append(error)
    desk.write_share(model, before.share)
    if not left:
        desk.store.remove_text(INTENT)
    return left


def _restore(desk: Desk, server: Server, intent: Intent, config: ServerConfig) -> None:
    needs = config.needed(intent.model)
    _widen(desk, [server], intent, config, needs)
    _narrow(desk, [server], intent.model, config, needs)


def _lead(desk: Desk, intent: Intent, target: Served, needs: set[int], check: _Check = lambda: None) -> None:
    """Write models.config step by step, and wait each time until the servers have read and done it."""
    model, config = intent.model, desk.read_config()
    labels = {label: target.labels.get(label) for label in {*config.labels(model), *intent.labels}}
    final = target.put_into(config, model)
    loaded = needs | desk.servers.available(model)
    if not needs <= set(config.pins(model)):
        desk.write_config(config.pinned(model, loaded))
    for server in desk.servers:
        server.wait_available(model, needs, timeout=desk.timeout)
    check()
    desk.write_config(final.pinned(model, loaded))
    for server in desk.servers:
        server.wait_labels(model, labels, timeout=desk.timeout)
    desk.write_config(final)
    _wait_only(desk, desk.servers, model, needs)


def _widen(
    desk: Desk,
    servers: list[Server],
    intent: Intent,
    config: ServerConfig,
    needs: set[int],
    check: _Check = lambda: None,
) -> None:
    """Let servers load the new version beside the others, and then move the labels."""
    model = intent.model
    wide = [(server, _wide(server, config, intent, needs)) for server in servers]
    for server, told in wide:
        server.reload(told.message())
    for server in servers:
        server.wait_available(model, needs, timeout=desk.timeout)
    check()
    for server, told in wide:
        server.reload(told.labelled(model, config.labels(model)).message())


def _narrow(desk: Desk, servers: list[Server], model: str, config: ServerConfig, needs: set[int]) -> None:
    """Let servers unload what is not needed."""
    for server in servers:
        server.reload(_loadable(server, config, model).message())
    _wait_only(desk, servers, model, needs)


def _wait_only(desk: Desk, servers: Iterable[Server], model: str, needs: set[int]) -> None:
    """Wait until other versions are unloaded: the next move must not count them as loaded."""
    for server in servers if needs else ():
        server.wait_only(model, needs, timeout=desk.timeout)


def _wide(server: Server, config: ServerConfig, intent: Intent, needs: set[int]) -> ServerConfig:
    """Make a server's list: the versions that it has loaded with their labels, and some more."""
    model = intent.model
    known = sorted({*config.labels(model), *intent.labels})
    labels = {label: version for label in known if (version := server.label(model, label)) is not None}
    pinned = config.pinned(model, server.available(model) | needs)
    return _loadable(server, pinned, model).labelled(model, labels)


def _loadable(server: Server, config: ServerConfig, model: str) -> ServerConfig:
    """Leave out labels of other models whose version is not loaded, which a server would refuse."""
    for name in config.models:
        if name != model and (labels := config.labels(name)):
            available = server.available(name)
            config = config.labelled(name, {label: one for label, one in labels.items() if one in available})
    return config
