"""`dermserve modelserver`: becomes `python -m dermserve.modelserver`, whose flags are TensorFlow Serving's."""

import os
import sys

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def modelserver(flags: tuple[str, ...]) -> None:
    """Run the local stand-in for TensorFlow Serving; --help shows its flags."""
    # Read when a process starts: more malloc arenas double the memory of frozen graphs.
    environment = {"MALLOC_ARENA_MAX": "1", **os.environ}
    command = [sys.executable, "-m", "dermserve.modelserver", *flags]
    os.execve(command[0], command, environment)  # noqa: S606 - our own module
