"""Running Locust as processes of its own: alone, or a master with workers."""

import contextlib
import json
import math
import pathlib
import queue
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dermserve.client import Client, DermserveError
from dermserve.loadtest.errors import GeneratorError, ServerError
from dermserve.loadtest.local import Server
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.result import SCHEMA, Result
from dermserve.loadtest.sampling import Sampler
from dermserve.loadtest.scenario import Scenario
from dermserve.local.child import Child
from dermserve.local.ports import free_port
from dermserve.local.signals import take

_HERE = pathlib.Path(__file__).parent
_SPARE = 60.0
_PATIENCE = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Generator:
    """How Locust is to run."""

    processes: int = 1
    """Generating processes on this machine; more than one get a master of their own."""
    expect_workers: int = 0
    """Workers of other machines to wait for; 0 for none."""
    bind: str = "127.0.0.1:5557"
    """HOST:PORT where workers of other machines find the master."""
    web: str = ""
    """HOST:PORT of the web UI, which then starts and stops tests; "" for none."""
    locustfile: pathlib.Path | None = None
    """A file of one's own; the scenario's users when None."""


def check_server(scenario: Scenario) -> None:
    """See that a gateway answers and has the models.

    Raises:
        ServerError: it does not.
    """
    try:
        with Client(scenario.target, tls=scenario.tls, metadata=dict(scenario.metadata), deadline=_PATIENCE) as client:
            known = {model.name: model.ready for model in client.models()}
    except DermserveError as error:
        raise ServerError(f"{scenario.target}: {error}; start one with `dermserve up`, or use --local") from error
    for name in sorted({part.model for part in scenario.mix}):
        if not known.get(name):
            ready = ", ".join(model for model, is_ready in known.items() if is_ready) or "none"
            raise ServerError(f"{scenario.target} can't answer with model {name}; ready: {ready}")


def run(
    scenario: Scenario, server: Server, generator: Generator | None = None, *, say: Callable[[str], None]
) -> Result:
    """Run one test; on KeyboardInterrupt, Locust stops, too.

    Raises:
        GeneratorError: Locust ended without a result.
    """
    generator = generator or Generator()
    machine = describe_machine()
    with tempfile.TemporaryDirectory(prefix="dermserve-loadtest-") as scratch:
        file = pathlib.Path(scratch) / "result.json"
        with Sampler(pids=server.pids, metrics_url=server.metrics_url) as sampler:
            _drive(scenario, generator, file, say=say)
        if not file.is_file():
            raise GeneratorError("Locust ended without a result; its lines above say why")
        recorded: dict[str, Any] = json.loads(file.read_text())
    about = {"schema": SCHEMA, "scenario": scenario.public(), "machine": machine}
    return Result({**about, **recorded, "server": sampler.report()})


def worker_command(master: str, locustfile: pathlib.Path | None = None) -> list[str]:
    """Give the command of one worker, for a master at HOST:PORT."""
    host, _, port = master.rpartition(":")
    files = str(locustfile or _HERE / "locustfile.py")
    return [*_locust(files), "--worker", f"--master-host={host}", f"--master-port={port}"]


def _locust(files: str) -> list[str]:
    return [sys.executable, "-m", "locust", "-f", files, "--loglevel", "ERROR"]


def _drive(scenario: Scenario, generator: Generator, file: pathlib.Path, *, say: Callable[[str], None]) -> None:
    """Start Locust, and its workers, and wait until it has ended."""
    environment = {"DERMSERVE_LOADTEST_SCENARIO": scenario.to_json(), "PYTHONUNBUFFERED": "1"}
    ended: queue.SimpleQueue[Child] = queue.SimpleQueue()
    bind = generator.bind if generator.expect_workers else f"127.0.0.1:{free_port()}"
    # Locust finishes the calls in flight first, when it is asked to stop.
    grace = scenario.deadline + _SPARE
    with contextlib.ExitStack() as undo:
        main = Child(_main_command(scenario, generator, file, bind), name="Locust", log=say, env=environment)
        undo.callback(main.stop, grace=grace)
        main.on_exit(lambda: ended.put(main))
        for index in range(generator.processes if generator.processes > 1 else 0):
            worker = Child(worker_command(bind, generator.locustfile), name=f"worker {index}", log=say, env=environment)
            undo.callback(worker.stop, grace=_PATIENCE)
        if generator.web:
            say(f"web UI: http://{generator.web}; Ctrl-C ends it and writes the report")
        try:
            take(ended)
        except KeyboardInterrupt:
            main.stop(grace=grace)
            if not file.is_file():
                raise
            say("interrupted: the report has what was measured so far")
        main.wait()


def _main_command(scenario: Scenario, generator: Generator, file: pathlib.Path, bind: str) -> list[str]:
    files = str(generator.locustfile or _HERE / "locustfile.py")
    if not generator.web and generator.locustfile is None:
        files += f",{_HERE / 'shaped.py'}"
    command = [
        *_locust(files),
        f"--host={scenario.target}",
        f"--stop-timeout={math.ceil(scenario.deadline)}",
        f"--result={file}",
        "--exit-code-on-error=0",
    ]
    if generator.web:
        host, _, port = generator.web.rpartition(":")
        command += [f"--web-host={host}", f"--web-port={port}"]
    else:
        command += ["--headless", "--only-summary"]
    if generator.web or generator.locustfile is not None:
        command += [f"--users={scenario.peak_users}", f"--spawn-rate={scenario.peak_users}"]
        command += [f"--run-time={round(scenario.run_time)}s"]
    workers = generator.expect_workers + (generator.processes if generator.processes > 1 else 0)
    if workers:
        host, _, port = bind.rpartition(":")
        command += ["--master", f"--master-bind-host={host}", f"--master-bind-port={port}"]
        command += [f"--expect-workers={workers}"]
    return command
