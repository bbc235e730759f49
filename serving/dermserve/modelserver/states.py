"""The states a version goes through, who is told of them, and which version to load or unload next."""

import enum
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dermserve.modelserver.errors import ServingError, stopping


class State(enum.IntEnum):
    """What GetModelStatus says of a version; the numbers are the wire's."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionState:
    """The state of one version of a model, and the error that ended it if one did."""

    model: str
    version: int
    state: State
    error: ServingError | None = None

    def describe(self) -> str:
        """Render for the list of what did not become available."""
        why = f" due to error: {self.error}" if self.error else ""
        return "{" + f"{{name: {self.model} version: {self.version}}}{why}" + "}, "


class Monitor:
    """Remembers the last state of every version that was ever managed, and lets others wait for a state."""

    def __init__(self) -> None:
        self._states: dict[str, dict[int, VersionState]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def publish(self, state: VersionState) -> None:
        """Take note of a state."""
        with self._changed:
            self._states.setdefault(state.model, {})[state.version] = state
            self._changed.notify_all()

    def versions(self, model: str) -> dict[int, VersionState]:
        """Give the states of a model's versions, the highest version first; none of an unknown model."""
        with self._changed:
            return dict(sorted(self._states.get(model, {}).items(), reverse=True))

    def wait_settled(self, models: Iterable[str]) -> list[VersionState]:
        """Wait until each model has an AVAILABLE version, or all of its versions are at their END; give the failed.

        Waits for ever when a model has no version at all, as TF Serving does. (Of several versions TF Serving takes the
        first to settle for the model's fate; here a broken one does not outweigh a good one.)

        Raises:
            ServingError: UNAVAILABLE, the monitor was closed first.
        """
        names = set(models)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or all(self._settled(name) for name in names))
            settled = [self._settled(name) for name in sorted(names)]
        if not all(settled):
            raise stopping()
        return [state for state in settled if state and state.state is not State.AVAILABLE]

    def count(self, state: State) -> int:
        """Count the versions in a state."""
        with self._changed:
            return sum(one.state is state for versions in self._states.values() for one in versions.values())

    def close(self) -> None:
        """Let go everybody who waits: the server stops."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _settled(self, model: str) -> VersionState | None:
        states = [state for _, state in sorted(self._states.get(model, {}).items(), reverse=True)]
        available = next((state for state in states if state.state is State.AVAILABLE), None)
        ended = states[0] if states and all(state.state is State.END for state in states) else None
        return available or ended


class Phase(enum.Enum):
    """Where a version stands for the manager, in more detail than `State` tells the outside."""

    NEW = enum.auto()
    LOADING = enum.auto()
    READY = enum.auto()
    UNLOADING = enum.auto()
    ENDED = enum.auto()
    """Unloaded, or failed to load: not tried again while it stays aspired."""


@dataclass(frozen=True)
class Snapshot:
    """What the policy sees of one version."""

    version: int
    phase: Phase
    aspired: bool


@dataclass(frozen=True)
class Action:
    """Load or unload a version."""

    version: int
    load: bool


def next_action(versions: Sequence[Snapshot]) -> Action | None:
    """Choose what to do next for one model, never leaving it without a version while there is one to serve.

    Rule: a version that is no longer aspired is unloaded, the lowest first, once an aspired one is ready, or when none
    is aspired at all, or while two of them are ready. Otherwise the highest new aspired version is loaded.
    """
    aspired = [one for one in versions if one.aspired]
    surplus = sorted(one.version for one in versions if one.phase is Phase.READY and not one.aspired)
    replaced = not aspired or any(one.phase is Phase.READY for one in aspired)
    if surplus and (replaced or len(surplus) > 1):
        return Action(surplus[0], load=False)
    new = [one.version for one in aspired if one.phase is Phase.NEW]
    return Action(max(new), load=True) if new else None


def forbidden_label(
    wanted: Mapping[str, int], *, current: Mapping[str, int], available: set[int], allow_unavailable: bool
) -> int | None:
    """Give the version that a label may not point to yet, or None when all labels may be set.

    Rule: a label may only point to a version that is available. With `allow_unavailable` a label that is new, or stays
    where it is, may point anywhere; one that moves may not.
    """
    for label, version in wanted.items():
        free = allow_unavailable and current.get(label, version) == version
        if not free and version not in available:
            return version
    return None
