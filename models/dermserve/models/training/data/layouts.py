"""Read the layouts of data sets into one list of labelled photos.

- `labels.csv` (path, label, lesion_id, split) beside a folder a class: the split it names is kept;
- a folder a class, at any depth and in any case; folders named train, validation and test split the photos;
- photos in any folders, with a table of their classes and lesions: HAM10000's metadata, the ISIC archive's, the one-hot
  tables and lesion groups of the ISIC challenges.

A photo's name is its path within the data set. Its class is that of its folder or of a table; if there are both, they
must agree.
"""

import csv
import io
import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from dermserve.models.training.data.splits import Sample, digest_file, join_lesions, refuse_contradictions
from dermserve.models.training.errors import DataError
from dermserve.models.training.terminal import say

_PHOTOS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
_OTHER_PICTURES = frozenset({".heic", ".heif", ".tif", ".tiff", ".bmp", ".gif", ".dcm", ".avif", ".jxl", ".jp2"})
_TABLES = frozenset({".csv", ".tab", ".tsv"})
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
class _Row:
    """What a row says of a photo."""

    photo: str  # its id, file name or path with slashes
    label: int | None  # index into the classes; None if the table gives none, or one that the model lacks
    lesion: str  # empty for none
    said: str  # the class in the table's own words
    split: str  # "train", "validation", "test" or empty


@dataclass(frozen=True, slots=True)
class _Table:
    path: Path
    rows: Sequence[_Row]
    classes: bool  # whether it gives classes
    codes: bool  # whether these are codes like the model's, so that an unknown one is an error


def read_samples(directory: Path, classes: Sequence[str]) -> list[Sample]:
    """List a data set's photos, sorted by name, without decoding them; print a line for what is left out.

    `classes` are the model's codes. Raises DataError: the layout is unknown or contradicts itself.
    """
    if not directory.is_dir():
        raise DataError(f"{directory} is not a folder: pass the folder that holds the photos")
    codes = [code.lower() for code in classes]
    photos, described = _walk(directory)
    samples, lesions = _read(directory, photos, described, codes)
    if not samples:
        raise DataError(f"{directory} has {len(photos)} photos, none with a class: expected {_expected(classes)}")
    hashed = [replace(sample, digest=digest_file(sample)) for sample in samples]
    joined = join_lesions(hashed, lesions)
    refuse_contradictions(joined, codes)
    return sorted(joined, key=lambda sample: sample.name)


