"""What a benchmark found, as JSON in docs/figures that the pages include, and as Markdown."""

import datetime
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "docs" / "figures"


class Table(NamedTuple):
    """One table; every cell is text or a number."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]


def report(
    tables: Sequence[Table], machine: Mapping[str, Any], *, plan: str, notes: Sequence[str], out: pathlib.Path
) -> str:
    """Write OUT/figures.json: the tables, the command, the day and the machine. Return the same as Markdown."""
    run = (
        f"{datetime.date.today()}, {machine['processor']}, {machine['usable_cores']} cores, {machine['memory_gb']} GB, "
        f"load before {machine['load_before'][0]}, commit {machine['commit'][:12] or 'unknown'}; {plan}"
    )
    command = shlex.join(["python", "-m", "benchmarks.comparison", *sys.argv[1:]])
    found = {"command": command, "run": run, "tables": [each._asdict() for each in tables], "notes": list(notes)}
    (out / "figures.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return markdown(found)


def markdown(found: Mapping[str, Any]) -> str:
    """Write the command, the run and each table of a file that `report` wrote."""
    parts = [f"`{found['command']}`, {found['run']}."]
    for each in found["tables"]:
        parts += [f"**{each['title']}**", table(each["head"], each["rows"])]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in found["notes"])]).rstrip() + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a Markdown table; floats get one digit."""
    lines = [head, ["---"] * len(head), *rows]
    texts = [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in texts)
