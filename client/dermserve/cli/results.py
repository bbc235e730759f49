"""The output of `dermserve classify`: answers, progress, a CSV file, a journal and a summary."""

import contextlib
import csv
import json
import os
import pathlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TextIO

import click

from dermserve.cli.photos import SUFFIXES, shown
from dermserve.cli.root import Exit
from dermserve.client import Answer, DermserveError, Internal, Unavailable, render_text
from dermserve.models.durable import replacing, sync

Row = dict[str, Any]


def print_json(answer: Answer) -> None:
    """Print an answer as one line of JSON on stdout, and flush it."""
    click.echo(json.dumps({"file": answer.id, **_values(answer)}))


def print_text(answer: Answer) -> None:
    """Print an answer as text: a prediction on stdout, an error on stderr."""
    if (error := answer.error) is None:
        text = shown(render_text(answer.result()), keep="\n")
        click.echo(f"{shown(answer.id)}\n{text}\n")
    else:
        request = f", request {error.request_id}" if isinstance(error, Internal) else ""
        said = f"{answer.id}: {error.message} ({error.reason}: {error.help}{request})"
        click.echo(shown(said), err=True)


class Results:
    """Prints and collects answers while the block lasts, and writes them at its end, also after an error.

    The journal has a line of JSON for the question and each answered photo, written before the next answer is handled;
    a line that was cut off doesn't count. Raises click.UsageError: a file can't be written, or has another question.
    """

    def __init__(
        self, asked: Row, show: Callable[[Answer], None], *, table: pathlib.Path | None, journal: pathlib.Path | None
    ) -> None:
        self._asked = {"asked": asked}
        self._show = show
        self._table = table
        self._journal = journal
        self._rows: dict[str, Row] = {}
        self._file: TextIO | None = None
        self._total = self._done = self._failed = 0
        self._unavailable = False

    def __enter__(self) -> Self:
        files = [path for path in (self._table, self._journal) if path]
        if len({os.path.realpath(path) for path in files}) < len(files):
            raise click.UsageError("--csv and --resume name the same file: name two")
        for path in files:
            photo, there = path.suffix.lower() in SUFFIXES, os.path.exists(path)  # as in `--csv *.jpg`
            if photo or str(path) == "-" or (there and not path.is_file()):
                raise click.UsageError(f"{path} would be written: name a file, not a photo, device or standard output")
            if not os.access(path if there else path.parent, os.W_OK):
                raise click.UsageError(f"{path} can't be written: does its folder exist, and is it yours?")
        if self._journal is not None:
            try:
                self._open(self._journal)
            except OSError as error:
                raise click.UsageError(f"{self._journal}: {error.strerror or error}") from error
        return self

    def __exit__(self, *raised: object) -> None:
        self._clear()
        if self._file is not None:
            with contextlib.suppress(OSError):  # from a full disk, which was reported
                self._file.close()
        if self._table is not None:
            _write_csv(self._table, list(self._rows.values()))

    def remaining(self, photos: Sequence[str]) -> list[str]:
        """Leave out photos with an answer in the journal, unless their files have changed since.

        Answers to other photos stay in the journal, but not in the table and the summary.
        """
        rows = {name: self._rows.get(_printable(name), {}) for name in photos}
        answered = {name: row for name, row in rows.items() if row and row.get("stamp") == _stamp(name)}
        self._rows = {_printable(name): row for name, row in answered.items()}
        return [name for name in photos if name not in answered]

    def expect(self, total: int) -> None:
        """Set the number of answers to expect."""
        self._total = total
        self._draw()

    def add(self, answer: Answer) -> None:
        """Take an answer and print it."""
        name = _printable(answer.id)
        self._rows[name] = {"file": name, **_values(answer)}
        self._done += 1
        self._failed += answer.error is not None
        self._unavailable |= isinstance(answer.error, Unavailable)
        if answer.error is None and (stamp := _stamp(answer.id)):
            self._write({"stamp": stamp, **self._rows[name]})
        self._clear()
        self._show(answer)
        self._draw()

    @property
    def exit_code(self) -> Exit:
        """The exit code for the answers so far."""
        if not self._failed:
            return Exit.ANSWERED
        return Exit.NO_SERVER if self._unavailable and self._failed == self._done else Exit.FAILED

    def summary(self) -> str:
        """Count answers by verdict and level of risk, and failures by reason."""
        answered = [row for row in self._rows.values() if "error" not in row]
        failed = Counter(row["error"]["reason"] for row in self._rows.values() if "error" in row)
        lines = [f"{len(self._rows)} photos: {len(answered)} answered, {failed.total()} failed"]
        for verdict, count in Counter(row["verdict"] for row in answered).most_common():
            risks = [row["malignancy"] for row in answered if row["verdict"] == verdict]
            levels = Counter(f"{risk['level']} risk" if risk else "without risk" for risk in risks).most_common()
            lines.append(f"  {verdict:<24} {count:>6}  {', '.join(f'{number} {level}' for level, number in levels)}")
        for reason, count in failed.most_common():
            lines.append(f"  {reason:<24} {count:>6}  {DermserveError('', reason=reason).help}")
        return "\n".join(lines)

    def _open(self, path: pathlib.Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        whole, records = [line for line in lines if line.endswith(b"\n")], list[Row]()
        for line in whole:
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                records += [record] if isinstance(record, dict) and ("asked" in record or "file" in record) else []
        if lines and (not records or records[0] != self._asked):
            raise click.UsageError(f"{path} has answers of another model, version, label or tta, or none: name another")
        self._rows = {record["file"]: record for record in records if "file" in record}
        self._file = path.open("a", encoding="utf-8", newline="\n")
        self._file.truncate(sum(map(len, whole)))
        if not records:
            self._write(self._asked)

    def _write(self, record: Row) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(record) + "\n")
                self._file.flush()
            except OSError as error:
                raise click.ClickException(f"can't write {self._journal}: {error.strerror}") from error

    def _draw(self) -> None:
        if self._total > 1 and self._done < self._total and sys.stderr.isatty():
            failed = f", {self._failed} failed" if self._failed else ""
            click.echo(f"\r{self._done} of {self._total} photos{failed}", nl=False, err=True)

    def _clear(self) -> None:
        if self._total > 1 and sys.stderr.isatty():
            click.echo("\r\x1b[K", nl=False, err=True)


def _values(answer: Answer) -> Row:
    return answer.result().to_dict() if answer.error is None else {"error": answer.error.to_dict()}


def _printable(name: str) -> str:
    """Return a file's name as UTF-8; other bytes become backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _write_csv(path: pathlib.Path, rows: Sequence[Row]) -> None:
    """Write a row an answer, whole or not at all; columns as the answers have them."""
    flat = sorted(map(_flat, rows), key=lambda row: "error_reason" in row)  # failures and their columns last
    columns = list(dict.fromkeys(("file", *(name for row in flat for name in row))))
    with replacing(path) as fresh:
        with fresh.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(flat)
        sync(fresh)


def _flat(row: Row) -> Row:
    """Make columns: the most probable class, a probability for each, lists joined by semicolons, maps by their keys."""
    flat: Row = {}
    for name, value in row.items():
        if name == "classes":
            for top in value[:1]:
                flat |= {"top_class": top["code"], "top_name": top["name"], "top_probability": top["probability"]}
            flat |= {f"p_{one['code']}": one["probability"] for one in sorted(value, key=lambda one: one["code"])}
        elif isinstance(value, Mapping):
            flat |= {f"{name}_{key}": inner for key, inner in value.items()}
        elif name not in ("stamp", "malignancy"):  # a rejected photo has no risk
            flat[name] = ";".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _stamp(name: str) -> list[int] | None:
    """Return a stamp that changes when a file does; None if it is not a file."""
    try:
        about = os.stat(name)
    except (OSError, ValueError):
        return None
    return [about.st_size, about.st_mtime_ns]
