"""Who is compared: how each is configured, installed, started, asked and stopped."""

import contextlib
import http.client
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks import networks
from benchmarks.serving import direct_caller, gateway_caller, http_caller, server_process
from dermserve.local import Stack, StackError
from dermserve.local.child import HOST, Child, free_port
from dermserve.models.catalogue import SPECS
from dermserve.models.lifecycle.stores import LocalStore
from dermserve.modelserver.flags import usable_cores

REQUIREMENTS = pathlib.Path(__file__).with_name("requirements")
OURS = "dermserve"
_ROOT = pathlib.Path(__file__).parent.parent.parent
_APPS = "benchmarks.comparison.apps"
_TIMEOUT = 300.0
_GRACE = 20.0
_DOCUMENTED = "Pillow open, convert, resize; Keras {}; TensorFlow's own defaults"
_GIVEN = "dermserve.imaging; the frozen SavedModel; one TensorFlow thread an operation, oneDNN, one malloc arena"


class ContenderError(StackError):
    """A contender does not do what it should."""


class Kind(NamedTuple):
    """A kind of call."""

    title: str
    tta: str
    views: int  # at most


ONE, TEN, ADAPTIVE = Kind("one view", "none", 1), Kind("ten views", "full", 10), Kind("ADAPTIVE", "adaptive", 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way to serve."""

    name: str
    title: str  # what tables call it
    configuration: str  # how it is set up, in a sentence
    kinds: tuple[Kind, ...]  # what it can be asked
    environment: str = ""  # name of its environment, and of its file in requirements/; empty for this project's own
    command: tuple[str, ...] = ()  # of its server, a program of its environment; empty for the local stack
    documented: bool = False  # without anything of ours: its own decoding, and Keras's own export with variables
    graph: str = ""  # of benchmarks.networks, for a model server alone, to which pixels made beforehand are sent
    flags: tuple[str, ...] = ()  # of that model server
    variables: tuple[tuple[str, str | None], ...] = ()  # its environment


def _both(name: str, title: str, configuration: str, keras: str, command: tuple[str, ...]) -> Iterator[Contender]:
    """Make the two rows of a peer; `keras` is what its own documentation asks for an answer."""
    for suffix, kinds, how, set_up in (
        ("", (ONE,), "as documented", _DOCUMENTED.format(keras)),
        ("-given", (ONE, TEN), "given our graph and decoder", _GIVEN),
    ):
        yield Contender(
            name=name + suffix, title=f"{title}, {how}", configuration=f"{configuration}; {set_up}", kinds=kinds,
            environment=name, command=command, documented=not suffix,
        )  # fmt: skip


def _alone(name: str, title: str, graph: str, *flags: str, **variables: str | None) -> Contender:
    """Make a model server without a gateway, with one malloc arena unless `variables` says otherwise."""
    set_up = " ".join([*flags, *(f"{name}={value or ''}" for name, value in variables.items())])
    return Contender(
        name=name, title=title, configuration=f"direct Predict of the graph in {graph}; {set_up or 'no flags'}",
        kinds=(ONE, TEN), graph=graph, flags=flags,
        variables=tuple({"MALLOC_ARENA_MAX": "1", **variables}.items()),
    )  # fmt: skip


_INTRA_1 = ("--tensorflow_intra_op_parallelism=1", f"--tensorflow_inter_op_parallelism={usable_cores()}")
GRAPHS: Sequence[Contender] = (
    _alone("intra-1", "frozen, intra-op 1", networks.FROZEN, *_INTRA_1),
    _alone("frozen", "frozen", networks.FROZEN),
    _alone("variables", "variables", networks.VARIABLES),
    _alone("folded", "variables, batch norm folded", networks.FOLDED),
    _alone("folded-intra-1", "variables, folded, intra-op 1", networks.FOLDED, *_INTRA_1),
    _alone("arenas", "frozen, intra-op 1, many arenas", networks.FROZEN, *_INTRA_1, MALLOC_ARENA_MAX=None),
    _alone("cold", "frozen, intra-op 1, no warm-up", networks.FROZEN, *_INTRA_1, "--enable_model_warmup=false"),
    _alone("no-onednn", "frozen, intra-op 1, no oneDNN", networks.FROZEN, *_INTRA_1, TF_ENABLE_ONEDNN_OPTS="0"),
)
"""Ways for a model server to serve the same network; the first is the one that `dermserve up` takes."""
FIELD: Sequence[Contender] = (
    _alone("direct", "direct Predict (the floor)", networks.FROZEN, *_INTRA_1),
    Contender(
        name=OURS, title="dermserve", kinds=(ONE, TEN, ADAPTIVE),
        configuration="the gateway with its defaults before the stand-in for TensorFlow Serving, as `dermserve up`",
    ),
    *_both(
        "flask", "Flask",
        f"gunicorn, {usable_cores()} gthread workers of 4 threads", "model.predict, with weights from .h5",
        ("gunicorn", f"--workers={usable_cores()}", "--worker-class=gthread", "--threads=4", "--timeout=180",
         f"{_APPS}:flask_app()", "--bind=127.0.0.1:PORT"),
    ),
    *_both(
        "fastapi", "FastAPI", f"{usable_cores()} uvicorn workers (uvloop, httptools)", "model.export with variables",
        ("uvicorn", f"--workers={usable_cores()}", "--log-level=warning", "--factory", f"{_APPS}:fastapi_app",
         "--port=PORT"),
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


@contextlib.contextmanager
def running(contender: Contender, model: str, folder: pathlib.Path) -> Iterator[tuple[str, Sequence[int]]]:
    """Run a contender's server, by `weights` and `venvs` in a folder; give its HOST:PORT and process ids."""
    weights = folder / "weights"
    if contender.environment:
        port = free_port()
        program, *arguments = (part.replace("PORT", str(port)) for part in contender.command)
        command = [str(folder / "venvs" / contender.environment / "bin" / program), *arguments]
        environment = _environment(contender, model, weights)
        child = Child(command, name=contender.title, log=lambda line: None, env=environment)
        try:
            _wait(child, port)
            yield f"{HOST}:{port}", [child.pid]
        finally:
            child.stop(grace=_GRACE)
        return
    if contender.graph:
        # The gateway keeps its calls few; direct callers would be refused beyond four times the cores.
        flags = ("--port=0", "--grpc_max_threads=64", f"--model_name={model}", *contender.flags)
        base = f"--model_base_path={weights / contender.graph / model}"
        with server_process("dermserve.modelserver", base, *flags, **dict(contender.variables)) as (pid, address):
            yield address, [pid]
        return
    with Stack(store=weights / networks.FROZEN, models=[model], port=0, tfs_port=0) as stack:
        yield stack.gateway_address, list(stack.pids.values())


def _environment(contender: Contender, model: str, weights: pathlib.Path) -> dict[str, str]:
    store = LocalStore(weights / networks.FROZEN)
    frozen = store.version_folder(model, max(store.versions(model)))
    return {
        # As the gateway's model server has them.
        **({} if contender.documented else {"MALLOC_ARENA_MAX": "1", "TF_ENABLE_ONEDNN_OPTS": "1"}),
        "COMPARISON_DOCUMENTED": str(int(contender.documented)),
        "COMPARISON_SAVED_MODEL": str(weights / networks.EXPORTED / model if contender.documented else frozen),
        "COMPARISON_KERAS_FILE": str(networks.weights_file(weights, model)),
        "PYTHONPATH": os.pathsep.join((str(_ROOT), str(_ROOT / "serving"))),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONUNBUFFERED": "1",
    }


def _wait(child: Child, port: int) -> None:
    """Wait until it answers HTTP at all, which is when a worker has its model; raise StackError if it does not."""
    until = time.monotonic() + _TIMEOUT
    while time.monotonic() < until and not child.died():
        connection = http.client.HTTPConnection(HOST, port, timeout=_TIMEOUT)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/")
            connection.getresponse().read()
            return
        time.sleep(0.05)
    raise child.failure("ended, or does not answer")


def make_caller(contender: Contender, address: str, model: str, kind: Kind) -> Callable[[bytes], list[float]]:
    """Make a caller with a connection of its own: photo bytes in, probabilities in the model's own order out."""
    if contender.graph:
        return direct_caller(address, model, kind.views)
    if contender.environment:
        post = http_caller(address, f"/classify?views={kind.views}", "image/jpeg")
        return lambda photo: [float(value) for value in json.loads(post(photo))["probabilities"]]
    call, codes = gateway_caller(address, model, kind.tta), [each.code for each in SPECS[model].classes]

    def ask(photo: bytes) -> list[float]:
        found = {each.code: each.probability for each in call(photo).classes}
        return [found[code] for code in codes]

    return ask
