"""One way out: what asks a program to end becomes KeyboardInterrupt, so that every `with` is left in order."""

import contextlib
import signal
from collections.abc import Iterator

_ASKING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ends_by_interrupt() -> Iterator[None]:
    """Treat SIGTERM and, unless `nohup` had it ignored, SIGHUP as Ctrl-C while the block lasts."""
    before = {number: signal.getsignal(number) for number in _ASKING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
