"""Stores and servers for the tests of this folder."""

import contextlib
import pathlib
import struct
from collections.abc import Iterable, Iterator

from click.testing import CliRunner, Result

from dermserve.cli import main
from dermserve.models.lifecycle.manifest import write_manifest
from dermserve.models.lifecycle.server_config import Desk
from dermserve.models.lifecycle.stores import LocalStore, Store, open_store
from dermserve.tfserving.v1 import management_pb2
from tests.modelserver.server_process import ServerProcess, running

MODEL = "mobilenet_v3_small"
CONFIG = 'model_config_list { config { name: "m" base_path: "/models/m" } }'


def run(*arguments: object, env: dict[str, str] | None = None, **options: object) -> Result:
    """Run `dermserve model` with arguments and --options."""
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return CliRunner().invoke(main, ["model", *map(str, arguments), *named], env=env)


def make_version(folder: pathlib.Path, *, content: bytes = b"graph", model: str = "m") -> pathlib.Path:
    """A version that no server could load, but a store can hold."""
    (folder / "assets.extra").mkdir(parents=True, exist_ok=True)
    (folder / "saved_model.pb").write_bytes(content)
    (folder / "assets.extra" / "other").write_bytes(b"x" * 1000)
    write_manifest(folder, model=model, about={})
    return folder


def shares(store: Store | pathlib.Path) -> dict[str, float]:
    """The share of callers that gets each model's canary."""
    held = open_store(store) if isinstance(store, pathlib.Path) else store
    return Desk(store=held, servers=()).read_shares()


def records(logs: Iterable[management_pb2.PredictLog]) -> bytes:
    """A TFRecord file of Predict calls, with checksums that nobody reads."""
    found = [management_pb2.PredictionLog(predict_log=log).SerializeToString() for log in logs]
    return b"".join(struct.pack("<Q", len(one)) + bytes(4) + one + bytes(4) for one in found)


def republish(store: pathlib.Path, model: str = MODEL) -> int:
    """Publish version 1 of a store once more."""
    held = LocalStore(store)
    with held.staged(model) as staging:
        held.fetch(model, 1, staging)
        return held.publish(staging, model)


@contextlib.contextmanager
def model_server(store: pathlib.Path, *, port: int | str = 0) -> Iterator[ServerProcess]:
    """A real model server on the store's models.config."""
    flags = (f"--port={port}", f"--model_config_file={store / 'models.config'}", "--max_num_load_retries=0")
    with running(*flags, "--allow_version_labels_for_unavailable_models=true") as server:
        server.wait_serving()
        yield server
