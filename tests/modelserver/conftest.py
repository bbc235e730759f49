import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.modelserver import golden, server_process


@pytest.fixture(scope="session")
def recordings(shared: pathlib.Path) -> pathlib.Path:
    return shared / "tfs-golden"


@pytest.fixture(scope="session")
def golden_models(recordings: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The small models that were served when the cases were recorded, made anew by the recorded script."""
    if "DERMSERVE_TFS_ADDRESS" in os.environ:
        pytest.skip("starts servers of its own; DERMSERVE_TFS_ADDRESS asks for the calls to that one alone")
    folder = tmp_path_factory.mktemp("golden-models")
    script = recordings / "make_models.py"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=300)
    return folder


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
    with server_process.serving(f"--model_config_file={config}", *flags) as (_, caller):
        yield caller


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Small models of our own: `line` (1 to 3), `echo`, `slow`, `defaults`, `warm`, `lite`."""
    folder = tmp_path_factory.mktemp("small-models")
    script = pathlib.Path(__file__).parent / "make_small_models.py"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True, timeout=300)
    return folder
