"""Starting and stopping a contender's server."""

import contextlib
import http.client
import os
import pathlib
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from benchmarks.comparison.field import DIRECT, OURS, ROOT, Contender
from dermserve.local import Stack
from dermserve.local.child import Child
from dermserve.local.ports import free_port

_START = 300.0
_LOOK = 0.05
_GRACE = 20.0
_LAST = 3.0


class ContenderError(Exception):
    """A contender does not do what it should."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """A server that answers."""

    address: str
    """HOST:PORT."""
    pids: tuple[int, ...]
    started: float
    """time.monotonic when it was asked to start."""

    def megabytes(self) -> float:
        """Give the memory of all its processes, shared pages counted once, in MB."""
        whole = 0.0
        for process in {each for pid in self.pids for each in _family(pid)}:
            with contextlib.suppress(psutil.Error):
                whole += process.memory_full_info().pss
        return whole / 1e6


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


@contextlib.contextmanager
def running(
    contender: Contender, model: str, *, weights: pathlib.Path, environments: pathlib.Path
) -> Iterator[Running]:
    """Run a contender's server while the block lasts; it answers HTTP or gRPC once entered.

    Raises:
        ContenderError: it does not start.
    """
    started = time.monotonic()
    if contender.name in {OURS, DIRECT}:
        with Stack(
            store=weights / "store", models=[model], port=0, tfs_port=0,
            # The gateway keeps its calls few; direct callers would be refused beyond four times the cores.
            model_server_flags=("--grpc_max_threads=64",) if contender.name == DIRECT else (),
        ) as stack:  # fmt: skip
            if contender.name == DIRECT:
                yield Running(address=stack.tfs_address, pids=(stack.pids["modelserver"],), started=started)
            else:
                yield Running(address=stack.gateway_address, pids=tuple(stack.pids.values()), started=started)
        return
    with (
        tempfile.TemporaryDirectory(prefix="cmp") as scratch,
        _server(contender, model, weights, environments, pathlib.Path(scratch)) as (child, port),
    ):
        _wait(child, port, contender)
        yield Running(address=f"127.0.0.1:{port}", pids=(child.pid,), started=started)


@contextlib.contextmanager
def _server(
    contender: Contender, model: str, weights: pathlib.Path, environments: pathlib.Path, scratch: pathlib.Path
) -> Iterator[tuple[Child, int]]:
    cores = os.cpu_count() or 1
    port = free_port()
    saved_model = weights / "exported" / model if contender.documented else _latest(weights / "store" / model)
    # As the gateway's model server has them.
    ours = {"MALLOC_ARENA_MAX": "1", "TF_ENABLE_ONEDNN_OPTS": "1"}
    environment = {
        **({} if contender.documented else ours),
        "COMPARISON_DOCUMENTED": str(int(contender.documented)),
        "COMPARISON_SAVED_MODEL": str(saved_model),
        "COMPARISON_KERAS_FILE": str(weights / f"{model}.weights.h5"),
        "COMPARISON_PORT": str(port),
        "COMPARISON_CORES": str(cores),
        "COMPARISON_SCRATCH": str(scratch),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "serving"))),
        "PATH": f"{environments / contender.environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(environments / contender.environment),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(scratch / "bentoml"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
    }
    command = contender.arguments(environments, port=port, cores=cores)
    child = Child(command, name=contender.title, log=lambda line: None, env=environment)
    try:
        yield child, port
    finally:
        # Some leave workers behind, which keep its output open, so that a stop would wait for ever.
        sweep = threading.Thread(target=_sweep, args=(_family(child.pid),), daemon=True)
        sweep.start()
        child.stop(grace=2 * _GRACE)
        sweep.join()


def _sweep(family: list[psutil.Process]) -> None:
    """Give processes time to end by themselves, and end those that don't."""
    _, alive = psutil.wait_procs(family[:1], timeout=_GRACE)
    _, alive = psutil.wait_procs(family, timeout=0 if alive else _LAST)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _wait(child: Child, port: int, contender: Contender) -> None:
    """Wait until it answers HTTP at all; contenders load their model before they do, or hold calls back until then."""
    until = time.monotonic() + _START
    while time.monotonic() < until:
        if died := child.died():
            raise ContenderError(str(died))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        except OSError:
            time.sleep(_LOOK)
        finally:
            connection.close()
    raise ContenderError(f"{contender.title} does not answer after {_START:.0f} s:\n" + "\n".join(child.last_lines))


def _latest(folder: pathlib.Path) -> pathlib.Path:
    return max((each for each in folder.iterdir() if each.name.isdigit()), key=lambda each: int(each.name))
