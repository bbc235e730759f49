"""A click group that imports a command only when it is called, and the exit codes."""

import errno
import importlib.util
import io
import os
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import click

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Exit(IntEnum):
    """Exit codes that scripts can rely on."""

    ANSWERED = 0  # every photo or request was answered
    FAILED = 1  # some or all of them failed
    USAGE = 2  # the command line is wrong; no request was sent. Click's own code
    NO_SERVER = 3  # no gateway answers, or its model servers do not: try again later
    INTERRUPTED = 130  # Ctrl-C, as in shells: 128 + SIGINT


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of the distribution, and how to see that it is installed."""

    name: str
    modules: tuple[str, ...]

    def missing(self) -> list[str]:
        """Name the modules that aren't there; none is imported."""
        return [module for module in self.modules if importlib.util.find_spec(module) is None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One command, before it is loaded."""

    target: str  # where to import it from: "module:attribute"
    help: str
    extra: Extra | None = None

    def load(self, name: str) -> click.Command:
        """Import the command; raise click.UsageError when its extra is not installed."""
        if self.extra is not None and (missing := self.extra.missing()):
            raise click.UsageError(
                f"`dermserve {name}` needs more than the bare install (missing: {', '.join(missing)}):"
                f" give pip the extra [{self.extra.name}], for example pip install '.[{self.extra.name}]' in a clone"
            )
        if self.extra is None:  # for clients: gRPC's messages are already in the errors
            os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        command = pkgutil.resolve_name(self.target)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A group over a table of entries."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands, in the table's order."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command; None when there is none of that name."""
        entry = self.entries.get(cmd_name)
        return None if entry is None else entry.load(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])

    def invoke(self, ctx: click.Context) -> None:
        """Run the command: Ctrl-C gives 130, and a file that can't be used is one line."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # for terminals without the characters of bars
        try:
            super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(Exit.INTERRUPTED) from None
        except OSError as error:
            if full := error.errno in _FULL:  # discard output, which the interpreter would flush at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            elif error.filename is None:
                raise
            name = f" {error.filename}" * bool(error.filename)
            raise click.ClickException(f"can't {'write' if full else 'use'}{name}: {error.strerror}") from error
