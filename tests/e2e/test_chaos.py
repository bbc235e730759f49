"""The chaos command, for a second a fault, against real model servers: what is sent is answered or cleanly refused."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_no_request_is_lost_when_servers_freeze_answer_wrongly_or_change_versions(store: pathlib.Path) -> None:
    program = [sys.executable, str(ROOT / "benchmarks" / "chaos.py"), "--store", str(store), "--json"]
    faults = [item for name in ("freeze", "wrong", "swap") for item in ("--fault", name)]
    done = subprocess.run(
        [*program, "--seconds", "1", *faults], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *rows, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["fault"] for row in rows] == ["freeze", "wrong", "swap"], rows
    assert last == {"alive": True, "failures": []}
    for row in rows:
        assert row["sent"] == row["answered"] + sum(row["errors"].values()) > 0
        assert set(row["errors"]) <= ({"INVALID_MODEL_OUTPUT"} if row["fault"] == "wrong" else set())
