"""Start the servers under test, and run Locust as a process, or as a master with workers."""

import contextlib
import json
import math
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import click

from dermserve.client import Client, DermserveError
from dermserve.loadtest.machine import describe_machine, sampling
from dermserve.loadtest.result import Result
from dermserve.loadtest.scenario import LoadTestError, Scenario, ScenarioError, ServerError
from dermserve.local import Stack, StackError
from dermserve.local.child import Child, wait_serving
from dermserve.local.ports import HOST, free_port
from dermserve.local.stack import GATEWAY_READY

_LOCUSTFILE = pathlib.Path(__file__).with_name("locustfile.py")
_READY_TIMEOUT = 180.0
_CHECK_TIMEOUT = 10.0
_LOCUST_GRACE = 60.0
_CHILD_GRACE = 15.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server under test: its gateway's gRPC target and metrics, its local processes by name, its model server."""

    target: str
    metrics_url: str = ""
    pids: Mapping[str, int]
    tfs_address: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator:
    """How Locust is to run."""

    processes: int = 1
    """Generating processes on this machine; more than one get a master of their own."""
    expect_workers: int = 0
    """Workers of other machines to wait for; 0 for none."""
    bind: str = "127.0.0.1:5557"
    """HOST:PORT where workers of other machines find the master."""
    web: str | None = None
    """HOST:PORT of the web UI, which then starts and stops tests; None for none."""
    locustfile: pathlib.Path | None = None
    """The caller's locustfile; the scenario's users when None."""


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    click.echo(line, err=True)


@contextlib.contextmanager
def server_under_test(
    address: str | None, *, local: bool, store: pathlib.Path, metrics: str, models: Sequence[str]
) -> Iterator[Server]:
    """Return the gateway at an address, or run a model server and a gateway on free ports while the block lasts.

    Args:
        address: a gRPC target; None with `local`.
        local: whether to run servers of our own, with these models of this store.
        store: folder of the versioned store.
        metrics: URL of the metrics of the gateway at the address; "" for none.
        models: their names.

    Raises:
        ScenarioError: neither an address nor `local`, or both.
        ServerError: the local servers don't start.
    """
    if local == (address is not None):
        raise ScenarioError("name the gateway with --server HOST:PORT, or start one here with --local")
    if address is not None:
        yield Server(target=address, metrics_url=metrics, pids={})
        return
    listen = f"{HOST}:{free_port()}"
    flags = ("--metrics-listen", listen)
    stack = Stack(store=store, models=models, port=0, tfs_port=0, gateway_flags=flags, say=say)
    with contextlib.ExitStack() as undo:
        try:
            undo.enter_context(stack)
        except StackError as error:
            raise ServerError(str(error)) from error
        yield Server(
            target=stack.gateway_address, metrics_url=f"http://{listen}/metrics", pids=dict(stack.pids),
            tfs_address=stack.tfs_address,
        )  # fmt: skip


@contextlib.contextmanager
def more_gateways(server: Server, *, models: Sequence[str], most: int) -> Iterator[dict[int, Server]]:
    """Run up to `most` gateways in front of a server's model server while the block lasts.

    Returns:
        A server for each number of gateways, 1 to `most`; its callers use the gateways in turn.

    Raises:
        ServerError: a gateway does not start.
    """
    servers, addresses = {1: server}, [server.target]
    command = [sys.executable, "-m", "dermserve.gateway", "--listen", "127.0.0.1:0", "--tfs", server.tfs_address]
    command += [f"--model={model}" for model in models]
    with contextlib.ExitStack() as undo:
        for count in range(2, most + 1):
            child = Child(command, name="gateway", log=lambda line: None, ready=GATEWAY_READY)
            undo.callback(child.stop, grace=_CHILD_GRACE)
            try:
                address = child.wait_ready(timeout=_READY_TIMEOUT)[1]
                wait_serving(address, timeout=_READY_TIMEOUT, children=[child])
            except StackError as error:
                raise ServerError(str(error)) from error
            say(f"gateway {count} ready at {address}")
            addresses.append(address)
            pids = {**servers[count - 1].pids, f"gateway {count}": child.pid}
            servers[count] = replace(server, target=f"ipv4:{','.join(addresses)}", pids=pids)
        yield servers


