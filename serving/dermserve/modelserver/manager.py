"""The served models: the configuration, the labels, and the thread that loads and unloads versions.

With `num_load_threads=0` (the default) retries of a failed load block every other change, as in TensorFlow Serving.
"""

import argparse
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc

from dermserve.modelserver import versions as rules
from dermserve.modelserver.errors import ServingError, internal, invalid_argument, not_found
from dermserve.modelserver.session import Session
from dermserve.modelserver.versions import Version
from dermserve.tfserving.v1.serving_pb2 import ModelVersionStatus as Status

_logger = logging.getLogger(__name__)
_INTERVAL_S = 0.1
_NO_VERSIONS = (
    "No versions of servable %s found under base path %s. Did you forget to name your leaf directory as a number "
    "(eg. '/1/')?"
)


class Manager:
    """Owns every loaded version.

    `load` loads the version in a directory or raises a ServingError. `stop` is set when the process must stop, which
    ends every wait for a version.
    """

    def __init__(self, *, load: Callable[[Path], Session], flags: argparse.Namespace, stop: threading.Event) -> None:
        self._load_path = load
        self._flags = flags
        self._stop = stop
        self._ended = threading.Event()
        self._versions: dict[str, dict[int, Version]] = {}
        self._loads = 0
        self._checked, self._served = rules.list_models(), rules.list_models()
        self._labels: dict[str, dict[str, int]] = {}
        self._reloading = threading.Lock()
        self._changed = threading.Condition()
        self._look_at = 0.0
        self._load_in_threads = True
        self._loading: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    def start(self, models: Any) -> None:
        """Serve a ModelConfigList. Return when each model has a version; a model without one that loads is an error."""
        self._thread.start()
        self.reload(models, what="servable")
        self._load_in_threads = self._flags.num_load_threads > 0

    def reload(self, models: Any, *, what: str = "model") -> int:
        """Serve another ModelConfigList. Return the number of loads once each new model has a version.

        A model that never gets one blocks the caller, and every later reload, as in TensorFlow Serving.
        """
        with self._reloading:
            before = self._loads
            # Checked in TensorFlow Serving's order; the next list is compared with it even if a late check fails.
            rules.check_models(models, before=self._checked)
            self._checked = models
            self._labels = {model.name: self._checked_labels(model) for model in models.config}
            rules.check_platforms(models)
            known = {model.name for model in self._served.config}
            with self._changed:
                for name in known - {model.name for model in models.config}:
                    self._aspire(name, {})
                self._served, self._look_at = models, 0.0
            self._wait_settled(sorted({model.name for model in models.config} - known), what=what)
            return self._loads - before

    def stop(self) -> None:
        """Unload everything. Calls must have ended."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for thread in self._loading:
            thread.join()
        for version in [version for versions in self._versions.values() for version in versions.values()]:
            if version.state == Status.STATE_AVAILABLE:
                self._unload(version)

    def versions(self, model: str) -> list[Version]:
        """Return all versions of a model that were ever managed, the highest first; empty for an unknown model."""
        with self._changed:
            return sorted(self._versions.get(model, {}).values(), key=lambda one: -one.number)

    @contextlib.contextmanager
    def borrow(self, spec: Any) -> Iterator[tuple[int, Session]]:
        """Lend the loaded version that a ModelSpec names; it is not unloaded while the block lasts."""
        model, number = spec.name, self._number(spec)
        with self._changed:
            found = self._versions.get(model, {}).values()
            loaded = [one for one in found if one.state == Status.STATE_AVAILABLE and number in {None, one.number}]
            if not loaded:
                request = f"Latest({model})" if number is None else f"Specific({model}, {number})"
                raise not_found(f"Servable not found for request: {request}")
            version = max(loaded, key=lambda one: one.number)
            version.calls += 1
        try:
            assert version.session is not None
            yield version.number, version.session
        finally:
            with self._changed:
                version.calls -= 1
                self._changed.notify_all()

    def _number(self, spec: Any) -> int | None:
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        if spec.HasField("version"):
            return int(spec.version.value)
        if spec.WhichOneof("version_choice") != "version_label":
            return None
        labels = self._labels.get(spec.name, {})
        if spec.version_label not in labels:
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        return labels[spec.version_label]

    def _checked_labels(self, model: Any) -> dict[str, int]:
        available = {one.number for one in self.versions(model.name) if one.state == Status.STATE_AVAILABLE}
        allow = self._flags.allow_version_labels_for_unavailable_models
        current = self._labels.get(model.name, {})
        rules.check_labels(model, current=current, available=available, allow_unavailable=allow)
        return dict(model.version_labels)

    def _wait_settled(self, names: list[str], *, what: str) -> None:
        def look() -> list[Version | None]:
            return [rules.settled(self._versions.get(name, {}).values()) for name in names]

        with self._changed:
            while not all(found := look()):
                if self._stop.is_set():
                    raise ServingError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
                self._changed.wait(_INTERVAL_S)
        failed = [one for one in found if one and one.state != Status.STATE_AVAILABLE]
        if failed:
            listed = "".join(f"{{{one} due to error: {one.error}}}, " for one in failed)
            told = f"{len(failed)} {what}(s) did not become available: {{{listed}}}"
            raise ServingError(grpc.StatusCode.UNKNOWN, told)

    def _run(self) -> None:
        while not self._ended.is_set():
            if time.monotonic() >= self._look_at:
                self._look()
            while self._change_one():
                pass
            self._ended.wait(_INTERVAL_S)

    def _look(self) -> None:
        """Read every base path, then change the aspired versions. If a path is unreadable, change nothing."""
        wait_s = self._flags.file_system_poll_wait_seconds
        with self._changed:
            self._look_at = time.monotonic() + (wait_s if wait_s > 0 else float("inf"))
            models = self._served
        try:
            found = {model.name: rules.find_versions(model) for model in models.config}
        except ServingError as error:
            _logger.error("FileSystemStoragePathSource encountered a filesystem access error: %s", error.message)
            return
        for model in models.config:
            if not found[model.name]:
                _logger.warning(_NO_VERSIONS, model.name, model.base_path)
        with self._changed:
            if models is self._served:
                for name, versions in found.items():
                    self._aspire(name, versions)

    def _aspire(self, model: str, paths: Mapping[int, Path]) -> None:
        """Aspire exactly these versions. A version that had ended and reappears is loaded again."""
        managed = self._versions.setdefault(model, {})
        for number, version in managed.items():
            version.aspired = version.aspired and number in paths
        for number, path in paths.items():
            old = managed.get(number)
            if old is None or (not old.aspired and old.state in {Status.STATE_START, Status.STATE_END}):
                managed[number] = Version(model, number, path)
            else:
                old.aspired = True
        self._changed.notify_all()

    def _change_one(self) -> bool:
        """Load or unload one version, an unload first; False when there is nothing to do."""
        with self._changed:
            changes = [rules.next_change(list(versions.values())) for versions in self._versions.values()]
        due = sorted(filter(None, changes), key=lambda one: one.state != Status.STATE_AVAILABLE)
        if not due or self._ended.is_set():
            return False
        if due[0].state == Status.STATE_AVAILABLE:
            self._unload(due[0])
            return True
        self._set(due[0], Status.STATE_LOADING)
        if self._load_in_threads:
            self._loading.append(threading.Thread(target=self._load, args=(due[0],), name="load", daemon=True))
            self._loading[-1].start()
        else:
            self._load(due[0])
        return True

    def _load(self, version: Version) -> None:
        try:
            version.session = self._load_with_retries(version)
        except ServingError as error:
            _logger.error("Servable %s cannot be loaded: %s", version, error)
            version.error = error
            self._set(version, Status.STATE_END)
        else:
            _logger.info("Successfully loaded servable version %s", version)
            with self._changed:
                self._loads += 1
            self._set(version, Status.STATE_AVAILABLE)

    def _load_with_retries(self, version: Version) -> Session:
        retries_left = max(self._flags.max_num_load_retries, 0)
        while True:
            _logger.info("Loading servable version %s from %s", version, version.path)
            try:
                return self._load_path(version.path)
            except Exception as error:  # A failed version must not end the manager's thread.
                failure = error if isinstance(error, ServingError) else internal(error)
            version.failures += 1
            _logger.error("Loading servable: %s failed: %s", version, failure)
            if (
                not retries_left
                or self._ended.wait(self._flags.load_retry_interval_micros / 1e6)
                or not version.aspired
            ):
                raise failure
            retries_left -= 1

    def _unload(self, version: Version) -> None:
        self._set(version, Status.STATE_UNLOADING)
        with self._changed:
            self._changed.wait_for(lambda: version.calls == 0)
            session, version.session = version.session, None
        try:
            if session:
                session.close()
        except ServingError:
            _logger.exception("Could not free %s", version)
        self._set(version, Status.STATE_END)
        _logger.info("Done unloading servable version %s", version)

    def _set(self, version: Version, state: Status.State) -> None:
        with self._changed:
            version.state = state
            self._changed.notify_all()
