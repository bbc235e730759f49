import os
import pathlib
from collections.abc import Iterator

import pytest

from tests.modelserver import golden, server_process

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="session")
def recordings() -> pathlib.Path:
    return HERE / "recordings"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of the models that served_models.py writes."""
    from tests.modelserver.served_models import write  # noqa: PLC0415 - TensorFlow takes seconds

    folder = tmp_path_factory.mktemp("served-models")
    write(folder)
    return folder


@pytest.fixture(scope="session")
def golden_models(request: pytest.FixtureRequest) -> pathlib.Path:
    """The models that were served when the cases were recorded, made anew."""
    if "DERMSERVE_TFS_ADDRESS" in os.environ:
        pytest.skip("starts servers of its own; DERMSERVE_TFS_ADDRESS asks for the calls to that one alone")
    return request.getfixturevalue("models")


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
        # It serves once a model has its highest version; the others come a moment later.
        server_process.wait_until(lambda: set(caller.states("half_plus_two").values()) == {"AVAILABLE"})
        yield caller
