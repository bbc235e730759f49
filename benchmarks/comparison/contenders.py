"""Who is compared: how each is configured, installed, started and stopped."""

import contextlib
import http.client
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

from benchmarks import networks
from dermserve.local import Stack
from dermserve.local.child import Child
from dermserve.local.ports import free_port
from dermserve.local.stack import usable_cores

ROOT = pathlib.Path(__file__).parent.parent.parent
REQUIREMENTS = pathlib.Path(__file__).with_name("requirements")
OURS, DIRECT = "dermserve", "direct"
_APPS = "benchmarks.comparison"
_START = 300.0
_GRACE = 20.0
_DOCUMENTED = "Pillow open, convert, resize; Keras {}; TensorFlow's own defaults"
_GIVEN = "dermserve.imaging; the frozen SavedModel; one TensorFlow thread an operation, oneDNN, one malloc arena"


class ContenderError(Exception):
    """A contender does not do what it should."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way to serve."""

    name: str
    title: str
    """What tables call it."""
    configuration: str
    """How it is set up, in a sentence."""
    environment: str = ""
    """Name of its environment, and of its file in requirements/; empty for this project's own."""
    command: tuple[str, ...] = ()
    """Its server's, in its environment's bin, but for --bind or --port. Empty for the local stack."""
    documented: bool = False
    """Whether it runs without anything of ours: its own decoding, and Keras's own export with variables."""


def _both(name: str, title: str, configuration: str, keras: str, command: tuple[str, ...]) -> Iterator[Contender]:
    """Make the two rows of a peer; `keras` is what its own documentation asks for an answer."""
    for suffix, documented, how, set_up in (
        ("", True, "as documented", _DOCUMENTED.format(keras)),
        ("-given", False, "given our graph and decoder", _GIVEN),
    ):
        yield Contender(
            name=name + suffix, title=f"{title}, {how}", configuration=f"{configuration}; {set_up}", environment=name,
            command=command, documented=documented,
        )  # fmt: skip


FIELD: Sequence[Contender] = (
    Contender(
        name=DIRECT,
        title="direct Predict (the floor)",
        configuration="pixels made beforehand, straight to the stand-in for TensorFlow Serving: no photo is decoded",
    ),
    Contender(
        name=OURS,
        title="dermserve",
        configuration="the gateway with its defaults before the stand-in for TensorFlow Serving, as `dermserve up`",
    ),
    *_both(
        "flask", "Flask",
        f"gunicorn, {usable_cores()} gthread workers of 4 threads", "model.predict, with weights from .h5",
        ("gunicorn", f"--workers={usable_cores()}", "--worker-class=gthread", "--threads=4", "--timeout=180",
         f"{_APPS}.flask_app:app", "--bind=127.0.0.1:PORT"),
    ),
    *_both(
        "fastapi", "FastAPI", f"{usable_cores()} uvicorn workers (uvloop, httptools)", "model.export with variables",
        ("uvicorn", f"--workers={usable_cores()}", "--log-level=warning", f"{_APPS}.fastapi_app:app", "--port=PORT"),
    ),
)  # fmt: skip


def make_environment(contender: Contender, folder: pathlib.Path) -> None:
    """Make a contender's environment from its pinned requirements, unless it is there already."""
    made = folder / contender.environment / "made-from"
    requirements = REQUIREMENTS / f"{contender.environment}.txt"
    wanted = requirements.read_text() + (REQUIREMENTS / "tensorflow.txt").read_text()
    if made.is_file() and made.read_text() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(made.parent)], check=True)
    pip = [str(made.parent / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(["nice", "-n", "10", *pip, "-r", str(requirements)], check=True)
    made.write_text(wanted)


def megabytes(pids: Sequence[int]) -> float:
    """Give the memory of processes and their children, shared pages counted once, in MB."""
    processes = [psutil.Process(pid) for pid in pids]
    family = {each for one in processes for each in (one, *one.children(recursive=True))}
    return sum(each.memory_full_info().pss for each in family) / 1e6


@contextlib.contextmanager
def running(
    contender: Contender, model: str, *, weights: pathlib.Path, environments: pathlib.Path
) -> Iterator[tuple[str, Sequence[int]]]:
    """Run a contender's server while the block lasts; gives its HOST:PORT, which answers, and its process ids.

    Raises:
        ContenderError: it does not start.
    """
    if contender.environment:
        port = free_port()
        with _server(contender, model, port, weights, environments) as child:
            _wait(child, port, contender)
            yield f"127.0.0.1:{port}", [child.pid]
        return
    # The gateway keeps its calls few; direct callers would be refused beyond four times the cores.
    flags = ("--grpc_max_threads=64",) if contender.name == DIRECT else ()
    store = weights / networks.FROZEN
    with Stack(store=store, models=[model], port=0, tfs_port=0, model_server_flags=flags) as stack:
        if contender.name == DIRECT:
            yield stack.tfs_address, [stack.pids["modelserver"]]
        else:
            yield stack.gateway_address, list(stack.pids.values())


@contextlib.contextmanager
def _server(
    contender: Contender, model: str, port: int, weights: pathlib.Path, environments: pathlib.Path
) -> Iterator[Child]:
    exported, frozen = weights / networks.EXPORTED / model, weights / networks.FROZEN / model
    newest = max((each for each in frozen.iterdir() if each.name.isdecimal()), key=lambda each: int(each.name))
    folder = environments / contender.environment / "bin"
    environment = {
        # As the gateway's model server has them.
        **({} if contender.documented else {"MALLOC_ARENA_MAX": "1", "TF_ENABLE_ONEDNN_OPTS": "1"}),
        "COMPARISON_DOCUMENTED": str(int(contender.documented)),
        "COMPARISON_SAVED_MODEL": str(exported if contender.documented else newest),
        "COMPARISON_KERAS_FILE": str(networks.weights_file(weights, model)),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "serving"))),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONUNBUFFERED": "1",
    }
    command = [str(folder / contender.command[0]), *(part.replace("PORT", str(port)) for part in contender.command[1:])]
    child = Child(command, name=contender.title, log=lambda line: None, env=environment)
    try:
        yield child
    finally:
        child.stop(grace=_GRACE)


def _wait(child: Child, port: int, contender: Contender) -> None:
    """Wait until it answers HTTP at all: that is when a worker has its model."""
    until = time.monotonic() + _START
    while time.monotonic() < until:
        if died := child.died():
            raise ContenderError(str(died))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        time.sleep(0.05)
    raise ContenderError(f"{contender.title} does not answer after {_START:.0f} s:\n" + "\n".join(child.last_lines))
