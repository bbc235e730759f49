"""What a master knows of its workers: which are connected, which have their photos ready, and which were lost."""

import sys
import time
from typing import Any

import gevent
from locust.runners import STATE_MISSING, STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner

from dermserve.loadtest.errors import PhotosError
from dermserve.loadtest.recorder import Recorder

PREPARED = "dermserve_prepared"
"""Message of a worker whose photos are ready, or can't be had."""
_INTERVAL = 1.0
_SAY_EVERY = 5.0


def prepare(runner: WorkerRunner, load: Any) -> None:
    """Load a worker's photos, which may take longer than a test, and notify the master.

    Args:
        runner: the worker's.
        load: loads the photos; does not block the event loop, as heartbeats must go on.
    """
    try:
        load()
        fault = ""
    except PhotosError as error:
        fault = str(error)
    runner.send_message(PREPARED, {"fault": fault})


class Workers:
    """The workers of one master.

    Args:
        runner: the master's.
        expected: workers to wait for before the test starts.
        recorder: takes what went wrong with workers.
    """

    def __init__(self, runner: MasterRunner, *, expected: int, recorder: Recorder) -> None:
        self._runner = runner
        self._expected = expected
        self._recorder = recorder
        self._prepared: set[str] = set()
        self.failed = False
        """Whether a worker can't prepare its photos, so that the test must not start."""
        runner.register_message(PREPARED, self._note_prepared)
        gevent.spawn(self._watch)

    def ready(self) -> bool:
        """Say whether every connected worker has its photos."""
        return self._running() <= self._prepared and bool(self._prepared)

    def waiting(self) -> str:
        """Say what the test waits for; "" when it waits for nothing."""
        connected = len(self._runner.clients.all) if not self._started() else self._expected
        if connected < self._expected:
            return f"waiting for workers: {connected} of {self._expected} connected"
        if self._started() and not self.ready() and not self.failed:
            return f"waiting for photos of: {', '.join(sorted(self._running() - self._prepared))}"
        return ""

    def _started(self) -> bool:
        return self._runner.state in {STATE_RUNNING, STATE_SPAWNING}

    def _running(self) -> set[str]:
        return {client.id for client in self._runner.clients.all if client.state != STATE_MISSING}

    def _note_prepared(self, msg: Any, **_: Any) -> None:
        self._prepared.add(msg.node_id)
        if fault := msg.data["fault"]:
            self.failed = True
            self._report(f"worker {msg.node_id} can't prepare its photos: {fault}")

    def _report(self, fault: str) -> None:
        self._recorder.note_fault(fault)
        _say(fault)

    def _watch(self) -> None:
        seen: set[str] = set()
        said = -_SAY_EVERY
        while True:
            gevent.sleep(_INTERVAL)
            if self._started():
                running = self._running()
                for name in sorted(seen - running):
                    self._report(f"worker {name} was lost: its last calls are missing")
                seen = running
            if time.monotonic() - said >= _SAY_EVERY and (line := self.waiting()):
                said = time.monotonic()
                _say(line)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress
