"""The table of commands."""

import os
import platform
import sys

import click

from dermserve.cli.lazy import Entry, Extra, LazyGroup

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
