"""Change a model's labels and pins on every model server and in models.config: wholly, or not at all.

TensorFlow Serving refuses a label on a version that is not AVAILABLE, and a label whose version is unloaded answers
nothing. So a change loads what is needed beside what is there, moves the labels, writes models.config, and unloads the
rest. Its intent is in the store before the first of these steps and is removed after the last, so that the next command
finishes or undoes what a killed one began. models.config decides which: with the new entry, the change is finished.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dermserve.models.lifecycle.errors import LifecycleError, ServerError, StoreError
from dermserve.models.lifecycle.server_config import Desk, ServerConfig
from dermserve.models.lifecycle.servers import Server
from dermserve.models.lifecycle.stores import Entry, Store, entries

INTENT = "intent.json"
"""Name in a store: the change that is being made; absent otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What is served of a model."""

    labels: Mapping[str, int]
    """Versions by label."""
    pins: list[int] = field(default_factory=list)
    """The versions that servers load; with none, they follow the newest."""
    share: float = 0.0
    """Of the callers who name no version, for the canary."""

    def put_into(self, config: ServerConfig, model: str) -> ServerConfig:
        """Make a model's entry say this."""
        return config.labelled(model, self.labels).pinned(model, self.pins)

    def is_in(self, config: ServerConfig, model: str) -> bool:
        """Tell whether a model's entry says this."""
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

    @property
    def model(self) -> str:
        """Whose labels and pins change."""
        return self.entry.model

    @property
    def labels(self) -> set[str]:
        """Those that the model has before or afterwards."""
        return {*self.before.labels, *self.after.labels}

    def __str__(self) -> str:
        entry = self.entry
        return f"{entry.what} of {entry.model}, {entry.change()}, begun {entry.when} by {entry.who}"


def change(desk: Desk, intent: Intent, *, check: Callable[[], None] = lambda: None) -> None:
    """Make a change; undo it when a step fails.

    Args:
        desk: the store, locked, and its servers.
        intent: what is to change.
        check: called once the versions are loaded on every server, before a label moves; what it raises undoes all.

    Raises:
        LifecycleError: a step failed. Servers that could not be told back are told by the next command.
    """
    desk.servers.available(intent.model)  # all must answer before anything changes
    desk.store.write_text(INTENT, json.dumps(dataclasses.asdict(intent), indent=1))
    _finish_or_undo(desk, intent, check=check)


def recover(desk: Desk) -> None:
    """Finish or undo the change that an earlier command left half done, if there is one, and say so.

    Raises:
        LifecycleError: a model server does not answer, or a step failed; it is tried again by the next command.
    """
    intent = pending(desk.store)
    if intent is None:
        return
    desk.servers.available(intent.model)
    finished = intent.after.is_in(desk.read_config(), intent.model)
    if finished:
        _finish_or_undo(desk, intent, again=True)
    elif left := _undo(desk, intent):
        raise left[0]
    desk.say(f"{'finished' if finished else 'undid'} what an earlier command left half done: {intent}")


def pending(store: Store) -> Intent | None:
    """Read the change that is being made, or was left half done.

    Raises:
        StoreError: the file can't be understood.
    """
    try:
        content: dict[str, Any] = json.loads(store.read_text(INTENT))
        before, after = Served(**content.pop("before")), Served(**content.pop("after"))
        return Intent(entry=Entry(**content.pop("entry")), before=before, after=after, **content)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise StoreError(f"{store.base}/{INTENT} can't be understood: {error}") from error


def _finish_or_undo(
    desk: Desk, intent: Intent, *, check: Callable[[], None] = lambda: None, again: bool = False
) -> None:
    try:
        _finish(desk, intent, check)
        if not (again and intent.entry in entries(desk.store, intent.model)):
            desk.store.append_audit(intent.entry.json())
        desk.store.remove_text(INTENT)
    except BaseException as error:
        if left := _undo(desk, intent):
            desk.say(f"{left[0]}: what it was told is still to be undone, by the next command")
        elif not isinstance(error, LifecycleError):
            desk.say(f"undone: {intent}")
        raise


