"""The local stand-in for TensorFlow Serving: the same gRPC services, flags, codes and messages (docs/modelserver.md).

Run it with `python -m dermserve.modelserver`. It is for laptops and tests; production runs the real thing.
"""

import sys
from collections.abc import Sequence

from dermserve.modelserver._signals import stop_signals

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the model server until SIGTERM or SIGINT; give the exit code. Call it in the main thread.

    A first signal lets the calls in flight finish (at most 30 s), a second one ends the process at once.
    """
    with stop_signals() as stop:
        # Imported here: it takes a moment, and a signal may come meanwhile.
        from dermserve.modelserver.server import run

        return run(sys.argv[1:] if argv is None else argv, stop=stop)