def check_server(scenario: Scenario) -> None:
    """Check that a gateway answers and has the models.

    Raises:
        ServerError: it does not.
    """
    try:
        with Client(scenario.target, tls=scenario.tls, metadata=scenario.metadata, deadline=_CHECK_TIMEOUT) as client:
            known = {model.name: model.ready for model in client.models()}
    except DermserveError as error:
        raise ServerError(f"{scenario.target}: {error}; start one with `dermserve up`, or use --local") from error
    for name in sorted({part.model for part in scenario.mix}):
        if not known.get(name):
            ready = ", ".join(model for model, is_ready in known.items() if is_ready) or "none"
            raise ServerError(f"{scenario.target} can't answer with model {name}; ready: {ready}")


def run(scenario: Scenario, server: Server, generator: Generator, *, quiet: bool = False) -> Result:
    """Run one test; on KeyboardInterrupt, Locust stops, too.

    Args:
        scenario: what to send.
        server: where to.
        generator: how Locust is to run.
        quiet: for a probe of a search: do not print Locust's lines, and let an interrupt end the search, too.

    Raises:
        LoadTestError: Locust ended without a result.
    """
    about = {"scenario": scenario.public(), "machine": describe_machine()}
    with tempfile.TemporaryDirectory(prefix="dermserve-loadtest-") as scratch:
        file = pathlib.Path(scratch) / "result.json"
        with sampling(server.pids, metrics_url=server.metrics_url) as seen:
            _drive(scenario, generator, file, quiet=quiet)
        if not file.is_file():
            raise LoadTestError("Locust ended without a result; its lines above say why")
        return Result({**about, **json.loads(file.read_text()), "server": seen})


def run_worker(master: str, locustfile: pathlib.Path | None = None) -> int:
    """Run a worker for a master at HOST:PORT until it has ended; return its exit code."""
    worker = Child(_worker_command(master, locustfile), name="worker", log=say)
    try:
        return worker.wait()
    finally:
        worker.stop(grace=_CHILD_GRACE)


def _worker_command(master: str, locustfile: pathlib.Path | None) -> list[str]:
    return [*_locust(locustfile), "--worker", *_address("--master-{}", master)]


def _locust(locustfile: pathlib.Path | None) -> list[str]:
    return [sys.executable, "-m", "locust", "-f", str(locustfile or _LOCUSTFILE), "--loglevel", "ERROR"]


def _address(option: str, address: str) -> list[str]:
    host, _, port = address.rpartition(":")
    return [f"{option.format('host')}={host}", f"{option.format('port')}={port}"]


def _drive(scenario: Scenario, generator: Generator, file: pathlib.Path, *, quiet: bool) -> None:
    """Start Locust, and its workers, and wait until it has ended."""
    log: Callable[[str], None] = (lambda line: None) if quiet else say
    environment = {"DERMSERVE_LOADTEST_SCENARIO": scenario.model_dump_json(), "PYTHONUNBUFFERED": "1"}
    bind = generator.bind if generator.expect_workers else f"127.0.0.1:{free_port()}"
    # When asked to stop, Locust first finishes the calls in flight.
    grace = scenario.deadline + _LOCUST_GRACE
    with contextlib.ExitStack() as undo:
        main = Child(_main_command(scenario, generator, file, bind), name="Locust", log=log, env=environment)
        undo.callback(main.stop, grace=grace)
        for index in range(generator.processes if generator.processes > 1 else 0):
            worker = Child(
                _worker_command(bind, generator.locustfile), name=f"worker {index}", log=log, env=environment
            )
            undo.callback(worker.stop, grace=_CHILD_GRACE)
        if generator.web:
            say(f"web UI: http://{generator.web}; Ctrl-C ends it and writes the report")
        try:
            main.wait()
        except KeyboardInterrupt:
            main.stop(grace=grace)
            if quiet or not file.is_file():
                raise
            say("interrupted: the report has what was measured so far")


def _main_command(scenario: Scenario, generator: Generator, file: pathlib.Path, bind: str) -> list[str]:
    command = [*_locust(generator.locustfile), f"--host={scenario.target}", f"--result={file}"]
    command += [f"--stop-timeout={math.ceil(scenario.deadline)}", "--exit-code-on-error=0"]
    if generator.web or generator.locustfile:  # otherwise the scenario's shape sets the number of users
        command += [f"--users={scenario.peak_users}", f"--spawn-rate={scenario.peak_users}"]
        command += [f"--run-time={round(scenario.run_time)}s"]
    command += _address("--web-{}", generator.web) if generator.web else ["--headless", "--only-summary"]
    if workers := generator.expect_workers or (generator.processes if generator.processes > 1 else 0):
        command += ["--master", *_address("--master-bind-{}", bind), f"--expect-workers={workers}"]
    return command
