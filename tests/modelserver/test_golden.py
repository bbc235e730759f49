"""Predict, GetModelMetadata and GetModelStatus answer as a real TensorFlow Serving 2.20 did.

With DERMSERVE_TFS_ADDRESS=host:port the same cases are replayed against the server there, which must serve the models
of `served_models.py` under the recorded configuration.
"""

import pathlib

import pytest

from tests.modelserver.golden import Recording, replay
from tests.modelserver.server_process import Caller

FILES = ("01_predict.json", "02_get_model_metadata.json", "03_get_model_status.json")


@pytest.mark.parametrize("name", FILES)
def test_every_recorded_call_is_answered_as_recorded(
    golden_server: Caller, recordings: pathlib.Path, name: str, subtests: pytest.Subtests
) -> None:
    cases = Recording(recordings / name).cases
    assert cases
    for case in cases:
        with subtests.test(case["case"]):
            replay(golden_server, case)
