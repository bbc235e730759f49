"""What a long run leaves behind: a CSV file, a journal to go on from, and a summary."""

import csv
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TextIO

import click

from dermserve.client import Answer

Row = dict[str, Any]


class Results:
    """Collects answers while the block lasts, and writes them at its end, however that comes.

    The journal has a line of JSON for what is asked and one for each answered photo, written before the next answer is
    looked at; a line that was cut off is ignored. Failed photos are not in it: they are asked for again.

    Args:
        asked: model, version, label and TTA mode.
        table: CSV file to write, whole or not at all.
        journal: file to go on from; made when there is none.

    Raises:
        click.UsageError: a file can't be written, or the journal is of another question.
    """

    def __init__(
        self, asked: Mapping[str, Any], *, table: pathlib.Path | None = None, journal: pathlib.Path | None = None
    ) -> None:
        self._asked = {"asked": dict(asked)}
        self._table = table
        self._journal = journal
        self._rows: dict[str, Row] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        for path in filter(None, (self._table, self._journal)):
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise click.UsageError(f"{path} can't be written: does its folder exist, and is it yours?")
        if self._journal is not None:
            try:
                self._open(self._journal)
            except OSError as error:
                raise click.UsageError(f"{self._journal}: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._table is not None:
            write_csv(self._table, list(self._rows.values()))

    def remaining(self, photos: Sequence[str]) -> list[str]:
        """Leave out the photos that the journal has an answer for, unless their files have changed since.

        Answers of other photos stay in the journal, and out of the table and the summary.
        """
        names = {*map(printable, photos)}
        self._rows = {name: row for name, row in self._rows.items() if name in names}
        return [name for name in photos if not self._has(name)]

    def add(self, answer: Answer) -> None:
        """Take an answer."""
        name = printable(answer.id)
        if answer.error is not None:
            self._rows[name] = {"file": name, "error": answer.error.to_dict()}
            return
        self._rows[name] = {"file": name, **answer.result().to_dict()}
        stamp = _stamp(answer.id)
        if self._file is not None and stamp is not None:
            self._write({"stamp": stamp, **self._rows[name]})

    def summary(self) -> str:
        """Count answers by verdict and level of risk, and failures by reason."""
        answered = [row for row in self._rows.values() if "error" not in row]
        failed = Counter(row["error"]["reason"] for row in self._rows.values() if "error" in row)
        lines = [f"{len(self._rows)} photos: {len(answered)} answered, {failed.total()} failed"]
        verdicts = Counter(row["verdict"] for row in answered)
        for verdict, count in verdicts.most_common():
            levels = Counter(_level(row) for row in answered if row["verdict"] == verdict)
            lines.append(
                f"  {verdict:<24} {count:>6}  {', '.join(f'{n} {level}' for level, n in levels.most_common())}"
            )
        for reason, count in failed.most_common():
            lines.append(f"  {reason:<24} {count:>6}  docs/errors.md#{reason.lower()}")
        return "\n".join(lines)

    def _open(self, path: pathlib.Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith(b"\n")]
        records = list(_records(whole))
        if lines and (not records or records[0] != self._asked):
            raise click.UsageError(f"{path} is of another question, or no journal at all: name another --resume file")
        for record in records[1:]:
            self._rows[record["file"]] = record
        self._file = path.open("a", encoding="utf-8", newline="\n")
        self._file.truncate(sum(map(len, whole)))
        if not records:
            self._write(self._asked)

    def _write(self, record: Row) -> None:
        assert self._file is not None
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def _has(self, name: str) -> bool:
        row = self._rows.get(printable(name))
        if row is None or row.get("stamp") != _stamp(name):
            self._rows.pop(printable(name), None)
            return False
        return True


def printable(name: str) -> str:
    """Return a file's name as any UTF-8 file can hold it: bytes that are no UTF-8 as backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def write_csv(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Write a row an answer, whole or not at all; columns as the answers have them.

    Raises:
        click.ClickException: the disk is full, or the like.
    """
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(("file", *(name for row in flat for name in row))))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(flat)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise click.ClickException(f"can't write {path}: {error.strerror or error}") from error


def _level(row: Row) -> str:
    return f"{row['malignancy']['level']} risk" if row["malignancy"] else "without risk"


def _flat(row: Row) -> Row:
    """Make columns: the most probable class, a probability for each, lists joined by semicolons, maps by their keys.

    A rejected photo has no classes: its columns of them stay empty.
    """
    flat: Row = {}
    for name, value in row.items():
        if name == "classes":
            for top in value[:1]:
                flat |= {"class": top["code"], "class_name": top["name"], "probability": top["probability"]}
            flat |= {
                f"p_{score['code']}": score["probability"] for score in sorted(value, key=lambda s: str(s["code"]))
            }
        elif isinstance(value, Mapping):
            flat |= {f"{name}_{key}": inner for key, inner in value.items()}
        elif isinstance(value, list):
            flat[name] = ";".join(map(str, value))
        elif name != "stamp":
            flat[name] = value
    return flat


def _records(lines: Sequence[bytes]) -> Iterator[Row]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and ("asked" in record or "file" in record):
            yield record


def _stamp(name: str) -> list[int] | None:
    """Return what changes when a file does; None for what is no file."""
    try:
        about = os.stat(name)
    except (OSError, ValueError):
        return None
    return [about.st_size, about.st_mtime_ns]
