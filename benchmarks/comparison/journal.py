"""The visits of a run on disk as they are made, so that one that ends early goes on where it was."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping

from benchmarks.comparison.measuring import Loop, Plan, Visit


class Journal:
    """One JSON line a visit, after a line that says what was measured."""

    def __init__(self, file: pathlib.Path, plan: Plan, *, resume: bool) -> None:
        self._file = file
        self._visits: dict[tuple[int, str, str], Visit] = {}
        head = {
            "callers": list(plan.callers),
            "seconds": plan.seconds,
            "photos": hashlib.sha256(b"".join(plan.photos)).hexdigest(),
        }
        if resume and file.exists():
            first, *lines = map(json.loads, file.read_text().splitlines())
            if first == head:
                self._visits = {(line["round"], line["model"], line["contender"]): _visit(line) for line in lines}
                return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(head) + "\n")

    def find(self, index: int, model: str, contender: str) -> Visit | None:
        """Give a visit of a round that was made already."""
        return self._visits.get((index, model, contender))

    def add(self, index: int, visit: Visit) -> None:
        """Keep a visit."""
        with self._file.open("a") as file:
            file.write(json.dumps({"round": index, **dataclasses.asdict(visit)}) + "\n")


def _visit(line: Mapping[str, object]) -> Visit:
    fields = {name: value for name, value in line.items() if name != "round"}
    fields["loops"] = {cell: Loop(**loop) for cell, loop in dict(line["loops"]).items()}  # type: ignore[call-overload]
    return Visit(**fields)  # type: ignore[arg-type]
