"""Read the layouts of data sets into one list of labelled photos.

- a folder a class, at any depth and in any case; folders named train, validation and test split the photos;
- photos in any folders, with a table of their classes and lesions: HAM10000's metadata, the ISIC archive's, the one-hot
  tables and lesion groups of the ISIC challenges, or columns path and label; a column `split` is kept.

A photo's name is its path within the data set. Its class is that of its folder or of a table; if there are both, they
must agree.
"""

import os
import re
import tomllib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dermserve.imaging.heif import HEIC
from dermserve.models.training.data.splits import Sample, digest_file, join_lesions, refuse_contradictions
from dermserve.models.training.data.tables import SPLITS, Row, Table, class_of, read_table
from dermserve.models.training.errors import DataError
from dermserve.models.training.terminal import say

_PHOTOS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", *((".heic", ".heif") if HEIC else ())})
_OTHER_PICTURES = frozenset({".heic", ".heif", ".tif", ".tiff", ".bmp", ".gif", ".dcm", ".avif", ".jxl", ".jp2"})
_TABLES = frozenset({".csv", ".tab", ".tsv"})
# Folders of operating systems: copies, deleted photos, and what only root may read at the top of a disk.
_SYSTEM = frozenset({"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
UNSTATED = {"data": "not stated", "license": "not stated"}
_WORD = re.compile(r"[^a-z]+")


def read_samples(directory: Path, classes: Sequence[str]) -> list[Sample]:
    """List a data set's photos, sorted by name, without decoding them; print a line for what is left out.

    `classes` are the model's codes. Raises DataError: the layout is unknown or contradicts itself.
    """
    expected = (
        f"a folder a class ({', '.join(classes)}), HAM10000_metadata.csv or a table of the ISIC archive beside photos, "
        "or one with the columns path and label"
    )
    found, described = _walk(directory)
    tables = [read_table(directory / name, classes) for name in described]
    folders = {photo: _folder_class(photo, classes) for photo in found}
    if all(table.lacks for table in tables) and all(label is None for label in folders.values()):
        if tables:
            raise DataError(f"{tables[0].path} lacks the columns {tables[0].lacks}: expected {expected}")
        raise DataError(f"{directory} has no layout dermserve knows: expected {expected}")
    samples, lesions = _merge(directory, folders, tables, classes)
    if not samples:
        raise DataError(f"{directory} has {len(found)} photos, none with a class: expected {expected}")
    joined = join_lesions([replace(sample, digest=digest_file(sample)) for sample in samples], lesions)
    refuse_contradictions(joined, classes)
    return sorted(joined, key=lambda sample: sample.name)


def _walk(directory: Path) -> tuple[list[str], list[str]]:
    """List the photos and the tables, also in linked folders, by path within; hidden folders are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} can't be read: {error.strerror}") from error

    for base, folders, files in os.walk(directory, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(base)) in seen:
            folders.clear()
            continue
        seen.add(real)
        found["junk"] += [name for name in folders if name == "__MACOSX"]
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SYSTEM)
        for path in (Path(base, name) for name in sorted(files)):
            found[_kind(path)].append(path.relative_to(directory).as_posix())
    if dangling := found["dangling"]:
        what = f"{directory / dangling[0]} is a link to nothing, or no file ({len(dangling)} in all)"
        raise DataError(f"{what}: fetch the files (git annex get, dvc pull) or remove the links")
    if found["junk"]:
        say(f"left out {len(found['junk'])} files that macOS leaves beside others (._*, .DS_Store, __MACOSX)")
    if others := Counter(Path(name).suffix.lower() for name in found["others"]):
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        say(f"left out pictures of formats that are not read: {kinds}; convert them to JPEG or PNG (HEIC: extra heic)")
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


def _folder_class(photo: str, classes: Sequence[str]) -> int | None:
    found = {label for part in Path(photo).parts[:-1] if (label := class_of(part, classes)) is not None}
    if len(found) > 1:
        raise DataError(f"{photo} lies in the folders of {len(found)} classes: move it out of one")
    return found.pop() if found else None


def _merge(
    directory: Path, folders: Mapping[str, int | None], read: Sequence[Table], classes: Sequence[str]
) -> tuple[list[Sample], list[list[str]]]:
    labels, lesions = dict(folders), {photo: list[str]() for photo in folders}
    # Folders may be called Test or ISIC2018_Task3_Training_Input.
    words = {photo: _WORD.split(Path(photo).parent.as_posix().lower()) for photo in folders}
    splits = {photo: next((SPLITS[word] for word in words[photo] if word in SPLITS), "") for photo in folders}
    others: dict[str, tuple[Table, str]] = {}
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
        there = {row.photo for row, _ in matched}
        if absent := [row.photo for row in table.rows if row.photo not in there]:
            count = f"{len(absent)} photos that are not there, of {len(table.rows)}"
            say(f"{table.path} names {count}, such as {absent[0]}")
    _say_unlabelled({photo: others.get(photo) for photo in folders if labels[photo] is None}, classes)
    known = {photo: label for photo, label in labels.items() if label is not None}
    samples = [Sample(directory / photo, photo, label, "", splits[photo]) for photo, label in known.items()]
    return samples, [lesions[photo] for photo in known]


def _match(
    directory: Path, table: Table, by_stem: Mapping[str, Sequence[str]], known: Mapping[str, object]
) -> Iterator[tuple[Row, str]]:
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
        several = len({Path(photo).with_suffix("") for photo in found}) > 1  # else one photo in two formats
        if several and len({(directory / photo).read_bytes() for photo in found}) > 1:
            raise DataError(f"{table.path} names {row.photo}, which may be {found[0]} or {found[1]}: write paths there")
        yield from ((row, photo) for photo in found)


def _say_unlabelled(photos: Mapping[str, tuple[Table, str] | None], classes: Sequence[str]) -> None:
    """Say what is left out because the model lacks the class; in a table of codes, an unknown code is an error."""
    found: dict[str, list[str]] = defaultdict(list)
    for photo, said in photos.items():
        if said is not None and said[0].codes:
            raise DataError(f"{said[0].path} names the class {said[1]!r}; this model knows {', '.join(classes)}")
        what = "photos without a class" if said is None else f"photos of {said[1]}, no class of this model"
        found[what].append(photo)
    for what, names in sorted(found.items()):
        say(f"left out {len(names)} {what}, such as {names[0]}")


def read_provenance(directory: Path) -> dict[str, str]:
    """Return "data" and "license" of run.json for weights trained on a data set, by its file dataset.toml, if any."""
    path = directory / "dataset.toml"
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} can't be read as TOML: {error}") from error
    for key, value in said.items():
        if key not in ("name", "license", "source") or not isinstance(value, str):
            raise DataError(f"{path}: {key} = {value!r}; it may hold name, license and source, each a string")
    name, terms, source = (said.get(key, "").strip() for key in ("name", "license", "source"))
    if not (name or terms or source):
        return UNSTATED
    details = f"{source or 'source not stated'}; {terms or 'licence not stated'}"
    return {
        "data": f"{name or 'name not stated'} ({details})",
        "license": f"{terms}: that of the training data" if terms else "not stated",
    }


def joined_provenance(data: Path, also: Path | None, begun: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what a data set states, or else the run.json of a run to continue; and what the data set `also` states."""
    first = read_provenance(data)
    if begun is not None and first == UNSTATED:
        first = {key: begun[key] for key in UNSTATED}
    second = UNSTATED if also is None else read_provenance(also)
    return first if second in (UNSTATED, first) else {key: f"{first[key]}; {second[key]}" for key in first}
