"""Turn termination signals into KeyboardInterrupt, so that every `with` block ends in order."""

import contextlib
import queue
import signal
import time
from collections.abc import Iterator
from typing import TypeVar

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_SLICE = 0.2
_Item = TypeVar("_Item")


@contextlib.contextmanager
def ends_by_interrupt() -> Iterator[None]:
    """Treat SIGTERM, and SIGHUP unless `nohup` ignores it, as Ctrl-C while the block lasts."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def take(items: queue.SimpleQueue[_Item], *, timeout: float = float("inf")) -> _Item:
    """Take the next item of a queue; signals are handled while it waits.

    It waits in slices of 0.2 s: Python runs signal handlers between bytecodes, so a signal that arrives just before a
    long wait would not be handled until the wait is over.

    Raises:
        queue.Empty: no item came within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > _SLICE:
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=_SLICE)
    return items.get(timeout=max(left, 0))