def _walk(directory: Path) -> tuple[list[str], list[str]]:
    """List the photos and the tables, also in linked folders, by path within; hidden folders are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for base, folders, files in os.walk(directory, followlinks=True):
        if (real := os.path.realpath(base)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found["junk"] += [name for name in folders if name == "__MACOSX"]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for path in (Path(base, name) for name in sorted(files)):
            found[_kind(path)].append(path.relative_to(directory).as_posix())
    if dangling := found["dangling"]:
        raise DataError(
            f"{directory / dangling[0]} is a link to nothing, or no file ({len(dangling)} in all): fetch the files "
            "(git annex get, dvc pull) or remove the links"
        )
    if found["junk"]:
        say(f"left out {len(found['junk'])} files that macOS leaves beside others (._*, .DS_Store, __MACOSX)")
    if others := Counter(Path(name).suffix.lower() for name in found["others"]):
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        say(f"left out pictures of formats that are not read: {kinds}; convert them to JPEG or PNG")
    return found["photos"], found["tables"]


def _kind(path: Path) -> str:
    """Return what a file is: junk of macOS, dangling, a photo, a table, another picture, or nothing of these."""
    if path.name.startswith("._") or path.name == ".DS_Store":
        return "junk"
    if path.name.startswith("."):
        return "hidden"
    if not path.is_file():
        return "dangling"
    if path.suffix.lower() in _PHOTOS:
        return "photos"
    if path.suffix.lower() in _TABLES or path.name.lower() == "ham10000_metadata":  # Harvard's Dataverse has that
        return "tables"
    return "others" if path.suffix.lower() in _OTHER_PICTURES else ""


def _expected(classes: Sequence[str]) -> str:
    return (
        f"a folder a class ({', '.join(classes)}), HAM10000_metadata.csv or a table of the ISIC archive beside photos, "
        "or labels.csv with the columns path, label, lesion_id, split"
    )


def _read(
    directory: Path, photos: Sequence[str], described: Sequence[str], classes: Sequence[str]
) -> tuple[list[Sample], list[list[str]]]:
    """Return the photos that have a class, and the lesions that the data set names for each."""
    found = [_read_table(directory / name, classes) for name in described]
    read = [table for table in found if isinstance(table, _Table)]
    photos = _named(directory, read, photos)
    folders = {photo: _folder_class(photo, classes) for photo in photos}
    if any(table.classes for table in read) or any(label is not None for label in folders.values()):
        return _merge(directory, folders, read, classes)
    if found:
        lacking = "dx" if isinstance(found[0], _Table) else ", ".join(found[0])
        raise DataError(f"{directory / described[0]} lacks the columns {lacking}: expected {_expected(classes)}")
    raise DataError(f"{directory} has no layout dermserve knows: expected {_expected(classes)}")


def _named(directory: Path, read: Sequence[_Table], photos: Sequence[str]) -> Sequence[str]:
    """List the photos that labels.csv names, or all photos if there is no such file."""
    labels = next((table for table in read if table.path == directory / "labels.csv"), None)
    if labels is None:
        return photos
    named = [row.photo for row in labels.rows]
    for photo in named:
        if photo.startswith(("/", "../")) or not (directory / photo).is_file():
            raise DataError(f"{labels.path} names {photo}, which is not there: write paths within {directory}")
    if others := len(set(photos).difference(named)):
        say(f"left out {others} photos that {labels.path} does not name")
    return named


def _folder_class(photo: str, classes: Sequence[str]) -> int | None:
    found = {label for part in Path(photo).parts[:-1] if (label := _class_of(part, classes)) is not None}
    if len(found) > 1:
        raise DataError(f"{photo} lies in the folders of {len(found)} classes: move it out of one")
    return found.pop() if found else None


def _merge(
    directory: Path, folders: Mapping[str, int | None], read: Sequence[_Table], classes: Sequence[str]
) -> tuple[list[Sample], list[list[str]]]:
    """Merge what folders and tables say of each photo."""
    labels, lesions = dict(folders), {photo: list[str]() for photo in folders}
    # Folders may be called Test or ISIC2018_Task3_Training_Input.
    words = {photo: _WORD.split(Path(photo).parent.as_posix().lower()) for photo in folders}
    splits = {photo: next((_SPLITS[word] for word in words[photo] if word in _SPLITS), "") for photo in folders}
    others: dict[str, tuple[_Table, str]] = {}
    by_stem: dict[str, list[str]] = defaultdict(list)
    for photo in folders:
        by_stem[unicodedata.normalize("NFC", Path(photo).stem).casefold()].append(photo)
    for table in read:
        matched = list(_match(directory, table, by_stem, lesions))
        for row, photo in matched:
            before = labels[photo]
            if row.label is not None and before is not None and before != row.label:
                by = f"{classes[before]}, and by {table.path} {classes[row.label]}"
                raise DataError(f"{photo} is under two labels: {by}")
            labels[photo] = before if row.label is None else row.label
            lesions[photo] += [row.lesion] if row.lesion else []
            splits[photo] = row.split or splits[photo]
            if row.said:
                others[photo] = (table, row.said)
        if (absent := len(table.rows) - len({row.photo for row, _ in matched})) > 0:
            say(f"{table.path} names {absent} photos that are not there, of {len(table.rows)}")
    _say_unlabelled([others.get(photo) for photo in folders if labels[photo] is None], classes)
    known = {photo: label for photo, label in labels.items() if label is not None}
    samples = [Sample(directory / photo, label, "", splits[photo], photo) for photo, label in known.items()]
    return samples, [lesions[photo] for photo in known]


def _match(
    directory: Path, table: _Table, by_stem: Mapping[str, Sequence[str]], known: Mapping[str, object]
) -> Iterator[tuple[_Row, str]]:
    """Find the photos of each row: by path, else by file name, first below the table's folder; all equal files."""
    beside = table.path.parent.relative_to(directory)
    for row in table.rows:
        path = (beside / row.photo).as_posix()
        if path in known:
            yield row, path
            continue
        stem = Path(row.photo).stem if Path(row.photo).suffix.lower() in _PHOTOS else Path(row.photo).name
        found = by_stem.get(unicodedata.normalize("NFC", stem).casefold(), ())  # systems write accents differently
        found = [photo for photo in found if Path(photo).stem == stem] or found
        found = [photo for photo in found if Path(photo).is_relative_to(beside)] or found
        if len(found) > 1 and len({(directory / photo).read_bytes() for photo in found}) > 1:
            raise DataError(
                f"{table.path} names {row.photo}, which may be {found[0]} or {found[1]}: write paths into it"
            )
        yield from ((row, photo) for photo in found)


