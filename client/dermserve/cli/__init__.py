"""The `dermserve` command. Importing it imports no command: each is loaded when it is called."""

try:
    from dermserve.cli.root import main
except KeyboardInterrupt:  # Ctrl-C at once: as later, without a traceback
    raise SystemExit(130) from None

__all__ = ["main"]
