"""No request is lost while versions change under load."""

import pathlib
import shutil

import pytest

from tests.lifecycle.changes import run
from tests.lifecycle.versions_at_hand import MODEL


@pytest.mark.slow
def test_callers_notice_nothing_of_any_change(small_store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy, logs = tmp_path / "store", tmp_path / "logs"
    shutil.copytree(small_store / MODEL / "1", copy / MODEL / "1")
    logs.mkdir()
    result = run(copy, model=MODEL, seconds=6, callers=8, logs=logs)
    assert (result.failed, result.not_live, result.faults) == (0, 0, [])
    assert result.requests > 50
    assert set(result.versions) >= {1, 2}
    kinds = {"publish", "canary", "promote", "rollback", "retire", "restart by SIGTERM"}
    assert kinds <= set(result.changes)
