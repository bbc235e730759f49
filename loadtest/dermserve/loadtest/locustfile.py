"""The locustfile of `dermserve-loadtest` and its workers: users, shape, result file, lost workers, and progress."""

import functools
import itertools
import json
import math
import pathlib
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import click
import gevent
from locust import LoadTestShape, events, runners, stats, task
from locust.runners import MasterRunner, WorkerRunner

from dermserve.loadtest.calls import Call
from dermserve.loadtest.scenario import Scenario, Timeline
from dermserve.loadtest.users import ClassifyUser
from dermserve.local.exec_with_parent import end_with_parent
from dermserve.models.durable import write_durably

_SAY_EVERY = 5
_AFTER_FAILURE = 0.1  # seconds that a user of a closed loop pauses: a gateway that is gone fails thousands of calls/s
_REPORT_SECONDS = 30

# Locust rounds to two digits, which is 5 % of a latency, and has a point of its history every five seconds.
stats.bucket_response_time = lambda milliseconds: float(f"{milliseconds:.3g}")  # type: ignore[assignment, return-value]
stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99]
stats.HISTORY_STATS_INTERVAL_SEC = 1
# Locust takes a worker that was silent for four seconds for lost, even one that comes back.
runners.HEARTBEAT_LIVENESS = 10


@dataclass
class Test:
    """What Locust's statistics don't say of the test of this process."""

    started: float = 0.0
    counted_from: float = 0.0  # end of the warm-up, by time.perf_counter: calls that began before are not counted
    counted_to: float = math.inf  # when the last calls are due: not those due while Locust stops its users
    ended: float = 0.0
    pace: Counter[str] = field(default_factory=Counter)  # how an open loop kept its rate, as `Timeline.finish` counts
    faults: list[str] = field(default_factory=list)  # failures of workers, with which the test has failed

    def start(self, environment: Any) -> None:
        """Forget everything; a test starts now."""
        self.started, self.ended, now = time.time(), 0.0, time.perf_counter()
        plan = _scenario(environment)
        self.counted_from, self.counted_to = now + plan.warm_up, now + plan.run_time
        self.pace.clear()
        self.faults.clear()

    def stop(self) -> None:
        """Begin no more calls."""
        self.ended, self.counted_to = time.time(), min(self.counted_to, time.perf_counter())


TEST = Test()


class Caller(ClassifyUser):
    """Makes the scenario's calls. Every worker gets the scenario from the master."""

    def __init__(self, environment: Any) -> None:
        scenario = _scenario(environment)
        self.host, self.deadline, self.tls = scenario.target, scenario.deadline, scenario.tls
        self._mix, self._weights = scenario.mix, [part.weight for part in scenario.mix]
        self._rate = scenario.rate and scenario.rate / scenario.peak_users
        self._timeline: Timeline | None = None
        self._pause = 0.0
        super().__init__(environment)

    def on_start(self) -> None:
        """If there is a rate, begin this user's timeline at its own moment, and wait until the first call is due."""
        if self._rate:
            phase = random.random()  # noqa: S311 - no secret
            self._timeline = Timeline(self._rate, phase=phase, counted_from=TEST.counted_from)
            gevent.sleep(self._timeline.pause())

    def on_stop(self) -> None:
        """Count the calls that came due."""
        if self._timeline:
            TEST.pace.update(self._timeline.finish(TEST.counted_to))

    @task
    def call(self) -> None:
        """Make one call of the mix."""
        (part,) = random.choices(self._mix, self._weights)  # noqa: S311 - no secret
        if part.stream:
            self.classify_stream(part.stream, model=part.model, mode=part.mode)
        else:
            self.classify(model=part.model, mode=part.mode)

    def wait_time(self) -> float:
        """Wait until the next call is due; in a closed loop only after a call that failed."""
        return self._timeline.pause() if self._timeline else self._pause

    def take_due(self) -> float | None:
        """Take the next time of the timeline; streams, which have none, are for closed loops."""
        return self._timeline.take() if self._timeline else None

    def report(self, call: Call) -> None:
        """Report a call that began after the warm-up."""
        self._pause = 0.0 if call.status == "OK" else _AFTER_FAILURE
        if call.began >= TEST.counted_from:
            super().report(call)