def _say_unlabelled(photos: Sequence[tuple[_Table, str] | None], classes: Sequence[str]) -> None:
    """Say what is left out because the model lacks the class; in a table of codes, an unknown code is an error."""
    counts: Counter[str] = Counter()
    for said in photos:
        if said is not None and said[0].codes:
            raise DataError(f"{said[0].path} names the class {said[1]!r}; this model knows {', '.join(classes)}")
        counts["photos without a class" if said is None else f"photos of {said[1]}, no class of this model"] += 1
    for what, count in sorted(counts.items()):
        say(f"left out {count} {what}")


def _class_of(text: str, classes: Sequence[str]) -> int | None:
    """Find the class of a code or diagnosis, in upper or lower case; None if the model lacks it."""
    name = " ".join(text.replace("_", " ").lower().split())
    code = name if name in classes else _CODES.get(name, "")
    return classes.index(code) if code in classes else None


def _read_table(path: Path, classes: Sequence[str]) -> _Table | list[str]:
    """Read a table; the columns that it lacks, if it names no photos, or gives neither classes nor lesions.

    It may be labels.csv, HAM10000's metadata (image_id, dx), the ISIC archive's (isic_id, diagnosis_1, ...), a
    challenge's one-hot table (image, MEL, NV, ...) or lesion groups (image, lesion_id). The delimiter is the header's.
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
    return _Table(path, rows, words is not None, labels or "dx" in header)


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
) -> _Row:
    name, lesion, part = cells[photo].replace("\\", "/"), cells.get("lesion_id", ""), cells.get("split", "")
    try:
        said = [] if words is None else words(cells)
    except ValueError as error:
        raise DataError(f"{where} {name} {error}") from error
    label = next((found for text in said if (found := _class_of(text, classes)) is not None), None)
    if part and part.lower() not in _SPLITS:
        raise DataError(f"{where} names the split {part!r}; it may be train, validation, test or empty")
    lesion, part = "" if lesion.lower() in _BLANK else lesion, _SPLITS.get(part.lower(), "")
    return _Row(posixpath.normpath(name) if name else "", label, lesion, said[0] if said else "", part)


def _class_words(header: Sequence[str], classes: Sequence[str], column: str) -> Callable[[_Cells], list[str]] | None:
    """Return a function that reads the names of a row's class, the best first; None if the table gives no classes."""
    if column in header:
        return lambda cells: [cells[column]]
    if columns := [each for each in _DIAGNOSES if each in header]:
        return lambda cells: [cells[each] for each in columns if cells[each].lower() not in _BLANK]
    one_hot = [each for each in header if each in _ONE_HOT or each in classes]
    return (lambda cells: _from_one_hot(cells, one_hot)) if len(one_hot) > 1 else None


def _from_one_hot(cells: _Cells, columns: Sequence[str]) -> list[str]:
    """Return the column that has the 1. Raises ValueError, a sentence about the photo: there is not one such."""
    try:
        filled = {each: cells[each].replace(",", ".") for each in columns if cells[each].lower() not in _BLANK}
        chosen = [each for each, cell in filled.items() if float(cell)]
    except ValueError as error:
        raise ValueError(f"has a cell that is not 0 or 1: {error}") from error
    if len(chosen) != 1:
        raise ValueError(f"is of {len(chosen)} classes: a row must have a 1 in one column")
    return chosen