def _finish(desk: Desk, intent: Intent, check: Callable[[], None]) -> None:
    """Do what is not done yet. A second time, this changes nothing."""
    model, needs = intent.model, set(intent.needs)
    if intent.after.share:
        # The share first: a gateway that reads it sends callers to the canary once there is one.
        desk.write_share(model, intent.after.share)
    if desk.led:
        _lead(desk, intent, intent.after, needs, check)
    else:
        _tell(desk, intent, needs, check)
    desk.write_share(model, intent.after.share)


def _undo(desk: Desk, intent: Intent) -> list[ServerError]:
    """Put everything back; the intent stays when a server could not be told, whose errors are returned."""
    left, before = list[ServerError](), intent.before
    if desk.led:
        try:
            _lead(desk, intent, before, {*before.pins, *before.labels.values()})
        except ServerError as error:
            left.append(error)
    else:
        config = desk.read_config()
        if intent.after.is_in(config, intent.model):
            config = before.put_into(config, intent.model)
            desk.write_config(config)
        for server in desk.servers:
            try:
                _tell_back(desk, server, config, intent)
            except ServerError as error:
                left.append(error)
    desk.write_share(intent.model, before.share)
    if not left:
        desk.store.remove_text(INTENT)
    return left


def _lead(
    desk: Desk, intent: Intent, target: Served, needs: set[int], check: Callable[[], None] = lambda: None
) -> None:
    """Write models.config step by step, and wait each time until the servers have read it and done what it says."""
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
    for server in desk.servers if needs else ():
        server.wait_only(model, needs, timeout=desk.timeout)


def _tell(desk: Desk, intent: Intent, needs: set[int], check: Callable[[], None]) -> None:
    """Tell the servers what to serve, step by step, and write models.config."""
    model, final = intent.model, intent.after.put_into(desk.read_config(), intent.model)
    wide = [(server, _wide(server, final, intent, needs)) for server in desk.servers]
    for server, config in wide:
        server.reload(config.message())
    for server in desk.servers:
        server.wait_available(model, needs, timeout=desk.timeout)
    check()
    for server, config in wide:
        server.reload(config.labelled(model, intent.after.labels).message())
    desk.write_config(final)  # from here on, a server that restarts comes back as it is to be
    for server in desk.servers:
        server.reload(_loadable(server, final, model).message())
    for server in desk.servers:
        # The next move must not take for loaded what is about to go.
        server.wait_only(model, needs, timeout=desk.timeout)


def _tell_back(desk: Desk, server: Server, config: ServerConfig, intent: Intent) -> None:
    model, needs = intent.model, config.needed(intent.model)
    wide = _wide(server, config, intent, needs)
    if needs - server.available(model):
        server.reload(wide.message())
        server.wait_available(model, needs, timeout=desk.timeout)
    server.reload(wide.labelled(model, config.labels(model)).message())
    server.reload(_loadable(server, config, model).message())
    if needs:
        server.wait_only(model, needs, timeout=desk.timeout)


def _wide(server: Server, config: ServerConfig, intent: Intent, needs: set[int]) -> ServerConfig:
    """Make a server's list: what it has loaded now with its labels, and some versions besides."""
    model = intent.model
    known = sorted({*config.labels(model), *intent.labels})
    labels = {label: version for label in known if (version := server.label(model, label)) is not None}
    pinned = config.pinned(model, server.available(model) | needs)
    return _loadable(server, pinned, model).labelled(model, labels)


def _loadable(server: Server, config: ServerConfig, model: str) -> ServerConfig:
    """Leave out labels of other models whose version is not there, which a server would refuse."""
    for name in config.models:
        if name != model and (labels := config.labels(name)):
            available = server.available(name)
            config = config.labelled(name, {label: one for label, one in labels.items() if one in available})
    return config
