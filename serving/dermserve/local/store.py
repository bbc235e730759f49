"""Export the models that the store lacks, and write models.config for the model server."""

import errno
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Sequence

from dermserve.local.child import Child
from dermserve.local.errors import StoreError, indented
from dermserve.models.lifecycle.desk import read_shares
from dermserve.models.lifecycle.errors import LifecycleError
from dermserve.models.lifecycle.local_store import LocalStore
from dermserve.models.lifecycle.server_config import CONFIG, ServerConfig
from dermserve.models.store import versions

_GRACE = 10.0
_UNSERVED = "models.config.unserved"
"""Entries of models.config for models that are not served this time."""


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
    interrupted = threading.Event()  # once set, its output is not shown as progress
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
    # On SIGINT, as by Ctrl-C, the export removes what it was writing.
    return Child(command, name="export", log=log, env=environment, asking=signal.SIGINT)


def write_config(store: pathlib.Path, models: Sequence[str]) -> pathlib.Path:
    """Write `models.config`, TensorFlow Serving's list of models, into a store, whole or not at all.

    Labels and pinned versions stay, those of models that are not served this time in a file of their own.

    Returns:
        Its path.

    Raises:
        StoreError: it can't be written, can't be understood, or pins or labels versions that the store lacks.
    """
    held = LocalStore(store)
    try:
        if not store.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with held.locked():
            known = _read(held, CONFIG).joined(_read(held, _UNSERVED))
            served = known.served_from({name: str(store.resolve() / name) for name in models})
            for name in models:
                _check_present(held, served, name)
            held.write_text(CONFIG, served.render())
            _keep_unserved(held, known.without(models))
    except OSError as error:
        raise StoreError(f"can't write {store / CONFIG}: {error.strerror}") from error
    except LifecycleError as error:
        raise StoreError(str(error)) from error
    return store / CONFIG


def canary_shares(store: pathlib.Path, models: Sequence[str]) -> dict[str, float]:
    """Read the share of callers that `dermserve model canary` gave each of some models; models without are left out.

    Raises:
        StoreError: the file can't be understood.
    """
    try:
        shares = read_shares(LocalStore(store))
    except LifecycleError as error:
        raise StoreError(str(error)) from error
    return {model: share for model, share in shares.items() if model in models}


def _read(store: LocalStore, name: str) -> ServerConfig:
    try:
        return ServerConfig.parse(store.read_text(name), where=f"{store.base}/{name}")
    except FileNotFoundError:
        return ServerConfig()


def _keep_unserved(store: LocalStore, rest: ServerConfig) -> None:
    if rest.models:
        store.write_text(_UNSERVED, rest.render())
    else:
        (store.folder / _UNSERVED).unlink(missing_ok=True)


def _check_present(store: LocalStore, config: ServerConfig, model: str) -> None:
    """Refuse versions that the model server would never load."""
    needed = {*config.labels(model).values(), *(config.pins(model) or ())}
    lacking = sorted(needed - set(store.versions(model)))
    if lacking:
        raise StoreError(
            f"{store.base}/{CONFIG} asks for version {', '.join(map(str, lacking))} of {model}, which the store does"
            " not have: put it back, or take the model's entry out of that file to serve the newest"
        )
