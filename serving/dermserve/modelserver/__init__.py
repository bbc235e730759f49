"""The local stand-in for TensorFlow Serving: the same gRPC services, flags, codes and messages (docs/modelserver.md).

Run it with `python -m dermserve.modelserver`. It is for laptops and tests; production runs the real thing.
"""

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the model server until SIGTERM or SIGINT; give the exit code."""
    # Imported here: TensorFlow's library takes a moment, and `import dermserve.modelserver` need not.
    from dermserve.modelserver.server import main as run

    return run(argv)
