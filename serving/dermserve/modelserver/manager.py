"""Loads the versions that are aspired, unloads the others, and lends the loaded ones to requests.

One thread does it, in TF Serving's order: act, forget what has ended, take the next wishes, about ten times a second.
With `num_load_threads=0` (the default) a load happens on that thread, so a version that fails and is retried holds up
every other change; that too is as in TF Serving.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from dermserve.modelserver.errors import ServingError, internal, not_found
from dermserve.modelserver.servable import Servable
from dermserve.modelserver.states import Action, Monitor, Phase, Snapshot, State, VersionState, next_action

_logger = logging.getLogger(__name__)
_INTERVAL_S = 0.1


@dataclass(frozen=True)
class LoadOptions:
    """How loading is done: threads besides the manager's own, retries after the first failure, pause between them."""

    threads: int
    retries: int
    retry_interval_s: float


@dataclass
class _Harness:
    """One version that is managed."""

    model: str
    version: int
    path: Path
    phase: Phase = Phase.NEW
    aspired: bool = True
    servable: Servable | None = None
    borrowed: int = 0
    unaspired: threading.Event = field(default_factory=threading.Event)

    def snapshot(self) -> Snapshot:
        return Snapshot(self.version, self.phase, self.aspired)


class Manager:
    """Owns every loaded version. Start it with `start`, tell it what is wanted with `aspire`."""

    def __init__(self, *, load: Callable[[str, int, Path], Servable], options: LoadOptions) -> None:
        self._load_servable = load
        self._options = options
        self._monitors: list[Monitor] = []
        self._harnesses: dict[str, dict[int, _Harness]] = {}
        self._wishes: dict[str, Mapping[int, Path]] = {}
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    def start(self, *, initial_threads: int) -> None:
        """Begin managing, with this many threads for loading until `settle` is called."""
        self._pool = ThreadPoolExecutor(initial_threads, "initial-load")
        self._thread.start()

    def settle(self) -> None:
        """End the initial phase: from now on load as the options say."""
        with self._changed:
            initial, threads = self._pool, self._options.threads
            self._pool = ThreadPoolExecutor(threads, "load") if threads else None
        if initial:
            initial.shutdown()

    def stop(self) -> None:
        """Stop managing and unload everything. Requests must have ended."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._pool:
            self._pool.shutdown()
        for model in list(self._harnesses):
            for harness in list(self._harnesses[model].values()):
                if harness.phase is Phase.READY:
                    self._unload(harness)

    @property
    def monitors(self) -> list[Monitor]:
        """Who is told of changes."""
        return list(self._monitors)

    def subscribe(self, monitor: Monitor) -> None:
        """Tell a monitor of every change from now on."""
        self._monitors.append(monitor)

    def unsubscribe(self, monitor: Monitor) -> None:
        """Stop telling a monitor."""
        self._monitors.remove(monitor)

    def aspire(self, model: str, versions: Mapping[int, Path]) -> None:
        """Wish for exactly these versions of a model, from these paths."""
        with self._changed:
            self._wishes[model] = dict(versions)

    @contextlib.contextmanager
    def borrow(self, model: str, *, version: int | None) -> Iterator[tuple[int, Servable]]:
        """Lend a loaded version, or the highest one; it is not unloaded before it is given back.

        Raises:
            ServingError: NOT_FOUND, it is not loaded.
        """
        harness = self._take(model, version=version)
        try:
            assert harness.servable is not None
            yield harness.version, harness.servable
        finally:
            with self._changed:
                harness.borrowed -= 1
                self._changed.notify_all()

    def _take(self, model: str, *, version: int | None) -> _Harness:
        with self._changed:
            ready = {
                number: harness
                for number, harness in self._harnesses.get(model, {}).items()
                if harness.phase is Phase.READY and version in {None, number}
            }
            if not ready:
                request = f"Latest({model})" if version is None else f"Specific({model}, {version})"
                raise not_found(f"Servable not found for request: {request}")
            harness = ready[max(ready)]
            harness.borrowed += 1
            return harness

    def _run(self) -> None:
        while not self._stopping.wait(_INTERVAL_S):
            while self._act():
                pass
            self._forget()
            self._take_wishes()

    def _act(self) -> bool:
        """Do one thing, an unload before a load; False when there is nothing to do."""
        actions: list[tuple[str, Action]] = []
        for model, harnesses in self._harnesses.items():
            action = next_action([harness.snapshot() for harness in harnesses.values()])
            if action:
                actions.append((model, action))
        if not actions or self._stopping.is_set():
            return False
        model, action = min(actions, key=lambda pair: pair[1].load)
        harness = self._harnesses[model][action.version]
        if action.load:
            self._start_load(harness)
        else:
            self._unload(harness)
        return True

    def _start_load(self, harness: _Harness) -> None:
        harness.phase = Phase.LOADING
        with self._changed:  # settle() must not shut the pool down between here and the submit
            pooled = self._pool.submit(self._load, harness) if self._pool else None
        if not pooled:
            self._load(harness)

    def _load(self, harness: _Harness) -> None:
        self._publish(harness, State.LOADING)
        try:
            servable = self._load_with_retries(harness)
        except ServingError as error:
            _logger.error("Servable {name: %s version: %d} cannot be loaded: %s", harness.model, harness.version, error)
            harness.phase = Phase.ENDED
            self._publish(harness, State.END, error=error)
            return
        with self._changed:
            harness.servable, harness.phase = servable, Phase.READY
        _logger.info("Successfully loaded servable version {name: %s version: %d}", harness.model, harness.version)
        self._publish(harness, State.AVAILABLE)

    def _load_with_retries(self, harness: _Harness) -> Servable:
        retry = 0
        while True:
            try:
                return self._attempt(harness)
            except ServingError as error:
                _logger.error(
                    "Loading servable: {name: %s version: %d} failed: %s", harness.model, harness.version, error
                )
                retry += 1
                if retry > self._options.retries or self._give_up(harness):
                    raise
            _logger.info("Retrying of servable {name: %s version: %d} retry: %d", harness.model, harness.version, retry)

    def _attempt(self, harness: _Harness) -> Servable:
        try:
            return self._load_servable(harness.model, harness.version, harness.path)
        except ServingError:
            raise
        except Exception as error:  # Whatever a version does, the manager must go on.
            raise internal(error) from error

    def _give_up(self, harness: _Harness) -> bool:
        """Pause before a retry; True when it is not wanted any more."""
        self._stopping.wait(max(self._options.retry_interval_s, 0))
        return self._stopping.is_set() or harness.unaspired.is_set()

    def _unload(self, harness: _Harness) -> None:
        with self._changed:
            harness.phase = Phase.UNLOADING
        self._publish(harness, State.UNLOADING)
        with self._changed:
            self._changed.wait_for(lambda: harness.borrowed == 0)
            servable, harness.servable = harness.servable, None
        try:
            if servable:
                servable.close()
        except ServingError:
            _logger.exception("Could not free {name: %s version: %d}", harness.model, harness.version)
        harness.phase = Phase.ENDED
        self._publish(harness, State.END)
        _logger.info("Done unloading servable version {name: %s version: %d}", harness.model, harness.version)

    def _forget(self) -> None:
        for harnesses in self._harnesses.values():
            for version, harness in list(harnesses.items()):
                if not harness.aspired and harness.phase in {Phase.NEW, Phase.ENDED}:
                    with self._changed:
                        del harnesses[version]

    def _take_wishes(self) -> None:
        with self._changed:
            wishes = dict(self._wishes)
        for model, versions in wishes.items():
            self._take_wish(model, versions)

    def _take_wish(self, model: str, versions: Mapping[int, Path]) -> None:
        managed = self._harnesses.setdefault(model, {})
        if any(not managed[version].aspired for version in versions if version in managed):
            return  # It is being unloaded; when that has ended it is loaded afresh.
        with self._changed:
            if self._wishes.get(model) == versions:
                del self._wishes[model]
        for version, harness in managed.items():
            if version not in versions:
                harness.aspired = False
                harness.unaspired.set()
        for version in versions.keys() - managed.keys():
            harness = _Harness(model, version, versions[version])
            with self._changed:
                managed[version] = harness
            self._publish(harness, State.START)

    def _publish(self, harness: _Harness, state: State, *, error: ServingError | None = None) -> None:
        for monitor in self.monitors:
            monitor.publish(VersionState(harness.model, harness.version, state, error))
