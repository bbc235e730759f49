"""Version changes under load, and what callers notice of them.

Two model servers, a gateway before them, and callers that never pause and never retry. Meanwhile versions are
published, tried as a canary, promoted, rolled back and retired, and each server in turn is restarted, by SIGTERM and by
SIGKILL, while the other serves. A request that fails counts, and so does an answer from a version that was not live
while the request was on its way.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from dermserve.client import Client, DermserveError, Retry
from dermserve.local.child import Child, wait_serving
from dermserve.local.picture import draw_lesion
from dermserve.local.ports import free_port
from dermserve.local.store import write_config
from dermserve.models.lifecycle import moves
from dermserve.models.lifecycle.rollout import Intent
from dermserve.models.lifecycle.server_config import Desk
from dermserve.models.lifecycle.servers import Servers
from dermserve.models.lifecycle.stores import LocalStore

_SERVER_READY = re.compile(r"Running gRPC ModelServer at (\S+):(\d+)")
_STARTING = 120.0
_PAUSE = 0.5
_SHARE = 0.3
_KEEP = 2


@dataclasses.dataclass(frozen=True)
class Asked:
    """One request and what became of it."""

    started: float
    ended: float
    label: str | None
    version: int | None
    error: str = ""


class Windows:
    """When each version could answer, or was the one a label meant."""

    def __init__(self) -> None:
        self._windows: dict[int, list[list[float]]] = {}

    def open(self, *versions: int) -> None:
        """From now on these can answer, those that could before still can."""
        for version in versions:
            windows = self._windows.setdefault(version, [])
            if not windows or windows[-1][1] < float("inf"):
                windows.append([time.monotonic(), float("inf")])

    def keep(self, *versions: int) -> None:
        """From now on no others can answer."""
        for version, windows in self._windows.items():
            if version not in versions:
                windows[-1][1] = min(windows[-1][1], time.monotonic())

    def had(self, version: int | None, asked: Asked) -> bool:
        """Tell whether a version could answer at some time while a request was on its way."""
        return any(start <= asked.ended and end >= asked.started for start, end in self._windows.get(version or 0, []))


class Callers:
    """Threads that ask and ask again, and remember."""

    def __init__(self, address: str, *, model: str, photo: bytes, count: int) -> None:
        self.asked: list[Asked] = []
        self._stop = threading.Event()
        self._address, self._model, self._photo = address, model, photo
        self._threads = [
            threading.Thread(target=self._ask, args=(index,), name=f"caller {index}") for index in range(count)
        ]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, index: int) -> None:
        """Ask as one caller: every fourth by the label `stable`, the others for whatever they are to get."""
        label = "stable" if index % 4 == 3 else None
        metadata = {"x-caller-key": f"caller {index}"}
        with Client(self._address, retry=Retry(max_attempts=1), metadata=metadata) as client:
            for tta in itertools.cycle(("none", "adaptive", "full")):
                if self._stop.is_set():
                    return
                started, version, error = time.monotonic(), None, ""
                try:
                    version = client.classify(self._photo, model=self._model, label=label, tta=tta).version
                except DermserveError as failure:
                    error = f"{failure.status.name} {failure.reason}: {failure.message}"
                self.asked.append(Asked(started, time.monotonic(), label, version, error))


class Site:
    """Two model servers and a gateway over one store."""

    def __init__(self, store: pathlib.Path, model: str, logs: pathlib.Path) -> None:
        self.store, self.model, self._logs = store, model, logs
        self._exit = contextlib.ExitStack()
        self._servers: list[Child] = []
        self.ports: list[int] = []
        self.gateway = ""

    def __enter__(self) -> "Site":
        with contextlib.ExitStack() as undo:
            undo.callback(self._stop_servers)
            for index in range(2):
                self._servers.append(self._start_server(index, port=0))
                self.ports.append(int(self._servers[index].wait_ready(timeout=_STARTING)[2]))
            settings = {"DERMSERVE_CANARY_SHARES": f"{self.model}={_SHARE}", "DERMSERVE_POLL_SECONDS": "0.5"}
            tfs = [f"--tfs={address}" for address in self.addresses]
            self.gateway = f"127.0.0.1:{free_port()}"
            command = [sys.executable, "-m", "dermserve.gateway", f"--listen={self.gateway}", f"--model={self.model}"]
            gateway = self._child("gateway", [*command, *tfs], ready=_SERVER_READY, env=settings)
            undo.callback(gateway.stop, grace=30)
            wait_serving(self.gateway, timeout=_STARTING, children=[gateway, *self._servers])
            self._exit = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    @property
    def addresses(self) -> list[str]:
        """HOST:PORT of the model servers."""
        return [f"127.0.0.1:{port}" for port in self.ports]

    def restart(self, index: int, how: signal.Signals) -> None:
        """End a model server and start it again at its port; return once it serves."""
        server = self._servers[index]
        os.kill(server.pid, how)
        server.wait()
        server.stop(grace=0)
        self._servers[index] = self._start_server(index, port=self.ports[index])
        self._servers[index].wait_ready(timeout=_STARTING)

    def _start_server(self, index: int, *, port: int) -> Child:
        flags = [f"--port={port}", f"--model_config_file={self.store / 'models.config'}"]
        flags += ["--allow_version_labels_for_unavailable_models=true", "--grpc_max_threads=64"]
        command = [sys.executable, "-m", "dermserve.modelserver", *flags]
        return self._child(f"modelserver-{index}", command, ready=_SERVER_READY, env={"MALLOC_ARENA_MAX": "1"})

    def _child(self, name: str, command: list[str], *, ready: re.Pattern[str], env: dict[str, str]) -> Child:
        path = self._logs / f"{name}.log"

        def log(line: str) -> None:
            with path.open("a") as file:
                file.write(f"{line}\n")

        return Child(command, name=name, log=log, ready=ready, env={**env, "PYTHONUNBUFFERED": "1"})

    def _stop_servers(self) -> None:
        for server in self._servers:
            server.stop(grace=30)


class Changer:
    """Changes versions, one step after the other, and keeps book of what is live."""

    def __init__(self, site: Site, desk: Desk) -> None:
        self.live, self.stable = Windows(), Windows()
        self.done: collections.Counter[str] = collections.Counter()
        self._site, self._desk = site, desk

    def begin(self) -> None:
        """Make the first version the stable one, before anybody calls."""
        moves.promote(self._desk, self._site.model, 1)
        self.live.open(1)
        self.stable.open(1)

    def cycle(self, turn: int) -> Iterator[None]:
        """Change everything once; pauses where it yields."""
        model, desk = self._site.model, self._desk
        version = self._publish()
        yield
        stable = desk.read_config().labels(model)["stable"]
        self._move("canary", lambda: moves.canary(desk, model, version, share=_SHARE), opens=version)
        yield
        self._move("promote", lambda: moves.promote(desk, model, version), opens=version, stable=version)
        yield
        self._move("rollback", lambda: moves.rollback(desk, model), opens=stable, stable=stable)
        yield
        self._move("promote", lambda: moves.promote(desk, model, version), opens=version, stable=version)
        yield
        moves.retire(desk, model, keep=_KEEP)
        self.done["retire"] += 1
        yield
        how = signal.SIGTERM if turn // 2 % 2 == 0 else signal.SIGKILL
        self._site.restart(turn % 2, how)
        self.done[f"restart by {how.name}"] += 1
        yield

    def _publish(self) -> int:
        """Publish a copy of the newest version: another export would take the load's processors away."""
        store, model = self._desk.store, self._site.model
        with store.staged(model) as staging:
            store.fetch(model, store.versions(model)[-1], staging)
            version = store.publish(staging, model)
        self.done["publish"] += 1
        return version

    def _move(self, what: str, move: Callable[[], Intent], *, opens: int, stable: int | None = None) -> None:
        self.live.open(opens)
        if stable is not None:
            self.stable.open(stable)
        moved = move()
        self.live.keep(*moved.after.labels.values())
        self.stable.keep(moved.after.labels["stable"])
        self.done[what] += 1


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run came to."""

    seconds: float
    requests: int
    failed: int
    not_live: int
    """Answers of versions that could not answer then, or that `stable` did not mean."""
    slowest_seconds: float
    versions: dict[int, int]
    """Answers by version."""
    changes: dict[str, int]
    faults: list[str]
    """The first ten."""


def run(store: pathlib.Path, *, model: str, seconds: float, callers: int, logs: pathlib.Path) -> Result:
    """Serve a store, load it, change it; for so many seconds and at least one cycle of changes."""
    write_config(store, [model])
    with Site(store, model, logs) as site, Servers(site.addresses) as servers:
        changer = Changer(site, Desk(store=LocalStore(store), servers=servers))
        changer.begin()
        started = time.monotonic()
        with Callers(site.gateway, model=model, photo=draw_lesion(), count=callers) as asking:
            for turn in itertools.count():
                for _ in changer.cycle(turn):
                    time.sleep(_PAUSE)
                if time.monotonic() - started >= seconds:
                    break
        return _result(asking.asked, changer, time.monotonic() - started)


def _result(asked: list[Asked], changer: Changer, seconds: float) -> Result:
    failed = [one for one in asked if one.error]
    wrong = [one for one in asked if not one.error and not _was_live(one, changer)]
    faults = [one.error for one in failed] + [f"version {one.version} answered {one.label or ''}" for one in wrong]
    return Result(
        seconds=round(seconds, 1),
        requests=len(asked),
        failed=len(failed),
        not_live=len(wrong),
        slowest_seconds=round(max((one.ended - one.started for one in asked), default=0.0), 2),
        versions=dict(sorted(collections.Counter(one.version for one in asked if one.version).items())),
        changes=dict(changer.done),
        faults=faults[:10],
    )


def _was_live(asked: Asked, changer: Changer) -> bool:
    return (changer.stable if asked.label else changer.live).had(asked.version, asked)
