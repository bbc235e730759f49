"""The store the stack serves: built where it lacks a model, and described to the model server."""

import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from dermserve.local.child import Child
from dermserve.local.errors import StoreError, indented
from dermserve.models.store import versions

_GRACE = 10.0
_MODEL = """  config {{
    name: {name}
    base_path: {path}
    model_platform: "tensorflow"
  }}
"""


def ensure_models(store: pathlib.Path, models: Sequence[str], *, say: Callable[[str], None]) -> None:
    """Export the models that a store lacks, in a process of its own, which alone imports TensorFlow.

    Args:
        store: folder of the versioned store; made when there is none.
        models: names the store must hold.
        say: takes a line of progress.

    Raises:
        StoreError: the export failed.
    """
    lacking = [model for model in models if not versions(store, model)]
    if not lacking:
        return
    say(f"building {store}: {', '.join(lacking)}")
    interrupted = threading.Event()  # from then on, what it says is no progress
    export = _start_export(store, lacking, log=lambda line: None if interrupted.is_set() else say(line))
    try:
        code = export.wait()
    finally:
        interrupted.set()
        export.stop(grace=_GRACE)
    if code != 0:
        raise StoreError("\n".join((f"the store {store} can't be built:", *indented(export.last_lines))))


def _start_export(store: pathlib.Path, models: Sequence[str], *, log: Callable[[str], None]) -> Child:
    arguments = [argument for model in models for argument in ("--model", model)]
    command = [sys.executable, "-m", "dermserve.models.export", "--store", str(store), *arguments]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}
    # Asked to stop as Ctrl-C asks, it removes what it was writing.
    return Child(command, name="export", log=log, env=environment, asking=signal.SIGINT)


def write_config(store: pathlib.Path, models: Sequence[str]) -> pathlib.Path:
    """Write `models.config`, TensorFlow Serving's list of models, into a store, whole or not at all.

    Returns:
        Its path.

    Raises:
        StoreError: it can't be written.
    """
    path = store / "models.config"
    entries = "".join(_MODEL.format(name=_quoted(name), path=_quoted(str(store.resolve() / name))) for name in models)
    fresh = path.with_name(f".models.config.{os.getpid()}")
    try:
        fresh.write_text(f"model_config_list {{\n{entries}}}\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as error:
        raise StoreError(f"can't write {path}: {error.strerror}") from error
    return path


def _quoted(text: str) -> str:
    """Quote a string for protobuf's text format."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
