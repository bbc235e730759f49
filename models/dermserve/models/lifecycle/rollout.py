"""Change a model's labels and pins on every model server and in models.config: wholly, or not at all.

TensorFlow Serving refuses a label on a version that is not AVAILABLE, and requests for a label whose version is
unloaded fail. So a change loads the new version beside the old one, moves the labels, writes models.config, and then
unloads the rest. Meanwhile its intent is in the store: if it is killed, the next command undoes it.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from dermserve.models.lifecycle.errors import LifecycleError, ServerError, StoreError
from dermserve.models.lifecycle.server_config import CONFIG, Desk, ServerConfig
from dermserve.models.lifecycle.servers import Server
from dermserve.models.lifecycle.stores import Entry, Store, entries

_Check: TypeAlias = Callable[[], None]
_Servers: TypeAlias = Iterable[Server]
INTENT = "intent.json"  # name in a store: the change that is being made; absent otherwise


@dataclass(frozen=True, slots=True)
class Served:
    """What is served of a model: labels, pins and the canary's share."""

    labels: Mapping[str, int]  # versions by label
    pins: list[int] = field(default_factory=list)  # the versions that servers load; with none, they follow the newest
    share: float = 0.0  # the canary's share of the requests without version and label

    policy: str = ""  # without pins: the rule in models.config by which servers choose, if it is not the newest

    def put_into(self, config: ServerConfig, model: str) -> ServerConfig:
        """Write this into a model's entry."""
        return config.changed(model, labels=self.labels, pins=self.pins, policy=self.policy)

    def __str__(self) -> str:
        told = [f"{label} {version}" for label, version in sorted(self.labels.items())] or map(str, self.pins)
        return (", ".join(told) or self.policy or "the newest") + f" ({self.share:g})" * bool(self.share)


@dataclass(frozen=True, slots=True)
class Intent:
    """A change that is being made."""

    entry: Entry  # its line in the audit log; `from` and `to` have the fields of Served
    before: Served
    after: Served

    @property
    def model(self) -> str:
        """The model that changes."""
        return str(self.entry["model"])

    def __str__(self) -> str:
        begun = f"begun {self.entry['when']} by {self.entry['who']}"
        return f"{self.entry['what']} of {self.model}, {self.before} → {self.after}, {begun}"


def change(desk: Desk, intent: Intent, *, check: _Check = lambda: None) -> None:
    """Make a change in a locked store; undo it if a step fails. `check` is called before a label moves."""
    after = intent.after
    desk.available(intent.model)  # all servers must answer before anything changes
    desk.store.write_text(INTENT, json.dumps(intent.entry))
    try:
        if after.share:
            # The share comes first: gateways read it, and send callers to the canary once it exists.
            desk.write_share(intent.model, after.share)
        _bring(desk, desk.servers, intent, after.put_into(desk.read_config(), intent.model), check)
        desk.write_share(intent.model, after.share)
        desk.store.append_audit(json.dumps(intent.entry))
    except BaseException as error:
        if left := _undo(desk, intent):
            desk.say(f"{left[0]}: the next command will undo the change on it")
        elif not isinstance(error, LifecycleError):
            desk.say(f"undone: {intent}")
        raise
    desk.store.remove_text(INTENT)


def recover(desk: Desk) -> None:
    """Undo the change that an earlier command left half done, if there is one, and report it."""
    intent = pending(desk.store)
    if intent is None:
        return
    if intent.entry in entries(desk.store, intent.model):
        desk.store.remove_text(INTENT)  # only this was left to do
        return
    config_map = intent.entry.get("config_map")
    if config_map != (desk.config_map and desk.config_map.base):
        how = f"with the {config_map}" if config_map else "without a ConfigMap"
        raise LifecycleError(f"half done: {intent}; a command must undo it first, run one {how}")
    desk.available(intent.model)
    if left := _undo(desk, intent):
        raise left[0]
    desk.say(f"undid what an earlier command left half done: {intent}")
    if absent := set(intent.entry.get("servers", ())) - {server.address for server in desk.servers}:
        desk.say(f"not asked, as no --tfs names them: {', '.join(sorted(absent))}")


def pending(store: Store) -> Intent | None:
    """Read the change that is being made, or was left half done. Raises StoreError: the file is not valid."""
    text = store.read_text(INTENT)
    if text is None:
        return None
    try:
        entry = json.loads(text)
        return Intent(entry, Served(**entry["from"]), Served(**entry["to"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{store.base}/{INTENT} can't be understood: {error}") from error


def _undo(desk: Desk, intent: Intent) -> list[ServerError]:
    """Restore everything. If a server could not be restored, the intent stays; returns the errors of such servers."""
    model, before, config, left = intent.model, intent.before, desk.read_config(), list[ServerError]()
    if desk.config_map:
        groups, config = [desk.servers], before.put_into(config, model)
    else:
        groups = [[server] for server in desk.servers]
        if (config.labels(model), config.pins(model)) == (intent.after.labels, intent.after.pins):
            config = before.put_into(config, model)
            desk.place.write_text(CONFIG, config.render())
    for servers in groups:
        try:
            _bring(desk, servers, intent, config)
        except ServerError as error:
            left.append(error)
    desk.write_share(model, before.share)
    if not left:
        desk.store.remove_text(INTENT)
    return left


def _bring(desk: Desk, servers: _Servers, intent: Intent, final: ServerConfig, check: _Check = lambda: None) -> None:
    """Let servers load new versions beside those that they have, then move the labels, and then unload the rest."""
    model, config = intent.model, desk.read_config()
    needs, known = final.needed(model), {*config.labels(model), *intent.before.labels, *intent.after.labels}
    loaded = needs.union(*(server.available(model) for server in servers))
    _tell(desk, servers, config.changed(model, pins=loaded))
    for server in servers:
        server.wait_available(model, needs, timeout=desk.timeout)
    check()
    _tell(desk, servers, final.changed(model, pins=loaded))
    if desk.config_map:
        labels = final.labels(model)
        for server in servers:
            server.wait_labels(model, {label: labels.get(label) for label in known}, timeout=desk.timeout)
    elif final.render() != config.render():
        desk.place.write_text(CONFIG, final.render())  # from here on, a server that restarts has the new state
    _tell(desk, servers, final)
    for server in servers if needs else ():  # the next move must not count the rest as loaded
        server.wait_only(model, needs, timeout=desk.timeout)


def _tell(desk: Desk, servers: _Servers, config: ServerConfig) -> None:
    """Write a list into the ConfigMap, or send it to each server.

    A server would refuse a label on a version that it has not loaded: such a label stays where it is there.
    """
    if desk.config_map:
        desk.place.write_text(CONFIG, config.render())
        return
    for server in servers:
        told = config
        for name in config.models:
            if labels := config.labels(name):
                loaded = server.available(name)
                there = {label: one if one in loaded else server.label(name, label) for label, one in labels.items()}
                told = told.changed(name, labels={label: one for label, one in there.items() if one is not None})
        server.reload(told.message())
