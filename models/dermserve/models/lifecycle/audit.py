"""The audit log: who changed what, when, from what, to what. Lines of JSON, only ever added."""

import datetime
import getpass
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dermserve.models.lifecycle.stores import Store

PUBLISH, PROMOTE, ROLLBACK, CANARY, RETIRE, UNPIN = "publish", "promote", "rollback", "canary", "retire", "unpin"
_WHO = "DERMSERVE_WHO"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _who() -> str:
    if name := os.environ.get(_WHO):
        return name
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in a container
        user = f"uid{os.getuid()}"
    return f"{user}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One change."""

    what: str
    """publish, promote, rollback, canary, retire or unpin."""
    model: str
    before: Any
    """What it was: a version, versions, or None."""
    after: Any
    """What it is now."""
    more: dict[str, Any] = field(default_factory=dict)
    """What else is worth knowing: a digest, servers, a share, a note."""
    who: str = field(default_factory=_who)
    """USER@HOST, or DERMSERVE_WHO from the environment."""
    when: str = field(default_factory=_now)
    """UTC, ISO 8601."""


def note(store: Store, entry: Entry) -> None:
    """Add a change to a store's log."""
    line = {"when": entry.when, "who": entry.who, "what": entry.what, "model": entry.model}
    store.append_audit(json.dumps({**line, "from": entry.before, "to": entry.after, **entry.more}))


def entries(store: Store, model: str | None = None) -> Iterator[Entry]:
    """Give the log, oldest first; of one model when it is named."""
    for line in store.audit():
        values = json.loads(line)
        if model in (None, values["model"]):
            known = {name: values.pop(name) for name in ("what", "model", "who", "when")}
            yield Entry(**known, before=values.pop("from"), after=values.pop("to"), more=values)


def former_stable(store: Store, model: str, current: int) -> int | None:
    """Tell which version was stable before this one was promoted; None when the log doesn't say."""
    found = None
    for entry in entries(store, model):
        if entry.what == PROMOTE and entry.after == current and entry.before != current:
            found = entry.before
    return found
