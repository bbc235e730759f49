"""What the commands write to stderr: lines, and progress bars."""

import functools
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

say = functools.partial(click.echo, err=True)


def track(items: Sequence[Any], what: str) -> Iterator[Any]:
    """Yield items; if stderr is a terminal, draw a progress bar beside the name of the step."""
    with click.progressbar(items, label=what, file=sys.stderr) as bar:
        yield from bar
