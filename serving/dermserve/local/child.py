"""Run a child process in its own session: keep its log, wait for its ready line, stop it; ports."""

import collections
import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Self

import click

_EXEC = pathlib.Path(__file__).with_name("exec_with_parent.py")
_KEPT_LINES = 20
_LARGE = 10_000_000
_TENSORFLOW = re.compile(r"[IWE]\d{4} |WARNING: All log")  # begins TensorFlow's own lines, which explain nothing
HOST = "127.0.0.1"
PAUSE = 0.1  # seconds between two looks: Python handles a signal that arrives just before a wait only after it


class StackError(click.ClickException):
    """A port is taken, a server ended or isn't ready, or the store can't be used; the message says what to do."""


class Child:
    """A running child in its own session: Ctrl-C reaches only the launcher, which stops its children in order.

    `log` takes each line that it writes, without the line's end, in a thread of its own; `ready` is the pattern of the
    line that it prints when ready. `env` is added to this process's own (None takes a variable away), and the signal
    `asking` asks it to stop.
    """

    def __init__(
        self, command: Sequence[str], *, name: str, log: Callable[[str], object], ready: re.Pattern[str] | None = None,
        env: Mapping[str, str | None] | None = None, asking: signal.Signals = signal.SIGTERM,
    ) -> None:  # fmt: skip
        self.name = name
        self._asking = asking
        self._log = log
        self._pattern = ready
        self._ready = Future[re.Match[str]]()
        self.last_lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._ended: Future[None] = Future()
        self._process = subprocess.Popen(  # noqa: S603 - the launcher's own command line
            [sys.executable, "-IS", str(_EXEC), str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env={name: value for name, value in {**os.environ, **(env or {})}.items() if value is not None},
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._pump = threading.Thread(target=self._follow, name=f"{name}-log", daemon=True)
        self._pump.start()

    def failure(self, how: str) -> StackError:
        """Make an error with the last lines that it wrote."""
        lines = "\n".join(f"  {line}" for line in tuple(self.last_lines) or ["(it logged nothing)"])
        return StackError(f"the {self.name} {how}; last log lines:\n{lines}")

    def died(self) -> StackError | None:
        """Return an error that says how it ended, once its last line is logged; None until then."""
        if not self._ended.done():
            return None
        code = self._process.wait()
        return self.failure(f"was killed by signal {-code}" if code < 0 else f"ended with status {code}")

    def wait_ready(
        self, *needed: "Child", timeout: float, tell: Callable[[str], None] | None = None, tell_after: float = 15.0
    ) -> re.Match[str]:
        """Wait for its ready line; return the match. If that takes long, `tell` gets the last line of its log.

        Raises StackError: it or a child that it needs ended, or `timeout` seconds are over.
        """
        started = time.monotonic()
        while not self._ready.done():
            if died := next(filter(None, (child.died() for child in (self, *needed))), None):
                raise died
            if (waited := time.monotonic() - started) >= timeout:
                raise self.failure(f"isn't ready after {timeout:g} s")
            if tell and waited >= tell_after:
                said = [line for line in [*self.last_lines] if not _TENSORFLOW.match(line)] or ["(none yet)"]
                tell(f"the {self.name} isn't ready after {tell_after:g} s; last log line: {said[-1]}")
                tell = None
            time.sleep(PAUSE)
        return self._ready.result()

    def wait(self) -> int:
        """Wait until it has ended and its last line is logged; return its status, negative for a signal."""
        while not self._ended.done():
            time.sleep(PAUSE)
        return self._process.wait()

    def stop(self, *, grace: float) -> None:
        """Ask it to stop; after `grace` seconds or a second signal, send SIGKILL to its whole group."""
        try:
            if self._process.poll() is None:
                self._process.send_signal(self._asking)
                self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._log(f"launcher: the {self.name} did not stop within {grace:g} s and was killed")
        finally:
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._pump.join()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in map(str.rstrip, lines):
                self.last_lines.append(line)
                with contextlib.suppress(OSError):  # stderr is closed, or the disk is full
                    self._log(line)
                if self._pattern and not self._ready.done() and (match := self._pattern.search(line)):
                    self._ready.set_result(match)
        self._process.wait()
        self._ended.set_result(None)


class InOrder:
    """Parts that are started one after the other on entry, and stopped in reverse order on exit or on an error."""

    _parts: contextlib.ExitStack

    def __enter__(self) -> Self:
        """Start it; after an error nothing is left running."""
        with contextlib.ExitStack() as parts:
            self._start(parts)
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop it."""
        self._parts.__exit__(*error)

    def _start(self, parts: contextlib.ExitStack) -> None:
        raise NotImplementedError


@contextlib.contextmanager
def child_log(path: pathlib.Path, *, say: Callable[[str], object]) -> Iterator[Callable[[str], object]]:
    """Append lines to a file, after renaming one over 10 MB, or show them on stderr when it can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LARGE:
            path.replace(path.with_suffix(".log.old"))
        file = path.open("ab", buffering=0)  # what could not be written is not tried again when it is closed
    except OSError as error:
        say(f"the {path.stem}'s log is shown here: {path} can't be written ({error.strerror})")
        yield lambda line: print(f"[{path.stem}] {line}", file=sys.stderr, flush=True)  # noqa: T201
    else:
        with file:
            yield lambda line: file.write(f"{line}\n".encode())


def free_port() -> int:
    """Choose a free loopback port, for a server whose port must be known before it starts."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_free(port: int, *, option: str) -> None:
    """Raise StackError, naming an option, if something listens on a port of the loopback: gRPC may not report it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections in TIME_WAIT
        try:
            probe.bind((HOST, port))
        except OSError as error:
            what = f"port {port} is in use: stop what listens there"
            raise StackError(f"{what}, or choose another with {option} (0: any free)") from error


def no_proxy(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `no_proxy` and `NO_PROXY` for a child: this process's own, and the loopback."""
    known = environment.get("no_proxy") or environment.get("NO_PROXY")
    both = ",".join(filter(None, (known, "127.0.0.1,localhost,::1")))
    return {"no_proxy": both, "NO_PROXY": both}
