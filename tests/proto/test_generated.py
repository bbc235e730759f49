"""What `make proto` writes is fresh, and the protos pass lint; `make check` runs this."""

import importlib
import pathlib
import subprocess
import sys
from types import ModuleType

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STALE = "stale: run `make proto` and commit"


@pytest.fixture
def stubs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("stubs")


def test_the_stubs_are_what_the_protos_say(stubs: ModuleType, tmp_path: pathlib.Path) -> None:
    stubs.generate(tmp_path)
    new, old = (
        {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}
        for base in (tmp_path, stubs.COMMITTED)
    )
    differ = [name for name in new | old if new.get(name) != old.get(name) and not name.endswith(".pyc")]
    assert not differ, STALE


def test_the_openapi_document_is_what_the_protos_say(stubs: ModuleType) -> None:
    document = stubs.openapi_document
    assert document.FILE.read_text(encoding="utf-8") == document.render(), STALE


def test_the_protos_pass_lint() -> None:
    buf = pathlib.Path(sys.executable).with_name("buf")
    done = subprocess.run([buf, "lint", ROOT], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
