import pathlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from dermserve.models.store import publish, staged, versions


def _publish(base: pathlib.Path) -> int:
    with staged(base, "m") as staging:
        (staging / "saved_model.pb").write_bytes(b"x")
        return publish(staging, base, "m")


def test_versions_are_numbered_from_one(tmp_path: pathlib.Path) -> None:
    assert versions(tmp_path, "m") == []
    assert [_publish(tmp_path), _publish(tmp_path)] == [1, 2]
    assert versions(tmp_path, "m") == [1, 2]


def test_what_is_no_version_directory_does_not_count(tmp_path: pathlib.Path) -> None:
    for name in ("7", "latest", ".staging-m-1", "0x9"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "8").write_text("a file")
    assert versions(tmp_path, "m") == [7]


def test_publishers_at_once_never_share_a_number(tmp_path: pathlib.Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(_publish, [tmp_path] * 24))
    assert sorted(numbers) == list(range(1, 25)) == versions(tmp_path, "m")


def test_a_failed_export_leaves_the_store_as_it_was(tmp_path: pathlib.Path) -> None:
    def fail() -> None:
        with staged(tmp_path, "m") as staging:
            (staging / "saved_model.pb").write_bytes(b"half")
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []
