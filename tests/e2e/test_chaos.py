"""Faults under load: every request ends in a sound answer or a clean error, and the gateway lives."""

import asyncio
import pathlib

import pytest

from tests.e2e.chaos import FAULTS, LOSSLESS, let_happen


@pytest.mark.slow
@pytest.mark.timeout(1200)  # up to three times each fault
def test_no_request_is_lost_or_wrong_whatever_a_model_server_does(
    small_store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    results, against = asyncio.run(let_happen(small_store, tmp_path, FAULTS, seconds=2))
    assert [result.fault for result in results] == list(FAULTS)
    assert [result.failures for result in results] == [[]] * len(FAULTS), results
    assert against == []
    for result in results:
        assert result.sent == result.answered + sum(result.errors.values()) > 0
        assert not (result.errors and result.fault in LOSSLESS)
