"""No request is lost while versions change under load.

Two model servers, a gateway before them, and callers that ask again and again and never retry. Meanwhile versions are
published, tried as a canary, promoted, rolled back and retired, and a server is restarted while the other serves. A
request that fails counts, and so does an answer from a version that was not live while the request was on its way.
"""

import contextlib
import dataclasses
import itertools
import json
import pathlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dermserve.client import Client, DermserveError
from dermserve.local.child import Child
from dermserve.local.stack import GATEWAY_READY
from dermserve.local.store import write_config
from dermserve.models.lifecycle import moves
from dermserve.models.lifecycle.rollout import Intent
from dermserve.models.lifecycle.server_config import CANARY_FILE, Desk
from dermserve.models.lifecycle.servers import connected
from dermserve.models.lifecycle.stores import LocalStore
from tests.drawing import draw_lesion
from tests.lifecycle.versions_at_hand import MODEL, model_server, republish
from tests.modelserver.server_process import ServerProcess

SHARE = 0.3
PAUSE = 0.5
AGAIN = 0.02
"""Seconds before a caller asks again: without, the callers alone take both cores."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request and what became of it."""

    started: float
    ended: float
    label: str | None
    version: int | None
    error: str


class Windows:
    """When each version could answer, or was the one a label meant."""

    def __init__(self) -> None:
        self._windows: dict[int, list[list[float]]] = {}

    def open(self, version: int) -> None:
        """From now on it can answer; those that could before still can."""
        windows = self._windows.setdefault(version, [])
        if not windows or windows[-1][1] < float("inf"):
            windows.append([time.monotonic(), float("inf")])

    def keep(self, *versions: int) -> None:
        """From now on no others can answer."""
        for version, windows in self._windows.items():
            if version not in versions:
                windows[-1][1] = min(windows[-1][1], time.monotonic())

    def had(self, asked: Asked) -> bool:
        """Tell whether the version that answered could do so at some time while the request was on its way."""
        windows = self._windows.get(asked.version or 0, [])
        return any(start <= asked.ended and end >= asked.started for start, end in windows)


class Callers:
    """Threads that ask and ask again, and remember: every fourth by the label `stable`, the others by none."""

    def __init__(self, address: str, count: int) -> None:
        self.asked: list[Asked] = []
        self._address, self._photo, self._stop = address, draw_lesion(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(count)]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, index: int) -> None:
        label = "stable" if index % 4 == 3 else None
        metadata = {"x-caller-key": f"caller {index}"}
        with Client(self._address, attempts=1, metadata=metadata) as client:
            for tta in itertools.cycle(("none", "adaptive", "full")):
                if self._stop.is_set():
                    return
                started, version, error = time.monotonic(), None, ""
                try:
                    version = client.classify(self._photo, model=MODEL, label=label, tta=tta).version
                except DermserveError as failure:
                    error = f"{failure.status} {failure.reason}: {failure.message}"
                self.asked.append(Asked(started, time.monotonic(), label, version, error))
                time.sleep(AGAIN)


@contextlib.contextmanager
def gateway(tfs: list[str], shares: pathlib.Path, log: Callable[[str], None]) -> Iterator[str]:
    command = [sys.executable, "-m", "dermserve.cli", "gateway", "--listen=127.0.0.1:0", f"--model={MODEL}"]
    settings = {"DERMSERVE_CANARY_FILE": str(shares), "DERMSERVE_POLL_SECONDS": "0.5"}
    command += [f"--tfs={one}" for one in tfs]
    child = Child(command, name="gateway", log=log, ready=GATEWAY_READY, env=settings)
    try:
        yield json.loads(child.wait_ready(timeout=300)[0])["address"]
    finally:
        child.stop(grace=100)


class Changer:
    """Changes versions, one step after the other, and keeps book of what is live; version 1 is the first."""

    def __init__(self, desk: Desk) -> None:
        self.live, self.stable = Windows(), Windows()
        self._desk = desk
        self._move(lambda: moves.promote(desk, MODEL, 1), opens=1, stable=1)

    def steps(self) -> Iterator[None]:
        """Change everything once; pauses where it yields."""
        desk = self._desk
        version, stable = republish(desk.store.folder), desk.read_config().labels(MODEL)["stable"]
        yield
        self._move(lambda: moves.canary(desk, MODEL, version, share=SHARE), opens=version)
        yield
        for move, now in ((moves.promote, version), (moves.rollback, stable), (moves.promote, version)):
            named = [now] if move is moves.promote else []
            self._move(lambda move=move, named=named: move(desk, MODEL, *named), opens=now, stable=now)
            yield
        moves.retire(desk, MODEL, keep=2)
        yield

    def was_live(self, asked: Asked) -> bool:
        return (self.stable if asked.label else self.live).had(asked)

    def _move(self, move: Callable[[], Intent], *, opens: int, stable: int | None = None) -> None:
        self.live.open(opens)
        if stable is not None:
            self.stable.open(stable)
        moved = move()
        self.live.keep(*moved.after.labels.values())
        self.stable.keep(moved.after.labels["stable"])


@dataclasses.dataclass
class Told:
    """The gateway's log, and which servers it ejected though they were not restarted, as where the machine stalls."""

    lines: list[str] = dataclasses.field(default_factory=list)
    ejected: list[str] = dataclasses.field(default_factory=list)
    restarting: str = ""

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if "model_server_ejected" in line and not (self.restarting and self.restarting in line):
            self.ejected.append(line)


@pytest.mark.slow
@pytest.mark.timeout(1200)  # three times
def test_callers_notice_nothing_of_any_change(small_store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for name in "abc":  # again where a stall made of a restart two faults at once
        said = Told()
        faults = _change_everything(small_store, tmp_path / name, said)
        if not (faults and said.ejected):
            break
    assert faults == [], "\n".join(said.lines)


def _change_everything(small_store: pathlib.Path, folder: pathlib.Path, said: Told) -> list[str]:
    """Change versions under load; return what callers noticed of it."""
    shutil.copytree(small_store / MODEL / "1", folder / MODEL / "1")
    write_config(folder, [MODEL])
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(model_server(folder)) for _ in range(2)]
        addresses = [server.address for server in servers]
        changer = Changer(Desk(store=LocalStore(folder), servers=stack.enter_context(connected(addresses))))
        address = stack.enter_context(gateway(addresses, folder / CANARY_FILE, said))

        def restart(server: ServerProcess, how: signal.Signals) -> None:
            said.restarting = server.address
            server.process.send_signal(how)
            server.wait_exit()
            stack.enter_context(model_server(folder, port=server.address.rpartition(":")[2]))

        with Callers(address, 8) as callers:
            restart(servers[0], signal.SIGTERM)
            for _ in changer.steps():
                time.sleep(PAUSE)
            restart(servers[1], signal.SIGKILL)
            time.sleep(PAUSE)
    faults = [one.error for one in callers.asked if one.error]
    faults += [str(one) for one in callers.asked if not one.error and not changer.was_live(one)]
    assert len(callers.asked) > 50
    assert {one.version for one in callers.asked} >= {1, 2}
    return faults
