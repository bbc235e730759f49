"""Start the servers under test, and run Locust as a process, or as a master with workers."""

import contextlib
import json
import math
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import click

from dermserve.client import Client, DermserveError
from dermserve.loadtest.machine import describe_machine, sampling, scrape
from dermserve.loadtest.result import Result
from dermserve.loadtest.scenario import LoadTestError, Scenario, ScenarioError, ServerError
from dermserve.local import Stack
from dermserve.local.child import HOST, Child, free_port

# Of Locust's options those count that are given here, and none of locust.conf and pyproject.toml in some folder.
_LOCUST = (
    "import configargparse; configargparse.ArgumentParser._open_config_files = lambda *_: [];"
    "from locust.main import main; main()"
)
_LOCUSTFILE = pathlib.Path(__file__).with_name("locustfile.py")
_CHECK_TIMEOUT = 10.0
_LOCUST_GRACE = 60.0
_CHILD_GRACE = 15.0
_WORKERS_TIMEOUT = 1800  # of a master; workers prepare many large photos before they connect


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server under test: its gateway's target and metrics, and if it is local its processes by name and addresses."""

    target: str
    metrics_url: str = ""
    pids: Mapping[str, int]
    gateways: Sequence[str] = ()
    tfs_address: str = ""


def say(line: str) -> None:
    """Print a line of progress on stderr."""
    click.echo(line, err=True)


@contextlib.contextmanager
def local_server(store: pathlib.Path, models: Sequence[str], gateways: int = 1) -> Iterator[Server]:
    """Run a model server and gateways, the first with metrics, on free ports while the block lasts.

    Raises StackError: one can't start, or had ended before the block did.
    """
    listen = f"{HOST}:{free_port()}"
    stack = Stack(
        store=store, models=models, port=0, tfs_port=0, gateways=gateways, gateway_flags=("--metrics-listen", listen),
        say=say,
    )  # fmt: skip
    with stack:
        try:
            yield Server(
                target=stack.gateway_address, metrics_url=f"http://{listen}/metrics", pids=dict(stack.pids),
                gateways=stack.gateway_addresses, tfs_address=stack.tfs_address,
            )  # fmt: skip
        finally:
            stack.check()


def check_server(scenario: Scenario, server: Server) -> None:
    """Check a gateway, its metrics and models. Raises ScenarioError: the target is none; ServerError: it lacks one."""
    if server.metrics_url and scrape(server.metrics_url) is None:
        what = f"{server.metrics_url} shows no metrics"
        raise ServerError(f"{what}: name the gateway's (its setting metrics_listen), or none")
    try:
        with Client(scenario.target, tls=scenario.tls, deadline=_CHECK_TIMEOUT) as client:
            known = {model.name: model.ready for model in client.models()}
    except ValueError as error:
        raise ScenarioError(str(error)) from error
    except DermserveError as error:
        raise ServerError(f"{scenario.target}: {error}; start one with `dermserve up`, or use --local") from error
    for name in sorted({part.model for part in scenario.mix}):
        if not known.get(name):
            ready = ", ".join(model for model, is_ready in known.items() if is_ready) or "none"
            raise ServerError(f"{scenario.target} can't answer with model {name}; ready: {ready}")


def run(
    scenario: Scenario, server: Server, *, processes: int, locust: Sequence[str] = ("--headless",), quiet: bool = False
) -> Result:
    """Run one test; on KeyboardInterrupt, Locust stops, too. Raises LoadTestError: it ended without a result.

    Several `processes` get a master of their own. `locust` are further options of Locust. `quiet`, for a search, prints
    nothing, and an interrupt ends the search.
    """
    about = {"scenario": scenario.public(), "machine": describe_machine()}
    environment = _environment(scenario.photos, scenario.sides)
    environment["DERMSERVE_LOADTEST_SCENARIO"] = scenario.model_dump_json()
    # Without the web UI, the scenario's shape sets users and time instead.
    command = _locust(
        "--only-summary", f"--host={scenario.target}", f"--users={scenario.peak_users}",
        f"--spawn-rate={scenario.peak_users}", f"--run-time={math.ceil(scenario.run_time)}s",
        f"--stop-timeout={math.ceil(scenario.deadline)}", f"--expect-workers-max-wait={_WORKERS_TIMEOUT}", *locust,
    )  # fmt: skip
    if processes > 1:
        master = f"{HOST}:{free_port()}"
        command += [f"--processes={processes}"]
        command += [*address_options("--master-bind", master), *address_options("--master", master)]
    grace = scenario.deadline + _LOCUST_GRACE  # when asked to stop, Locust first finishes the calls in flight
    with contextlib.ExitStack() as undo:
        file = pathlib.Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="dermserve-loadtest-"))) / "result"
        pids = dict(server.pids)
        seen = undo.enter_context(sampling(pids, metrics_url=server.metrics_url))
        log: Callable[[str], None] = (lambda line: None) if quiet else say
        child = Child([*command, f"--result={file}"], name="generator", log=log, env=environment)
        undo.callback(child.stop, grace=grace)
        pids["generator"] = child.pid
        status = 0
        try:
            status = child.wait()
        except KeyboardInterrupt:
            child.stop(grace=grace)
            if quiet or not file.is_file():
                raise
            say("interrupted: the report has what was measured so far")
        if not file.is_file():
            raise LoadTestError(str(child.died()))
        recorded = json.loads(file.read_text())
    if status:
        recorded["worker_faults"].append(str(child.died()))
    return Result({**about, **recorded, "server": seen})


def run_worker(master: str, *, photos: str | None, sides: Sequence[int]) -> int:
    """Run a worker for a master at HOST:PORT until it has ended; return its exit code."""
    command = _locust("--worker", *address_options("--master", master))
    worker = Child(command, name="worker", log=say, env=_environment(photos, sides))
    try:
        return worker.wait()
    finally:
        worker.stop(grace=_CHILD_GRACE)


def address_options(option: str, address: str) -> list[str]:
    """Give Locust's two options of an address."""
    host, _, port = address.rpartition(":")
    return [f"{option}-host={host}", f"{option}-port={port}"]


def _environment(photos: str | None, sides: Sequence[int]) -> dict[str, str | None]:
    own = {"DERMSERVE_LOADTEST_PHOTOS": photos or "", "DERMSERVE_LOADTEST_SIDES": " ".join(map(str, sides))}
    return {**{name: None for name in os.environ if name.startswith("LOCUST_")}, **own}


def _locust(*options: str) -> list[str]:
    command = [sys.executable, "-P", "-c", _LOCUST, "-f", str(_LOCUSTFILE), "--loglevel=ERROR"]
    return [*command, "--exit-code-on-error=0", *options]  # calls that fail are counted, by the master
