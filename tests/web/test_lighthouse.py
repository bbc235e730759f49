"""Lighthouse's own checks of accessibility and best practices. Those of installing are gone: test_checklist.py.

Of accessibility it asks axe, as test_looks.py does on each screen; so two of them are enough.
"""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

_LIGHTHOUSE = "lighthouse@13.5.0"
_FLAGS = ("--quiet", "--output=json", "--throttling-method=provided", "--only-categories=accessibility,best-practices")


@pytest.fixture(scope="module")
def lighthouse(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program: npx fetches it once, and is not asked again."""
    npx, chromium = shutil.which("npx"), shutil.which("chromium")
    if npx is None or chromium is None:
        pytest.skip("NOT TESTED: Lighthouse needs Node.js and Chromium")
    command = [npx, "--yes", "--package", _LIGHTHOUSE, "--", "which", "lighthouse"]
    folder = tmp_path_factory.mktemp("npx")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, timeout=300)
    except subprocess.SubprocessError as error:
        pytest.skip(f"NOT TESTED: npm can't fetch {_LIGHTHOUSE}: {error}")
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("address", ["", "#/learn"])
def test_lighthouse_finds_nothing(lighthouse: str, served: str, address: str, tmp_path: pathlib.Path) -> None:
    report = tmp_path / "report.json"
    chrome = "--chrome-flags=--headless=new --no-sandbox --disable-gpu"
    environment = {**os.environ, "CHROME_PATH": shutil.which("chromium") or ""}
    command = [lighthouse, f"{served}/app/{address}", *_FLAGS, chrome, f"--output-path={report}"]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=300)
    found = json.loads(report.read_text())
    low = {name: one["score"] for name, one in found["categories"].items() if one["score"] != 1}
    wrong = [
        name for name, one in found["audits"].items() if one["score"] == 0 and one.get("scoreDisplayMode") == "binary"
    ]
    assert not low, wrong
