"""What a benchmark found, as JSON in docs/figures that the pages include, and as Markdown."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

NAME = "figures.json"
"""File that a benchmark writes into its folder of results."""
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


def describe_run(machine: Mapping[str, Any], *, date: str, plan: str) -> str:
    """Say when and where a run was made; `machine` is of `dermserve.loadtest.machine`."""
    return (
        f"{date}, {machine['processor']}, {machine['usable_cores']} cores, {machine['memory_gb']} GB, load before"
        f" {machine['load_before'][0]}, commit {machine['commit'][:12] or 'unknown'}; {plan}"
    )


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
