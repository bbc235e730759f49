"""Run beside the users: watch the load of the generating process itself, and print progress."""

import os
import socket
import sys
import time
from typing import Any

import gevent
import psutil

from dermserve.loadtest.recorder import Recorder

_NAP = 0.1
_PROGRESS = 5.0


def watch(environment: Any, recorder: Recorder, *, generates: bool, shows: bool) -> None:
    """Note how busy this process is while a test runs, and show progress.

    Args:
        environment: Locust's.
        recorder: takes the notes.
        generates: whether users run in this process.
        shows: whether to print progress on stderr; it has everyone's calls then.
    """
    running: list[Any] = []

    def begin(**_: Any) -> None:
        if generates:
            running.append(gevent.spawn(_watch_self, recorder))
        if shows:
            running.append(gevent.spawn(_show_progress, environment, recorder))

    def end(**_: Any) -> None:
        recorder.ended = time.time()
        gevent.killall(running)
        running.clear()

    environment.events.test_start.add_listener(begin)
    environment.events.test_stop.add_listener(end)


def _watch_self(recorder: Recorder) -> None:
    """Once a second: this process's share of one core, and by how much naps overran, the event loop's lateness."""
    process = psutil.Process()
    name = f"{socket.gethostname()}/{os.getpid()}"
    process.cpu_percent()
    while True:
        worst = 0.0
        for _ in range(round(1 / _NAP)):
            before = time.perf_counter()
            gevent.sleep(_NAP)
            worst = max(worst, time.perf_counter() - before - _NAP)
        recorder.note_generator(name, cpu=process.cpu_percent() / 100, lag=worst * 1000)


def _show_progress(environment: Any, recorder: Recorder) -> None:
    while True:
        gevent.sleep(_PROGRESS)
        recent = recorder.since(int(time.time() - _PROGRESS))
        errors = recent.statuses.total() - recent.statuses["OK"]
        line = f"[{time.time() - recorder.started:5.0f} s] {environment.runner.user_count} users"
        line += f", {recent.statuses.total() / _PROGRESS:.1f} calls/s"
        if recent.latency.total:
            line += f", p50 {recent.latency.quantile(0.5):.0f} ms, p99 {recent.latency.quantile(0.99):.0f} ms"
        print(f"{line}, {errors} errors" if errors else line, file=sys.stderr, flush=True)  # noqa: T201 - progress
