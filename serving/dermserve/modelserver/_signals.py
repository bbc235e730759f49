"""SIGTERM and SIGINT, taken by a thread of their own.

Python runs a handler between two steps of the main thread: a signal that comes just before that thread goes to wait is
not noticed until the wait is over, which may be never, and an exception from a handler can strike between the taking of
a lock and the `try` that gives it back. So the handler does nothing, and a thread reads the signals from a pipe, into
which Python writes them as they come (`signal.set_wakeup_fd`).
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether the process was asked to stop, and what is to be done then."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._lock = threading.Lock()
        self._calls: list[Callable[[], object]] = []

    def then(self, call: Callable[[], object]) -> None:
        """Call something, in another thread, when the process is asked to stop; at once when it was."""
        with self._lock:
            if not self.asked.is_set():
                self._calls.append(call)
                return
        call()

    def ask(self) -> None:
        """Ask to stop."""
        with self._lock:
            self.asked.set()
        for call in self._calls:
            call()


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Take SIGTERM and SIGINT while the block lasts: the first one asks to stop, a second one ends the process.

    For the main thread alone.

    Raises:
        ValueError: this is another thread.
    """
    stop = Stop()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer)
    handlers = {number: signal.signal(number, lambda number, frame: None) for number in _SIGNALS}
    watcher = threading.Thread(target=_watch, args=(stop, reader), name="signals", daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _watch(stop: Stop, reader: int) -> None:
    """Take signals until the pipe is closed."""
    while number := os.read(reader, 1):
        if number[0] not in _SIGNALS:
            continue
        if stop.asked.is_set():
            os._exit(128 + number[0])  # As a shell calls the end by a signal.
        stop.ask()
