import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.modelserver import golden, server_process

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def recordings() -> pathlib.Path:
    return HERE / "recordings"


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """The folder of each script's models; one process writes both, because importing TensorFlow takes longest."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("recorded_models", "small_models")}
    arguments = [part for name, folder in folders.items() for part in (HERE / f"{name}.py", folder)]
    subprocess.run([sys.executable, "-c", RUN_ALL, *arguments], check=True, capture_output=True, timeout=300)
    return folders


RUN_ALL = """
import runpy, sys
for script, folder in list(zip(sys.argv[1::2], sys.argv[2::2])):
    sys.argv = [script, folder]
    runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="session")
def golden_models(written: dict[str, pathlib.Path]) -> pathlib.Path:
    """The small models that were served when the cases were recorded, made anew."""
    if "DERMSERVE_TFS_ADDRESS" in os.environ:
        pytest.skip("starts servers of its own; DERMSERVE_TFS_ADDRESS asks for the calls to that one alone")
    return written["recorded_models"]


@pytest.fixture(scope="session")
def golden_server(
    recordings: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[server_process.Caller]:
    """The server of recordings 01 to 03: the stand-in, or the one at DERMSERVE_TFS_ADDRESS."""
    if "DERMSERVE_TFS_ADDRESS" in os.environ:
        with server_process.Caller(os.environ["DERMSERVE_TFS_ADDRESS"]) as caller:
            yield caller
        return
    models = request.getfixturevalue("golden_models")
    meta = golden.Recording(recordings / "01_predict.json", models=models).meta
    config = tmp_path_factory.mktemp("golden-config") / "models.config"
    config.write_text(meta["config"])
    flags = [flag for flag in meta["flags"] if "port" not in flag and "config_file" not in flag]
    # A process: some messages of kernels, as recorded, are oneDNN's, which only the program turns on.
    with server_process.serving_process(f"--model_config_file={config}", *flags) as (_, caller):
        yield caller


@pytest.fixture(scope="session")
def models(written: dict[str, pathlib.Path]) -> pathlib.Path:
    """Small models of our own: `line` (1 to 3), `echo`, `slow`, `defaults`, `warm`, `picky`."""
    return written["small_models"]
