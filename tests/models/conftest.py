"""What test files of this folder share."""

import pathlib
import shutil

import pytest

from dermserve.models.architectures import build as build_network
from dermserve.models.export import export
from tests.conftest import once, tiny
from tests.models.networks import disturb_batch_norm


@pytest.fixture(scope="session")
def weights_store(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A store of MobileNetV3Small: tiny, and as version 2 a file's weights, whose batch norm does something."""

    def build(folder: pathlib.Path) -> None:
        network = build_network("mobilenet_v3_small")
        disturb_batch_norm(network)
        file = tmp_path_factory.mktemp("weights") / "some.weights.h5"
        network.save_weights(file)
        shutil.copytree(tiny(tmp_path_factory, network.name), folder / network.name)
        export.main(["--model", network.name, "--weights", str(file), "--store", str(folder)], standalone_mode=False)

    return once(tmp_path_factory, "weights", build)
