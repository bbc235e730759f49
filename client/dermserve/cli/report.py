"""Print answers as they arrive: JSON lines or text, and a progress bar."""

import json
import sys
from types import TracebackType
from typing import Protocol, Self

import click

from dermserve.cli.exits import Exit
from dermserve.cli.photos import shown
from dermserve.client import Answer, Unavailable, render_text

_BAR = 30


class Format(Protocol):
    """Prints one answer."""

    def __call__(self, answer: Answer) -> None:
        """Print it, whole, before returning."""


def print_json(answer: Answer) -> None:
    """Print an answer as one line of JSON, on stdout, at once."""
    if answer.error is None:
        values = {"file": answer.id, **answer.result().to_dict()}
    else:
        values = {"file": answer.id, "error": answer.error.to_dict()}
    click.echo(json.dumps(values))


def print_text(answer: Answer) -> None:
    """Print an answer as text: a prediction on stdout, an error on stderr."""
    if answer.error is None:
        click.echo(f"{shown(answer.id)}\n{render_text(answer.result())}\n")
    else:
        said = f"{answer.id}: {answer.error.message} ({answer.error.reason}: {answer.error.help})"
        click.echo(shown(said), err=True)


class Report:
    """Prints answers, counts them, and knows the exit code.

    While the block lasts, a bar stands on the last line of stderr, where that is a terminal and there is more than one
    photo to wait for.
    """

    def __init__(self, show: Format, *, total: int) -> None:
        self._show = show
        self._total = total
        self._answered = self._failed = 0
        self._unavailable = False
        self._bar = total > 1 and sys.stderr.isatty()

    def __enter__(self) -> Self:
        self._draw()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def add(self, answer: Answer) -> None:
        """Print an answer and count it."""
        self._answered += answer.error is None
        self._failed += answer.error is not None
        self._unavailable |= isinstance(answer.error, Unavailable)
        self._clear()
        self._show(answer)
        self._draw()

    @property
    def exit_code(self) -> Exit:
        """What the answers so far amount to."""
        if not self._failed:
            return Exit.ANSWERED
        return Exit.NO_SERVER if self._unavailable and not self._answered else Exit.FAILED

    def _draw(self) -> None:
        done = self._answered + self._failed
        if self._bar and done < self._total:
            full = _BAR * done // self._total
            failed = f", {self._failed} failed" if self._failed else ""
            bar = f"[{'#' * full}{'.' * (_BAR - full)}] {done} of {self._total}{failed}"
            click.echo(f"\r{bar}", nl=False, err=True)

    def _clear(self) -> None:
        if self._bar:
            click.echo("\r\x1b[K", nl=False, err=True)
