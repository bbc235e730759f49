"""Locust's event handlers: options, recording, photos before the start, lost workers, and progress."""

import functools
import itertools
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import gevent
import psutil
from locust import events
from locust.runners import (
    STATE_INIT,
    STATE_MISSING,
    STATE_RUNNING,
    STATE_SPAWNING,
    STATE_STOPPED,
    MasterRunner,
    WorkerRunner,
)

from dermserve.loadtest.recorder import Recorder, quantile
from dermserve.loadtest.scenario import Scenario, ScenarioError, load_photos

RECORDER = Recorder()
"""The recorder of this process."""
_LOCK = threading.Lock()
_PREPARE, _PREPARED = "dermserve_prepare", "dermserve_prepared"
_SAY_EVERY = 5
_REPORT_SECONDS = 30


def shared_photos(folder: str | None, sides: Sequence[int]) -> list[bytes]:
    """Load photos once in this process.

    Raises:
        ScenarioError: as `load_photos` does.
    """
    with _LOCK:
        return _photos(folder, tuple(sides))


@functools.cache
def _photos(folder: str | None, sides: tuple[int, ...]) -> list[bytes]:
    # In a native thread: reading and scaling take seconds, while heartbeats and calls must continue.
    photos: list[bytes] | ScenarioError = gevent.get_hub().threadpool.apply(_photos_or_fault, (folder, sides))
    if isinstance(photos, ScenarioError):
        raise photos
    return photos


def _photos_or_fault(folder: str | None, sides: tuple[int, ...]) -> list[bytes] | ScenarioError:
    """Return an exception instead of raising it: gevent would print a traceback."""
    try:
        return load_photos(folder, sides)
    except ScenarioError as error:
        return error


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: Any) -> None:
    parser.add_argument("--result", default="", help="File to write every second's counts to.", include_in_web_ui=False)
    # In the environment, because it may hold a token, which everyone could see on a command line.
    parser.add_argument(
        "--scenario", default="", env_var="DERMSERVE_LOADTEST_SCENARIO", help="Set by dermserve-loadtest.",
        include_in_web_ui=False,
    )  # fmt: skip


@events.init.add_listener  # type: ignore[untyped-decorator]
def _record(environment: Any, runner: Any, **_: Any) -> None:
    """Record in this process, which is the only one, a worker, or the master."""
    options = environment.parsed_options
    environment.events.test_start.add_listener(lambda **_: RECORDER.clear())
    environment.events.test_stop.add_listener(lambda **_: setattr(RECORDER, "ended", time.time()))
    if not isinstance(runner, MasterRunner):
        gevent.spawn(_watch_self)
    if isinstance(runner, WorkerRunner):
        environment.events.report_to_master.add_listener(lambda data, **_: _send(runner, data))
        runner.register_message(_PREPARE, _prepare, concurrent=True)
        return
    if options.scenario:
        # Until Locust sets its own handler, which it does only when a shape has ended.
        signal.signal(signal.SIGTERM, functools.partial(_end, runner))
    if isinstance(runner, MasterRunner):
        finished = set[str]()
        runner.quit = functools.partial(_quit, runner, finished)  # type: ignore[method-assign]
        environment.events.worker_report.add_listener(functools.partial(_receive, finished))
        if options.scenario:
            try:
                _wait_for_workers(runner, options)
            except SystemExit:
                runner.quit()  # otherwise workers would try to reconnect for a minute
                raise
    elif options.scenario and (fault := _load(options.scenario)):
        raise SystemExit(fault)
    gevent.spawn(_show_progress, environment)
    if options.result:
        environment.events.quitting.add_listener(lambda **_: RECORDER.write(pathlib.Path(options.result)))


def _quit(runner: MasterRunner, finished: set[str]) -> None:
    """Wait for every worker's last report first: Locust gives them half a second, whatever calls are in flight."""
    if runner.state in {STATE_SPAWNING, STATE_RUNNING}:  # Locust calls it twice
        runner.stop(send_stop_to_client=False)
        finished.clear()
        asked = _connected(runner)
        for name in asked:
            runner.send_message("quit", client_id=name)
        with gevent.Timeout(runner.environment.stop_timeout + _REPORT_SECONDS, False):
            while asked & _connected(runner) - finished:
                gevent.sleep(0.1)
        for name in sorted(asked - finished):
            RECORDER.faults.append(f"worker {name} did not end: its last calls are missing")
    type(runner).quit(runner)


