"""Read the tables of a data set: the class and lesion of each photo."""

import csv
import io
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from dermserve.models.training.errors import DataError

_SUFFIXES = frozenset({".csv", ".tab", ".tsv"})
_IDS = ("image_id", "isic_id", "image", "image_name")
_LABELS = ("path", "label", "lesion_id", "split")  # of labels.csv
_SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_WORD = re.compile(r"[^a-z]+")
# Columns of the ISIC archive, the most precise first.
_DIAGNOSES = ("diagnosis_5", "diagnosis_4", "diagnosis_3", "diagnosis_2", "diagnosis_1", "diagnosis")
_HEADER = 65536  # characters that hold the header
_BLANK = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown"})
# Names of the classes in the ISIC archive and its challenges, by HAM10000's codes.
_NAMES: Mapping[str, Sequence[str]] = {
        "akiec": ("ak", "actinic keratosis", "solar or actinic keratosis", "squamous cell carcinoma in situ"),
        "bcc": ("basal cell carcinoma",),
        "bkl": (
            "benign keratosis", "pigmented benign keratosis", "seborrheic keratosis", "solar lentigo",
            "lichen planus like keratosis", "lichenoid keratosis",
        ),
        "df": ("dermatofibroma",),
        "mel": ("melanoma", "melanoma in situ", "melanoma invasive", "melanoma, nos"),
        "nv": ("nevus", "melanocytic nevus", "melanocytic nevi"),
        "vasc": (
            "vascular lesion", "angioma", "hemangioma", "angiokeratoma", "pyogenic granuloma",
            "benign soft tissue proliferations - vascular",
        ),
        "scc": ("squamous cell carcinoma", "squamous cell carcinoma, nos", "squamous cell carcinoma, invasive"),
}  # fmt: skip
_CODES = {name: code for code, names in _NAMES.items() for name in names}
_ONE_HOT = frozenset({"mel", "nv", "bcc", "akiec", "ak", "bkl", "df", "vasc", "scc", "unk"})
_Cells: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what it says of a photo."""

    photo: str  # its id, file name or path with slashes
    label: int | None  # index into the classes; None if the table gives none, or one that the model lacks
    lesion: str  # empty for none
    said: str  # the class in the table's own words
    split: str  # "train", "validation", "test" or empty


@dataclass(frozen=True, slots=True)
class Table:
    """One table."""

    path: Path
    rows: Sequence[Row]
    classes: bool  # whether it gives classes
    codes: bool  # whether these are codes like the model's, so that an unknown one is an error


def class_of(text: str, classes: Sequence[str]) -> int | None:
    """Find the class of a code or diagnosis, in upper or lower case; None if the model lacks it."""
    name = " ".join(text.replace("_", " ").lower().split())
    code = name if name in classes else _CODES.get(name, "")
    return classes.index(code) if code in classes else None


def split_of(text: str) -> str:
    """Find the part that a name means, such as Test or ISIC2018_Task3_Training_Input; empty for none."""
    return next((_SPLITS[word] for word in _WORD.split(text.lower()) if word in _SPLITS), "")


def is_table(path: Path) -> bool:
    """Return whether a file is a table, by its name; Harvard's Dataverse has one without a suffix."""
    return path.suffix.lower() in _SUFFIXES or path.name.lower() == "ham10000_metadata"


