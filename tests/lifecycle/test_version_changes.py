"""No request is lost while versions change: the benchmark's own program, for one cycle of changes."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_callers_notice_nothing_of_any_change(store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "version_changes.py")]
    arguments = ["--minutes", "0.1", "--store", str(store), "--logs", str(tmp_path), "--json"]
    done = subprocess.run([*program, *arguments], check=False, capture_output=True, text=True, timeout=600)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert (result["failed"], result["not_live"], result["faults"]) == (0, 0, []), done.stderr
    assert done.returncode == 0
    assert result["requests"] > 50
    assert set(result["versions"]) == {"1", "2"}
    kinds = {"publish", "canary", "promote", "rollback", "retire", "restart by SIGTERM"}
    assert kinds <= set(result["changes"])
