"""`python -m dermserve.modelserver`: signals first, then the server."""

import os
import signal
import sys
import threading
from collections.abc import Sequence

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the model server until SIGTERM or SIGINT and return the exit code. Call it in the main thread.

    The first signal lets the calls in flight finish (at most 30 s). The second one ends the process at once.
    """
    stop = _stop_on_signals()
    # Imported here: it takes half a second, and a signal may arrive meanwhile.
    from dermserve.modelserver.server import run

    return run(sys.argv[1:] if argv is None else argv, stop=stop)


def _stop_on_signals() -> threading.Event:
    """Block the signals in all threads, and let one wait for them: a Python handler does not run during a C call."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    stop = threading.Event()

    def watch() -> None:
        signal.sigwait(_SIGNALS)
        stop.set()
        os._exit(128 + signal.sigwait(_SIGNALS))  # The exit code that a shell gives a process ended by a signal.

    threading.Thread(target=watch, name="signals", daemon=True).start()
    return stop


if __name__ == "__main__":
    sys.exit(main())
