"""Export the models that the store lacks, and write models.config for the model server."""

import contextlib
import datetime
import os
import pathlib
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence

import portalocker

from dermserve.local.child import Child, StackError
from dermserve.models.catalogue import SPECS
from dermserve.models.durable import locked_file, write_durably
from dermserve.models.lifecycle.errors import LifecycleError
from dermserve.models.lifecycle.server_config import CONFIG, ServerConfig
from dermserve.models.lifecycle.stores import LocalStore

_GRACE = 10.0
_SERVED_BY = ".up"
_UNSERVED = "models.config.unserved"  # entries of models.config for models that are not served this time


@contextlib.contextmanager
def owned(store: pathlib.Path) -> Iterator[None]:
    """Lock a store while the block lasts, so that only this process writes and serves its models.config.

    The kernel releases the lock with the process. Raises StackError: another holds it, or it can't be written.
    """
    with contextlib.ExitStack() as held:
        try:
            store.mkdir(parents=True, exist_ok=True)
            file = held.enter_context(locked_file(store / _SERVED_BY))
            since = datetime.datetime.now().astimezone()
            os.truncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} since {since:%Y-%m-%d %H:%M}\n".encode())
        except portalocker.AlreadyLocked as error:
            other = (store / _SERVED_BY).read_text() or "which is just starting"
            what = f"{store} is served by another `dermserve up`, {other.strip()}"
            raise StackError(f"{what}: use that one, stop it, or choose another --store") from error
        except OSError as error:
            raise StackError(f"can't write {store}: {error.strerror}") from error
        yield


def ensure_models(store: pathlib.Path, models: Sequence[str], *, say: Callable[[str], None]) -> None:
    """Export the models that a store lacks, in a process of its own, which imports TensorFlow; or raise StackError."""
    lacking = [model for model in models if not LocalStore(store).versions(model)]
    if not lacking:
        return
    if unknown := [model for model in lacking if model not in SPECS]:
        raise StackError(f"{store} has no {', '.join(unknown)}, and only {', '.join(SPECS)} can be built")
    try:  # before TensorFlow starts, which takes seconds
        store.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=store).close()
    except OSError as error:
        raise StackError(f"can't write {store}: {error.strerror}") from error
    say(f"building {store}: {', '.join(lacking)}")
    interrupted = threading.Event()  # once set, the export's output is not printed as progress
    arguments = [argument for model in lacking for argument in ("--model", model)]
    export = Child(
        [sys.executable, "-P", "-m", "dermserve.models.export", "--store", str(store), *arguments],
        name="export",
        log=lambda line: None if interrupted.is_set() else say(line),
        env={"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"},
        asking=signal.SIGINT,  # as on Ctrl-C, the export then removes what it was writing
    )
    try:
        code = export.wait()
    finally:
        interrupted.set()
        export.stop(grace=_GRACE)
    if code != 0:
        raise export.failure(f"can't build the store {store}")


def write_config(store: pathlib.Path, models: Sequence[str], *, into: pathlib.Path | None = None) -> pathlib.Path:
    """Write `models.config` for these models, whole or not at all; return its path.

    Labels and pinned versions stay; those of models that are not served this time go to another file. With a folder
    `into` it is written there and the store is not changed. Raises StackError: it can't be written or understood, or
    needs versions that the store lacks.
    """
    held, path = LocalStore(store), (into or store) / CONFIG
    try:
        with contextlib.nullcontext() if into else held.locked():
            known = ServerConfig([*_read(held, _UNSERVED).models.values(), *_read(held, CONFIG).models.values()])
            served = known.served_from({name: str(store.resolve() / name) for name in models})
            for model in models:
                if lacking := sorted(served.needed(model) - set(held.versions(model))):
                    these = ", ".join(map(str, lacking))
                    what = f"{held.base}/{CONFIG} asks for version {these} of {model}, which the store does not have"
                    advice = "put it back, or take the model's entry out of that file to serve the newest"
                    raise StackError(f"{what}: {advice}")
            write_durably(path, served.render())
            if into is None:
                rest = ServerConfig(entry for name, entry in known.models.items() if name not in models)
                if rest.models:
                    held.write_text(_UNSERVED, rest.render())
                else:
                    (store / _UNSERVED).unlink(missing_ok=True)
    except OSError as error:
        raise StackError(f"can't write {path}: {error.strerror}") from error
    except UnicodeEncodeError as error:
        raise StackError(f"can't write {path}: base_path would not be UTF-8; choose another --store") from error
    except LifecycleError as error:
        raise StackError(str(error)) from error
    return path


def _read(store: LocalStore, name: str) -> ServerConfig:
    return ServerConfig.parse(store.read_text(name) or "", where=f"{store.base}/{name}")
