"""What a benchmark found, as JSON in docs/figures that the pages include, and as Markdown."""

import dataclasses
import datetime
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "docs" / "figures"


@dataclasses.dataclass(frozen=True)
class Table:
    """One table; every cell is text or a number."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclasses.dataclass(frozen=True)
class Figures:
    """The tables of one run, the command that printed them, and the day and machine of the run."""

    command: str
    run: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()

    def to_json(self) -> str:
        """Write what `read` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    def to_markdown(self) -> str:
        """Write the command, the run and each table."""
        parts = [f"`{self.command}`, {self.run}."]
        for each in self.tables:
            parts += [f"**{each.title}**", table(each.head, each.rows)]
        return "\n\n".join([*parts, "\n".join(f"- {note}" for note in self.notes)]).rstrip() + "\n"


def report(
    tool: str, tables: Sequence[Table], machine: Mapping[str, Any], *, plan: str, out: pathlib.Path, as_json: bool,
    notes: Sequence[str] = (),
) -> str:  # fmt: skip
    """Write OUT/figures.json and return the same, as JSON or as Markdown; `machine` is of `describe_machine`."""
    run = (
        f"{datetime.date.today()}, {machine['processor']}, {machine['usable_cores']} cores, {machine['memory_gb']} GB, "
        f"load before {machine['load_before'][0]}, commit {machine['commit'][:12] or 'unknown'}; {plan}"
    )
    found = Figures(shlex.join(["python", "-m", f"benchmarks.{tool}", *sys.argv[1:]]), run, tables, notes)
    (out / "figures.json").write_text(found.to_json(), encoding="utf-8")
    return found.to_json() if as_json else found.to_markdown()


def read(file: pathlib.Path) -> Figures:
    """Read the figures of a run."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return Figures(**{**found, "tables": [Table(**each) for each in found["tables"]]})


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Write a Markdown table; floats get one digit."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_text(cell) for cell in line)} |" for line in lines)


def _text(cell: object) -> str:
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)
