"""The gateway stays as small as it was."""

import asyncio
import os

import pytest

from dermserve.local import Stack
from tests.e2e.soak import soak

SECONDS = float(os.environ.get("DERMSERVE_SOAK_SECONDS", "6"))
"""For how long a round works. Ten minutes show what six seconds do not."""


@pytest.mark.slow
def test_memory_open_files_and_threads_stay_flat_under_mixed_work(stack: Stack) -> None:
    assert asyncio.run(soak(stack, ("mobilenet_v3_small",), seconds=SECONDS)) == []