class Shape(LoadTestShape):
    """Follows the scenario's shape."""

    abstract = True  # or Locust would use it with the web UI, which says how many users there are

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users now and the rate of change; None at the end."""
        assert self.runner is not None
        users = _scenario(self.runner.environment).users_at(self.get_run_time())  # type: ignore[no-untyped-call]
        return None if users is None else (users, float(users))


def _scenario(environment: Any) -> Scenario:
    return Scenario.model_validate_json(environment.parsed_options.scenario)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: Any) -> None:
    parser.add_argument("--result", help="File to write what was measured to.", include_in_web_ui=False)
    # In the environment, because it holds the client's key, which everyone could see on a command line.
    parser.add_argument(
        "--scenario", env_var="DERMSERVE_LOADTEST_SCENARIO", help="Set by dermserve-loadtest.", include_in_web_ui=False
    )


@events.init.add_listener  # type: ignore[untyped-decorator]
def _prepare(environment: Any, runner: Any, **_: Any) -> None:
    """Follow the test in this process, which is the only one, a worker, or the master."""
    environment.events.test_start.add_listener(lambda environment, **_: TEST.start(environment))
    environment.events.test_stopping.add_listener(lambda **_: TEST.stop())
    if isinstance(runner, WorkerRunner):
        end_with_parent()
        environment.events.report_to_master.add_listener(_send)
        return
    if environment.parsed_options.headless:
        environment.shape_class = Shape()  # type: ignore[no-untyped-call]
        environment.shape_class.runner = runner
    # Until Locust sets its own handler, which it does only when a shape has ended.
    signal.signal(signal.SIGTERM, lambda *_: gevent.spawn(_end, runner))
    if isinstance(runner, MasterRunner):
        runner.quit = functools.partial(_quit, runner)  # type: ignore[method-assign]
        environment.events.worker_report.add_listener(lambda data, **_: TEST.pace.update(data["dermserve_pace"]))
    gevent.spawn(_show_progress, environment)
    environment.events.quit.add_listener(lambda **_: _write(environment))


def _write(environment: Any) -> None:
    of, runner = environment.stats, environment.runner
    found = {
        "started": TEST.started,
        "ended": TEST.ended or time.time(),
        "stats": [entry.serialize() for entry in of.entries.values()],
        "errors": list(of.serialize_errors().values()),
        "history": of.history,
        "pace": {name: TEST.pace[name] for name in ("wanted", "started", "late")},
        "generator_busy": runner.cpu_warning_emitted or runner.worker_cpu_warning_emitted,
        "worker_faults": TEST.faults,
    }
    if TEST.started:
        write_durably(pathlib.Path(environment.parsed_options.result), json.dumps(found))


def _quit(runner: MasterRunner) -> None:
    """Wait until every worker has left, after its last report: Locust waits half a second, whatever is in flight."""
    if runner.state in {runners.STATE_SPAWNING, runners.STATE_RUNNING}:  # Locust calls it twice
        runner.stop(send_stop_to_client=False)
        asked = _connected(runner)
        runner.send_message("quit")
        with gevent.Timeout(runner.environment.stop_timeout + _REPORT_SECONDS, False):
            while _connected(runner):
                gevent.sleep(0.1)
        for name in sorted(asked.intersection(runner.clients)):
            TEST.faults.append(f"worker {name} did not end: its last calls are missing")
    type(runner).quit(runner)


def _send(data: dict[str, Any], **_: Any) -> None:
    data["dermserve_pace"], TEST.pace = TEST.pace, Counter()


def _end(runner: Any) -> None:
    """End Locust as Ctrl-C does, which writes the result; before there is any, tell the workers."""
    waiting = runner.state == runners.STATE_INIT
    if waiting:
        runner.quit()
    gevent.kill(gevent.get_hub().parent, SystemExit(130) if waiting else KeyboardInterrupt())


def _connected(runner: MasterRunner) -> set[str]:
    return {client.id for client in runner.clients.all if client.state != runners.STATE_MISSING}


def _show_progress(environment: Any) -> None:
    """Report lost workers, and every few seconds what is measured, or which workers a master waits for."""
    runner, options = environment.runner, environment.parsed_options
    seen: set[str] = set()

    def name_lost(**_: Any) -> None:
        nonlocal seen
        connected = _connected(runner) if isinstance(runner, MasterRunner) else set()
        for name in sorted(seen - connected):
            TEST.faults.append(f"worker {name} was lost: its last calls are missing")
            click.echo(TEST.faults[-1], err=True)
        seen = connected

    environment.events.test_stopping.add_listener(name_lost)  # Locust stops when it has lost its last worker
    for seconds in itertools.count(1):
        gevent.sleep(1)
        if runner.state in {runners.STATE_SPAWNING, runners.STATE_RUNNING}:
            name_lost()
            if seconds % _SAY_EVERY == 0:
                click.echo(_progress(runner), err=True)
        else:
            seen = set()
            if isinstance(runner, MasterRunner) and options.headless and seconds % _SAY_EVERY == 1:
                connected = len(runner.clients.ready)
                click.echo(f"waiting for workers: {connected} of {options.expect_workers} connected", err=True)


def _progress(runner: Any) -> str:
    total, seconds = runner.stats.total, time.time() - TEST.started
    rate = total.num_requests / max(1.0, time.perf_counter() - TEST.counted_from)
    line = f"[{seconds:5.0f} s] {runner.user_count} users, {rate:.1f} calls/s"
    if total.num_requests:
        p50, p99 = (total.get_response_time_percentile(share) for share in (0.5, 0.99))
        line += f", p50 {p50:.0f} ms, p99 {p99:.0f} ms, {total.num_failures} errors"
    return line
