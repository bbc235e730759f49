"""The table of commands, each of which is imported only when it is called, and the exit codes."""

import errno
import importlib.util
import io
import os
import pkgutil
import platform
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


_WHEELS = platform.machine() in {"x86_64", "aarch64", "arm64", "AMD64"}  # on other platforms Pillow does their work
_GATEWAY = (
    "cryptography", "grpc_health", "grpc_reflection", "grpc_status", "numpy", "PIL", "prometheus_client",
    "pydantic_settings", "structlog", *(("cykooz_resizer", "simplejpeg") if _WHEELS else ()),
    *(() if sys.platform == "win32" else ("uvloop",)),
)  # fmt: skip
_STORE = ("fsspec", "numpy", "portalocker", "prometheus_client")
_MODELS = (*_STORE, "PIL", "pydantic", "tensorflow", "tensorflow_serving")

GATEWAY = Extra("gateway", _GATEWAY)
STORE = Extra("store", _STORE)
MODELS = Extra("models", _MODELS)
TRAIN = Extra("train", tuple(sorted({*_GATEWAY, *_MODELS, "jinja2", "matplotlib", "scipy", "sklearn"})))
LOCAL = Extra("local", tuple(sorted({*_GATEWAY, *_MODELS})))

ENTRIES = {
    "classify": Entry("dermserve.cli.classify:classify", "Classify photos, or all photos of a folder."),
    "models": Entry("dermserve.cli.models:models", "List the models a gateway serves, or show one."),
    "up": Entry("dermserve.local.cli:up", "Serve the models on this machine until Ctrl-C.", LOCAL),
    "demo": Entry("dermserve.local.cli:demo", "Serve, classify one picture with both models, stop.", LOCAL),
    "gateway": Entry("dermserve.gateway.cli:gateway", "Run the gateway in front of TensorFlow Serving.", GATEWAY),
    "config": Entry("dermserve.gateway.cli:config", "Print the gateway's settings in effect, and from where.", GATEWAY),
    "doctor": Entry("dermserve.cli.reachable:doctor", "Check the gateway's settings, or a running one (--target)."),
    "proto": Entry("dermserve.cli.proto:proto", "Write the API as .proto files and descriptors."),
    "edge": Entry("dermserve.edge.cli:edge", "Write what an Envoy in front of the gateway needs."),
    "modelserver": Entry("dermserve.cli.root:modelserver", "Run the local stand-in for TensorFlow Serving.", LOCAL),
    "export": Entry("dermserve.models.export:export", "Put versions of the models into a store.", MODELS),
    "model": Entry(
        "dermserve.models.lifecycle.cli:model", "Publish, verify, promote, roll back and retire versions.", STORE
    ),
    "train": Entry("dermserve.models.training.cli:train", "Train a model on labelled photos.", TRAIN),
    "pack": Entry("dermserve.models.training.cli:pack", "Make a run's weights compact.", TRAIN),
    "evaluate": Entry(
        "dermserve.models.training.cli:evaluate", "Calibrate and measure a run; write its report.", TRAIN
    ),
    "tflite": Entry("dermserve.models.training.cli:tflite", "Convert a run to TensorFlow Lite.", TRAIN),
    "scenarios": Entry("dermserve.models.papers.cli:scenarios", "Train over the papers' grid of settings.", TRAIN),
    "backbones": Entry("dermserve.models.papers.cli:backbones", "Compare backbones on the same photos.", TRAIN),
}


@click.group(cls=LazyGroup, entries=ENTRIES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dermserve", prog_name="dermserve")
def main() -> None:
    """Skin-lesion classifiers behind TensorFlow Serving: a screening aid, never a diagnosis.

    Exit codes: 0 all answered, 1 some failed, 2 wrong usage, 3 no server, 130 interrupted.
    """


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def modelserver(flags: tuple[str, ...]) -> None:
    """Run the local stand-in for TensorFlow Serving; --help shows its flags."""
    # Read when a process starts; with more malloc arenas, frozen graphs take much more memory.
    environment = {"MALLOC_ARENA_MAX": "1", **os.environ}
    command = [sys.executable, "-m", "dermserve.modelserver", *flags]
    os.execve(command[0], command, environment)  # noqa: S606 - our own module
