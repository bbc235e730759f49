"""The built page that is in the repository is what its source gives."""

import filecmp
import pathlib
import shutil
import subprocess

import pytest

from dermserve.edge import SITE

WEB = pathlib.Path(__file__).resolve().parents[2] / "client/web"


def test_the_built_page_is_fresh(tmp_path: pathlib.Path) -> None:
    if shutil.which("node") is None or not (WEB / "node_modules").is_dir():
        pytest.skip("NOT TESTED: building the page needs Node.js and `make web`")
    types = (WEB / "src/api.gen.ts").read_text()
    subprocess.run(["node", str(WEB / "build.mjs"), str(tmp_path / "app")], check=True)
    assert (WEB / "src/api.gen.ts").read_text() == types, "run `make web` and commit src/api.gen.ts"
    built = filecmp.dircmp(tmp_path / "app", SITE / "app")
    names = [*built.left_only, *built.right_only, *built.diff_files]
    assert not names, "run `make web` and commit serving/dermserve/edge/site"


def test_the_page_is_small_and_its_lock_names_no_host() -> None:
    assert sum(path.stat().st_size for path in (SITE / "app").iterdir()) < 200_000
    assert "http" not in (WEB / "package-lock.json").read_text()
