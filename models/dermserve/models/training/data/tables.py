"""Read the tables of a data set, in any usual delimiter and encoding: the class and lesion of each photo."""

import codecs
import csv
import io
import itertools
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
_BLANK = frozenset({"", "na", "n/a", "nan", "none", "null", "unknown"})
_HEADER_BYTES = 65536
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
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
_Reader: TypeAlias = Callable[[Mapping[str, str]], tuple[int | None, str]]
_ONE_HOT = frozenset({"mel", "nv", "bcc", "akiec", "ak", "bkl", "df", "vasc", "scc", "unk"})


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


def _blank(text: str) -> bool:
    """Return whether a cell is empty or says so."""
    return text.lower() in _BLANK


def is_table(path: Path) -> bool:
    """Return whether a file is a table, by its name; Harvard's Dataverse has one without a suffix."""
    return path.suffix.lower() in _SUFFIXES or path.name.lower() == "ham10000_metadata"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read a table's rows as dictionaries by lower-case column, without empty lines.

    The delimiter is the header's: comma, semicolon, tab or bar. The encoding is UTF-8, UTF-16 or else Windows-1252.

    Raises:
        DataError: it is not a table, a row has more cells than the header, or a column is named twice.
    """
    header, rows = _parse(path)
    column, count = Counter(filter(None, header)).most_common(1)[0]
    if count > 1:
        raise DataError(f"{path} has the column {column} twice")
    for number, cells in rows:
        if any(cells[len(header) :]):
            raise DataError(f"{path}, line {number}, has {len(cells)} cells, but there are {len(header)} columns")
    return [dict(itertools.zip_longest(header, cells[: len(header)], fillvalue="")) for _, cells in rows]


def read_header(path: Path) -> list[str]:
    """Read a table's columns in lower case; the rest of the file may be gigabytes."""
    return _parse(path, header_only=True)[0]


def _parse(path: Path, *, header_only: bool = False) -> tuple[list[str], list[tuple[int, list[str]]]]:
    text = _read_text(path, limit=_HEADER_BYTES if header_only else -1)
    delimiter = max(",;\t|", key=re.sub('"[^"]*"', "", text).partition("\n")[0].count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [cell.strip().lower() for cell in next(lines, [])]
        if header_only:
            return header, []
        return header, [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines if any(cells)]
    except csv.Error as error:
        raise DataError(f"{path} can't be read as a table: {error}") from error


def _read_text(path: Path, *, limit: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(limit)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:4]:
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    try:
        text = data.decode(encoding or "utf-8", errors="ignore" if limit > 0 else "strict")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    text = text.lstrip("\r\n")
    return text.partition("\n")[2] if text.lower().startswith("sep=") else text  # Excel's hint for itself


def missing_columns(path: Path) -> str:
    """Name the columns that an unusable table lacks."""
    header = read_header(path)
    return "dx" if any(column in header for column in _IDS) else "image_id, dx"


def read_table(path: Path, classes: Sequence[str]) -> Table | None:
    """Read a table; None if it has no column of photos, or gives neither classes nor lesions.

    It may be labels.csv, HAM10000's metadata (image_id, dx), the ISIC archive's (isic_id, diagnosis_1, ...), a
    challenge's one-hot table (image, MEL, NV, ...) or lesion groups (image, lesion_id). `classes` are the model's codes
    in lower case.

    Raises:
        DataError: a photo is named twice, a class or split is unknown, or a row is damaged.
    """
    header = read_header(path)
    paths = "path" in header and path.name == "labels.csv"
    missing = [column for column in _LABELS if paths and column not in header]
    if missing:
        raise DataError(f"{path} lacks the column {missing[0]}; it needs {', '.join(_LABELS)}")
    photo = "path" if paths else next((column for column in _IDS if column in header), None)
    reader = _label_reader(header, classes, path)
    if photo is None or (reader is None and "lesion_id" not in header):
        return None
    rows = [_read_row(path, photo, cells, reader) for cells in read_rows(path)]
    unknown = [row.said for row in rows if paths and row.label is None and row.said]
    if unknown:
        raise DataError(f"{path} names the class {unknown[0]!r}; this model knows {', '.join(classes)}")
    repeated = [name for name, count in Counter(row.photo for row in rows).items() if count > 1]
    if repeated:
        raise DataError(f"{path} names {repeated[0]} twice ({len(repeated)} photos in all): leave one row for each")
    return Table(path, rows, reader is not None, paths or "dx" in header)


def _read_row(path: Path, photo: str, cells: Mapping[str, str], reader: _Reader | None) -> Row:
    label, said = (None, "") if reader is None else reader(cells)
    lesion, part = cells.get("lesion_id", ""), cells.get("split", "")
    split = _SPLITS.get(part.lower(), "")
    if part and not split:
        raise DataError(f"{path} names the split {part!r}; it may be train, validation, test or empty")
    name = cells[photo].replace("\\", "/")
    return Row(posixpath.normpath(name) if name else "", label, "" if _blank(lesion) else lesion, said, split)


def _label_reader(header: Sequence[str], classes: Sequence[str], path: Path) -> _Reader | None:
    """Return a function that reads the class of a row and its name in the table; None if it gives no classes."""
    column = "label" if "path" in header and path.name == "labels.csv" else "dx"
    if column in header:
        return lambda cells: (class_of(cells[column], classes), cells[column])
    if columns := [column for column in _DIAGNOSES if column in header]:
        return lambda cells: _from_diagnosis([cells[column] for column in columns], classes)
    one_hot = [column for column in header if column in _ONE_HOT or column in classes]
    if len(one_hot) > 1:
        return lambda cells: _from_one_hot(cells, one_hot, classes, path)
    return None


def _from_diagnosis(texts: Sequence[str], classes: Sequence[str]) -> tuple[int | None, str]:
    said = [text for text in texts if not _blank(text)]
    label = next((found for text in said if (found := class_of(text, classes)) is not None), None)
    return label, said[0] if said else ""


def _from_one_hot(
    cells: Mapping[str, str], columns: Sequence[str], classes: Sequence[str], path: Path
) -> tuple[int | None, str]:
    where = f"{path}: {next(cells[column] for column in _IDS if column in cells)}"
    try:
        chosen = [each for each in columns if not _blank(cells[each]) and float(cells[each].replace(",", "."))]
    except ValueError as error:
        raise DataError(f"{where} has a cell that is not 0 or 1: {error}") from error
    if len(chosen) != 1:
        raise DataError(f"{where} is of {len(chosen)} classes: a row must have a 1 in one column")
    return class_of(chosen[0], classes), chosen[0]