def _send(runner: WorkerRunner, data: dict[str, Any]) -> None:
    data.update(dermserve=RECORDER.drain(), dermserve_last=runner.state in {STATE_INIT, STATE_STOPPED})


def _receive(finished: set[str], client_id: str, data: dict[str, Any]) -> None:
    RECORDER.absorb(data["dermserve"])
    if data["dermserve_last"]:
        finished.add(client_id)


def _end(runner: Any, *_: object) -> None:
    """End Locust as Ctrl-C does, which writes the result; before there is any, at once."""
    if runner.state == STATE_INIT:
        raise SystemExit(130)
    hub = gevent.get_hub()  # raised here, gevent would print it
    hub.loop.run_callback(hub.parent.throw, KeyboardInterrupt)


def _load(scenario: str) -> str:
    """Load a scenario's photos, which may take longer than a test; return the error, or nothing."""
    wanted = Scenario.model_validate_json(scenario)
    try:
        shared_photos(wanted.photos, wanted.sides)
    except ScenarioError as error:
        return str(error)
    return ""


def _prepare(environment: Any, msg: Any) -> None:
    environment.runner.send_message(_PREPARED, {"fault": _load(msg.data["scenario"])})


def _wait_for_workers(runner: MasterRunner, options: Any) -> None:
    """Wait until all expected workers have connected and loaded their photos; end Locust when one can't."""
    faults: dict[str, str] = {}  # workers that have loaded their photos
    runner.register_message(_PREPARED, lambda msg, **_: faults.update({msg.node_id: msg.data["fault"]}))
    for seconds in itertools.count():
        connected = _connected(runner)
        if said := [f"worker {name} can't prepare its photos: {fault}" for name, fault in faults.items() if fault]:
            raise SystemExit("\n".join(said))
        if len(connected & set(faults)) >= options.expect_workers:
            return
        waiting = sorted(connected - set(faults))
        for name in waiting:  # repeatedly, because a worker that has just connected may not listen yet
            runner.send_message(_PREPARE, {"scenario": options.scenario}, name)
        if seconds % _SAY_EVERY == 1 and len(connected) < options.expect_workers:
            _say(f"waiting for workers: {len(connected)} of {options.expect_workers} connected")
        elif seconds % _SAY_EVERY == 1:
            _say(f"waiting for photos of: {', '.join(waiting)}")
        gevent.sleep(1)


def _connected(runner: MasterRunner) -> set[str]:
    return {client.id for client in runner.clients.all if client.state != STATE_MISSING}


def _watch_self() -> None:
    """Once a second, record this process's share of one core, and the event loop's lag."""
    process = psutil.Process()
    name = f"{socket.gethostname()}/{os.getpid()}"
    process.cpu_percent()
    while True:
        worst = 0.0
        for _ in range(10):
            before = time.perf_counter()
            gevent.sleep(0.1)
            worst = max(worst, time.perf_counter() - before - 0.1)
        RECORDER.note_generator(name, cpu=process.cpu_percent() / 100, lag=worst * 1000)


def _show_progress(environment: Any) -> None:
    """While a test runs, report lost workers, and print a line every few seconds."""
    runner = environment.runner
    seen: set[str] = set()

    def name_lost(**_: Any) -> None:
        nonlocal seen
        connected = _connected(runner) if isinstance(runner, MasterRunner) else set()
        for name in sorted(seen - connected):
            RECORDER.faults.append(f"worker {name} was lost: its last calls are missing")
            _say(RECORDER.faults[-1])
        seen = connected

    environment.events.test_stopping.add_listener(name_lost)  # Locust stops when it has lost its last worker
    for seconds in itertools.count(1):
        gevent.sleep(1)
        if runner.state in {STATE_SPAWNING, STATE_RUNNING}:
            name_lost()
            if seconds % _SAY_EVERY == 0:
                _say(_progress(runner.user_count))
        else:
            seen = set()


def _progress(users: int) -> str:
    recent = RECORDER.since(int(time.time()) - _SAY_EVERY)
    seconds, calls = time.time() - RECORDER.started, recent.statuses.total()
    errors = calls - recent.statuses["OK"]
    line = f"[{seconds:5.0f} s] {users} users, {calls / _SAY_EVERY:.1f} calls/s"
    if recent.latency:
        line += f", p50 {quantile(recent.latency, 0.5):.0f} ms, p99 {quantile(recent.latency, 0.99):.0f} ms"
    return f"{line}, {errors} errors" if errors else line


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress
