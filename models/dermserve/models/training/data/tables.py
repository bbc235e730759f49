"""Read a table of photos' classes and lesions."""

import codecs
import csv
import io
import posixpath
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from dermserve.models.training.errors import DataError

SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_IDS = ("image_id", "isic_id", "image", "image_name", "img_id", "path")
# Columns of the ISIC archive, the most precise first, and of PAD-UFES-20.
_DIAGNOSES = ("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnosis", "diagnostic")
_CLASSES = (("dx",), _DIAGNOSES, ("label",))  # the columns of classes, of the first kind that there is
_HEADER = 65536  # characters that hold the header
_BLANK = frozenset({"", "na", "n a", "nan", "none", "null", "unknown"})  # in words: "" is also "-" and "?"
_WHOLE = re.compile(r"^(\d+)\.0$")  # what spreadsheets and pandas make of a number
_ONE_HOT = frozenset({"mel", "nv", "bcc", "akiec", "ak", "bkl", "df", "vasc", "scc", "unk"})
_Cells: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """What a row says of a photo."""

    photo: str  # its id, file name or path with slashes
    label: int | None  # index into the classes; None if the table gives none, or one that the model lacks
    lesion: str  # empty for none
    said: str  # the class in the table's own words
    split: str  # "train", "validation", "test" or empty


@dataclass(frozen=True, slots=True)
class Table:
    """What a table says of photos."""

    path: Path
    rows: Sequence[Row] = ()
    lacks: str = ""  # the columns without which it gives no classes
    codes: bool = False  # whether its classes are codes like the model's, so that an unknown one is an error


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


_NAMES = tomllib.loads(resources.files(__package__).joinpath("names.toml").read_text(encoding="utf-8"))
_CODES = {_words(name): code for code, names in _NAMES.items() for name in names}


def class_of(text: str, classes: Sequence[str]) -> int | None:
    """Find the class of a code or diagnosis, by its words in upper or lower case; None if the model lacks it."""
    name = _words(text)
    code = name if name in classes else _CODES.get(name, "")
    return classes.index(code) if code in classes else None


def read_table(path: Path, classes: Sequence[str]) -> Table:
    """Read labels.csv, HAM10000's metadata, the ISIC archive's, a challenge's one-hot table or lesion groups.

    The delimiter is the header's. There are no rows if it names no photos, or gives neither classes nor lesions.
    """
    text = _read_text(path)
    delimiter = max(",;\t|", key=re.sub('"[^"]*"', "", text[:_HEADER]).partition("\n")[0].count)
    # Strict, as a quotation mark without its second one would swallow the rows after it.
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="", strict=True)
    try:
        header = [_words(cell).replace(" ", "_") for cell in reader.fieldnames or ()]
        reader.fieldnames = header
        photo = next((column for column in _IDS if column in header), None)
        said = next((found for kind in _CLASSES if (found := [each for each in kind if each in header])), [])
        one_hot = [] if said else [each for each in header if each in _ONE_HOT or each in classes]
        gives = bool(said) or len(one_hot) > 1
        if photo is None or not (gives or "lesion_id" in header):
            return Table(path, lacks="dx" if photo else "image_id, dx")
        for column in {photo, "dx", "label", "lesion_id", "split"}:
            if header.count(column) > 1:
                raise DataError(f"{path} has the column {column} twice")
        columns = (said, one_hot if gives else [])
        rows = [_read_row(where, photo, cells, *columns, classes) for where, cells in _lines(path, reader)]
    except csv.Error as error:
        raise DataError(f"{path}, after line {reader.line_num}, can't be read as a table: {error}") from error
    if repeated := [name for name, count in Counter(row.photo for row in rows).items() if count > 1]:
        raise DataError(f"{path} names {repeated[0]} twice ({len(repeated)} photos in all): leave one row for each")
    return Table(path, rows, "" if gives else "dx", said in (["dx"], ["label"]))


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    utf_16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
    try:
        text = data.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\n")  # Excel on a Mac ends lines with \r alone
    return text.partition("\n")[2] if text.lower().startswith("sep=") else text  # Excel's hint for itself


def _lines(path: Path, reader: "csv.DictReader[str]") -> Iterator[tuple[str, _Cells]]:
    for cells in reader:
        where, more = f"{path}, line {reader.line_num},", cells.pop(None, ())
        if any(more):
            raise DataError(f"{where} has {len(more)} cells more than there are columns")
        if any(cells.values()):
            yield where, {column: _WHOLE.sub(r"\1", cell.strip()) for column, cell in cells.items()}


def _read_row(
    where: str, photo: str, cells: _Cells, said: Sequence[str], one_hot: Sequence[str], classes: Sequence[str]
) -> Row:
    name, lesion, part = cells[photo].replace("\\", "/"), cells.get("lesion_id", ""), cells.get("split", "")
    if not name:
        raise DataError(f"{where} names no photo")
    try:
        words = _from_one_hot(cells, one_hot) if one_hot else [cells[each] for each in said]
    except ValueError as error:
        raise DataError(f"{where} {name} {error}") from error
    words = [text for text in words if _words(text) not in _BLANK]  # the best first
    label = next((found for text in words if (found := class_of(text, classes)) is not None), None)
    if part and part.lower() not in SPLITS:
        raise DataError(f"{where} names the split {part!r}; it may be train, validation, test or empty")
    lesion, part = "" if _words(lesion) in _BLANK else lesion, SPLITS.get(part.lower(), "")
    return Row(posixpath.normpath(name), label, lesion, words[0] if words else "", part)


def _from_one_hot(cells: _Cells, columns: Sequence[str]) -> list[str]:
    """Return the column that has the 1. Raises ValueError, a sentence about the photo: there is not one such."""
    filled = {each: cells[each].lower().replace(",", ".") for each in columns if _words(cells[each]) not in _BLANK}
    try:
        flags = {each: float({"true": "1", "false": "0"}.get(cell, cell)) for each, cell in filled.items()}
        if odd := [flag for flag in flags.values() if flag not in (0, 1)]:
            raise ValueError(odd[0])
    except ValueError as error:
        raise ValueError(f"has a cell that is not 0 or 1: {error}") from error
    chosen = [each for each, flag in flags.items() if flag]
    if len(chosen) != 1:
        raise ValueError(f"is of {len(chosen)} classes: a row must have a 1 in one column")
    return chosen
