"""The `dermserve` command. Importing it imports no command: each is loaded when it is called."""

from dermserve.cli.root import main

__all__ = ["main"]