def read_table(path: Path, classes: Sequence[str]) -> Table | list[str]:
    """Read a table; the columns that it lacks, if it names no photos, or gives neither classes nor lesions.

    It may be labels.csv, HAM10000's metadata (image_id, dx), the ISIC archive's (isic_id, diagnosis_1, ...), a
    challenge's one-hot table (image, MEL, NV, ...) or lesion groups (image, lesion_id). `classes` are the model's codes
    in lower case. The delimiter is the header's: comma, semicolon, tab or bar. The encoding is UTF-8, or else
    Windows-1252.

    Raises:
        DataError: a photo is named twice, a class or split is unknown, or a row is damaged.
    """
    text = _read_text(path)
    delimiter = max(",;\t|", key=re.sub('"[^"]*"', "", text[:_HEADER]).partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    try:
        header = [cell.strip().lower() for cell in reader.fieldnames or ()]
        reader.fieldnames = header
        labels = "path" in header and path.name == "labels.csv"
        if missing := [column for column in _LABELS if labels and column not in header]:
            raise DataError(f"{path} lacks the column {missing[0]}; it needs {', '.join(_LABELS)}")
        photo = "path" if labels else next((column for column in _IDS if column in header), None)
        words = _class_words(header, classes, "label" if labels else "dx")
        if photo is None or (words is None and "lesion_id" not in header):
            return ["dx"] if photo else ["image_id", "dx"]
        for column in {photo, "dx", *_LABELS}:
            if header.count(column) > 1:
                raise DataError(f"{path} has the column {column} twice")
        rows = [_read_row(where, photo, cells, words, classes) for where, cells in _lines(path, reader)]
    except csv.Error as error:
        raise DataError(f"{path} can't be read as a table: {error}") from error
    if unknown := [row.said for row in rows if labels and row.label is None and row.said]:
        raise DataError(f"{path} names the class {unknown[0]!r}; this model knows {', '.join(classes)}")
    if repeated := [name for name, count in Counter(row.photo for row in rows).items() if count > 1]:
        raise DataError(f"{path} names {repeated[0]} twice ({len(repeated)} photos in all): leave one row for each")
    return Table(path, rows, words is not None, labels or "dx" in header)


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    text = text.lstrip("\r\n")
    return text.partition("\n")[2] if text.lower().startswith("sep=") else text  # Excel's hint for itself


def _lines(path: Path, reader: "csv.DictReader[str]") -> Iterator[tuple[str, _Cells]]:
    """Read the rows that are not empty; give each with words for where it is."""
    for cells in reader:
        where, more = f"{path}, line {reader.line_num},", cells.pop(None, ())
        if any(more):
            raise DataError(f"{where} has {len(more)} cells more than there are columns")
        if any(cells.values()):
            yield where, {column: cell.strip() for column, cell in cells.items()}


def _read_row(
    where: str, photo: str, cells: _Cells, words: Callable[[_Cells], list[str]] | None, classes: Sequence[str]
) -> Row:
    name, lesion, part = cells[photo].replace("\\", "/"), cells.get("lesion_id", ""), cells.get("split", "")
    try:
        said = [] if words is None else words(cells)
    except ValueError as error:
        raise DataError(f"{where} {name} {error}") from error
    label = next((found for text in said if (found := class_of(text, classes)) is not None), None)
    if part and part.lower() not in _SPLITS:
        raise DataError(f"{where} names the split {part!r}; it may be train, validation, test or empty")
    return Row(
        posixpath.normpath(name) if name else "",
        label,
        "" if _blank(lesion) else lesion,
        said[0] if said else "",
        _SPLITS.get(part.lower(), ""),
    )


def _blank(text: str) -> bool:
    """Return whether a cell is empty or says so."""
    return text.lower() in _BLANK


def _class_words(header: Sequence[str], classes: Sequence[str], column: str) -> Callable[[_Cells], list[str]] | None:
    """Return a function that reads the names of a row's class, the best first; None if the table gives no classes."""
    if column in header:
        return lambda cells: [cells[column]]
    if columns := [each for each in _DIAGNOSES if each in header]:
        return lambda cells: [cells[each] for each in columns if not _blank(cells[each])]
    one_hot = [each for each in header if each in _ONE_HOT or each in classes]
    return (lambda cells: _from_one_hot(cells, one_hot)) if len(one_hot) > 1 else None


def _from_one_hot(cells: _Cells, columns: Sequence[str]) -> list[str]:
    """Return the column that has the 1. Raises ValueError, a sentence about the photo: there is not one such."""
    try:
        chosen = [each for each in columns if not _blank(cells[each]) and float(cells[each].replace(",", "."))]
    except ValueError as error:
        raise ValueError(f"has a cell that is not 0 or 1: {error}") from error
    if len(chosen) != 1:
        raise ValueError(f"is of {len(chosen)} classes: a row must have a 1 in one column")
    return chosen
