"""The models that are served and how that changes: the configuration, the labels, the poll of the file system."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import grpc

from dermserve.modelserver._protos import model_server_config_pb2
from dermserve.modelserver.config import check_models, check_platforms, check_transition
from dermserve.modelserver.errors import ServingError, failed_precondition, invalid_argument, stopping
from dermserve.modelserver.manager import Manager
from dermserve.modelserver.servable import Servable
from dermserve.modelserver.source import poll
from dermserve.modelserver.states import Monitor, State, forbidden_label

_logger = logging.getLogger(__name__)


class Core:
    """What the services ask: which version is meant, which states there are, serve other models from now on."""

    def __init__(self, manager: Manager, *, poll_wait_s: float, allow_unavailable_labels: bool) -> None:
        self.monitor = Monitor()
        self._manager = manager
        self._manager.subscribe(self.monitor)
        self._poll_wait_s = poll_wait_s
        self._allow_unavailable_labels = allow_unavailable_labels
        self._config = model_server_config_pb2.ModelConfigList()
        self._labels: dict[str, dict[str, int]] = {}
        self._served: Any = None
        self._reloading = threading.Lock()
        self._sources = threading.Lock()
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll_for_ever, name="poll", daemon=True)

    def start(self, models: Any, *, initial_threads: int) -> None:
        """Serve a ModelConfigList; return when each of its models has a version.

        Raises:
            ServingError: the list breaks a rule, or a version failed to load.
        """
        with self._reloading:
            self._accept(models)
            self._served = models
            self._manager.start(initial_threads=initial_threads)
            self._poller.start()
            failed = self.monitor.wait_settled(model.name for model in models.config)
            self._manager.settle()
        if failed:
            raise _unavailable("servable", failed)

    def reload(self, models: Any) -> int:
        """Serve another ModelConfigList; when each model that is new in it has a version, give how many were loaded.

        A model that never gets one holds the caller, and every later reload, until the server stops: TF Serving's way.

        Raises:
            ServingError: the list breaks a rule, a new model failed to load, or the server stops.
        """
        fresh = Monitor()
        with self._reloading, self._subscribed(fresh):
            if self._stopping.is_set():
                raise stopping()
            self._accept(models)
            known = {model.name for model in self._served.config}
            with self._sources:
                for name in known - {model.name for model in models.config}:
                    self._manager.aspire(name, {})
                self._served = models
            failed = fresh.wait_settled({model.name for model in models.config} - known)
        if failed:
            raise _unavailable("model", failed)
        return fresh.count(State.AVAILABLE)

    @contextlib.contextmanager
    def borrow(self, spec: Any) -> Iterator[tuple[int, Servable]]:
        """Lend the version that a ModelSpec means.

        Raises:
            ServingError: it names no model, an unknown label, or what is not loaded.
        """
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        version = None
        if spec.HasField("version"):
            version = spec.version.value
        elif spec.WhichOneof("version_choice") == "version_label":
            version = self._labels.get(spec.name, {}).get(spec.version_label)
            if version is None:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        with self._manager.borrow(spec.name, version=version) as lent:
            yield lent

    def let_go(self) -> None:
        """Release the reloads that wait for a version, so that the server can stop."""
        self._stopping.set()
        for monitor in self._manager.monitors:
            monitor.close()

    def stop(self) -> None:
        """Stop polling and unload everything. Calls must have ended."""
        self.let_go()
        if self._poller.is_alive():
            self._poller.join()
        self._manager.stop()

    def _accept(self, models: Any) -> None:
        """Check a list in TF Serving's order: what fails late has already replaced the list compared with next time."""
        check_models(models)
        check_transition(self._config, new=models)
        self._config = models
        self._labels = {model.name: self._resolved(model) for model in models.config}
        check_platforms(models)

    def _resolved(self, model: Any) -> dict[str, int]:
        states = self.monitor.versions(model.name)
        available = {version for version, state in states.items() if state.state is State.AVAILABLE}
        wanted = dict(model.version_labels)
        current = self._labels.get(model.name, {})
        forbidden = forbidden_label(
            wanted, current=current, available=available, allow_unavailable=self._allow_unavailable_labels
        )
        if forbidden is not None:
            raise failed_precondition(
                f"Request to assign label to version {forbidden} of model {model.name}, "
                "which is not currently available for inference"
            )
        return wanted

    @contextlib.contextmanager
    def _subscribed(self, monitor: Monitor) -> Iterator[None]:
        self._manager.subscribe(monitor)
        try:
            yield
        finally:
            self._manager.unsubscribe(monitor)

    def _poll_for_ever(self) -> None:
        while not self._stopping.is_set():
            try:
                self._poll_once()
            except ServingError as error:
                _logger.error("FileSystemStoragePathSource encountered a filesystem access error: %s", error.message)
            self._stopping.wait(self._poll_wait_s if self._poll_wait_s > 0 else None)

    def _poll_once(self) -> None:
        """Look at every model, and only then wish: one unreadable base path changes nothing for any model."""
        with self._sources:
            found = {model.name: poll(model) for model in self._served.config}
            for name, versions in found.items():
                self._manager.aspire(name, versions)


def _unavailable(what: str, failed: list[Any]) -> ServingError:
    listed = "".join(state.describe() for state in failed)
    return ServingError(grpc.StatusCode.UNKNOWN, f"{len(failed)} {what}(s) did not become available: {{{listed}}}")
