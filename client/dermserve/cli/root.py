"""The table of commands, each of which is imported only when it is called, and the exit codes."""

import contextlib
import errno
import io
import os
import pkgutil
import signal
import sys
from collections.abc import Iterator, Mapping
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
class Entry:
    """One command, before it is loaded."""

    target: str  # where to import it from: "module:attribute"
    help: str
    extra: str | None = None  # the extra of the distribution that it needs

    def load(self, name: str) -> click.Command:
        """Import the command; raise click.UsageError when its extra is not installed."""
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's messages are already in the errors
        with self.naming_extra(name):
            command = pkgutil.resolve_name(self.target)
        assert isinstance(command, click.Command)
        return command

    @contextlib.contextmanager
    def naming_extra(self, name: str) -> Iterator[None]:
        """Turn a module that is not found in the block into a click.UsageError that says what to install."""
        try:
            yield
        except ModuleNotFoundError as error:
            if self.extra is None or (error.name or "dermserve").startswith("dermserve"):
                raise
            raise click.UsageError(
                f"`{name}` needs more than the bare install (missing: {error.name}):"
                f" give pip the extra [{self.extra}], for example pip install '.[{self.extra}]' in a clone"
            ) from error


@contextlib.contextmanager
def ends_by_interrupt() -> Iterator[None]:
    """Treat SIGTERM, and SIGHUP unless `nohup` ignores it, as Ctrl-C while the block lasts."""
    numbers = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # Windows has no SIGHUP
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        return None if entry is None else entry.load(f"{ctx.command_path} {cmd_name}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])

    def invoke(self, ctx: click.Context) -> None:
        """Run the command: Ctrl-C and SIGTERM end it in order with 130, and a file that can't be used is one line."""
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if (stream := getattr(sys, name)) is None:  # closed: its number must not become that of another file
                setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # for terminals without the characters of bars
        try:
            with ends_by_interrupt():
                super().invoke(ctx)
        except ModuleNotFoundError:  # of an import that takes long, and so is done within the command
            name = ctx.invoked_subcommand or ""
            with self.entries.get(name, Entry("", "")).naming_extra(f"{ctx.command_path} {name}"):
                raise
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(Exit.INTERRUPTED) from None
        except OSError as error:
            if error.errno == errno.EPIPE:  # as in `| head`: click ends the program
                raise
            if full := error.errno in _FULL:  # discard output, which the interpreter would flush at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            name = f" {error.filename}" * bool(error.filename)
            reason = error.strerror or error
            raise click.ClickException(f"can't {'write' if full else 'use'}{name}: {reason}") from error


ENTRIES = {
    "classify": Entry("dermserve.cli.classify:classify", "Classify photos, or all photos of a folder."),
    "models": Entry("dermserve.cli.models:models", "List the models a gateway serves, or show one."),
    "up": Entry("dermserve.local.cli:up", "Serve the models on this machine until Ctrl-C.", "local"),
    "demo": Entry("dermserve.local.cli:demo", "Serve, classify one picture with both models, stop.", "local"),
    "gateway": Entry("dermserve.gateway.cli:gateway", "Run the gateway in front of TensorFlow Serving.", "gateway"),
    "config": Entry("dermserve.gateway.cli:config", "Print a gateway's settings in effect, with sources.", "gateway"),
    "doctor": Entry("dermserve.cli.reachable:doctor", "Check the gateway's settings, or a running one (--target)."),
    "proto": Entry("dermserve.cli.proto:proto", "Write the API as .proto files and descriptors."),
    "edge": Entry("dermserve.edge.cli:edge", "Write what an Envoy in front of the gateway needs.", "edge"),
    "export": Entry("dermserve.models.export:export", "Put versions of the models into a store.", "models"),
    "model": Entry("dermserve.models.lifecycle.cli:model", "Publish, promote, roll back and retire versions.", "store"),
    "train": Entry("dermserve.models.training.cli:train", "Train a model on labelled photos.", "train"),
    "pack": Entry("dermserve.models.training.cli:pack", "Make a run's weights compact.", "train"),
    "evaluate": Entry("dermserve.models.training.cli:evaluate", "Calibrate, measure and report on a run.", "train"),
    "tflite": Entry("dermserve.models.training.cli:tflite", "Convert a run to TensorFlow Lite.", "train"),
    "scenarios": Entry("dermserve.models.papers.cli:scenarios", "Train over the papers' grid of settings.", "train"),
    "backbones": Entry("dermserve.models.papers.cli:backbones", "Compare backbones on the same photos.", "train"),
}


@click.group(cls=LazyGroup, entries=ENTRIES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dermserve", prog_name="dermserve")
def main() -> None:
    """Skin-lesion classifiers behind TensorFlow Serving: a screening aid, never a diagnosis.

    Exit codes: 0 all answered, 1 some failed, 2 wrong usage, 3 no server, 130 interrupted.
    """
