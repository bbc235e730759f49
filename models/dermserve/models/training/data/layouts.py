"""Read the layouts of data sets into one list of labelled photos.

- `labels.csv` (path, label, lesion_id, split) beside a folder a class: the split it names is kept;
- a folder a class, at any depth and in any case; folders named train, validation and test split the photos;
- photos in any folders, with a table of their classes and lesions: HAM10000's metadata, the ISIC archive's, the one-hot
  tables and lesion groups of the ISIC challenges.

A photo's name is its path within the data set. Its class is that of its folder or of a table; if there are both, they
must agree.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dermserve.models.training.data import tables
from dermserve.models.training.data.splits import Sample, digest_file, join_lesions, refuse_divided, refuse_two_labels
from dermserve.models.training.data.tables import Row, Table, class_of
from dermserve.models.training.errors import DataError
from dermserve.models.training.terminal import say

_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"})
_OTHER_PICTURES = frozenset({".heic", ".heif", ".tif", ".tiff", ".bmp", ".gif", ".dcm", ".avif", ".jxl", ".jp2"})


def read_samples(directory: Path, classes: Sequence[str]) -> list[Sample]:
    """List a data set's photos, sorted by name, without decoding them; print a line for what is left out.

    Files that are equal byte for byte are of one lesion. `classes` are the model's codes.

    Raises:
        DataError: the layout is unknown, names missing photos or unknown classes, gives a photo two labels, or splits
            a lesion.
    """
    if not directory.is_dir():
        raise DataError(f"{directory} is not a folder: pass the folder that holds the photos")
    codes = [code.lower() for code in classes]
    photos, described = _walk(directory)
    samples, lesions = _read(directory, photos, described, codes)
    if not samples:
        raise DataError(f"{directory} has {len(photos)} photos, none with a class: expected {_expected(classes)}")
    hashed = [replace(sample, digest=digest_file(sample)) for sample in samples]
    refuse_two_labels(hashed, codes)
    joined = join_lesions(hashed, lesions)
    refuse_divided(joined)
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
    if path.suffix.lower() in _SUFFIXES:
        return "photos"
    if tables.is_table(path):
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
    found = [tables.read_table(directory / name, classes) for name in described]
    read = [table for table in found if isinstance(table, Table)]
    photos = _named(directory, read, photos)
    folders = {photo: _folder_class(photo, classes) for photo in photos}
    if any(table.classes for table in read) or any(label is not None for label in folders.values()):
        return _merge(directory, folders, read, classes)
    if found:
        lacking = "dx" if isinstance(found[0], Table) else ", ".join(found[0])
        raise DataError(f"{directory / described[0]} lacks the columns {lacking}: expected {_expected(classes)}")
    raise DataError(f"{directory} has no layout dermserve knows: expected {_expected(classes)}")


def _named(directory: Path, read: Sequence[Table], photos: Sequence[str]) -> Sequence[str]:
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
    found = {label for part in Path(photo).parts[:-1] if (label := class_of(part, classes)) is not None}
    if len(found) > 1:
        raise DataError(f"{photo} lies in the folders of {len(found)} classes: move it out of one")
    return found.pop() if found else None


def _merge(
    directory: Path, folders: Mapping[str, int | None], read: Sequence[Table], classes: Sequence[str]
) -> tuple[list[Sample], list[list[str]]]:
    """Merge what folders and tables say of each photo."""
    labels, lesions = dict(folders), {photo: list[str]() for photo in folders}
    splits = {photo: tables.split_of(Path(photo).parent.as_posix()) for photo in folders}
    others: dict[str, tuple[Table, str]] = {}
    by_stem: dict[str, list[str]] = defaultdict(list)
    for photo in folders:
        by_stem[_folded(Path(photo).stem)].append(photo)
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


def _folded(name: str) -> str:
    """Fold case and accents, which systems write differently."""
    return unicodedata.normalize("NFC", name).casefold()


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
        stem = Path(row.photo).stem if Path(row.photo).suffix.lower() in _SUFFIXES else Path(row.photo).name
        found = by_stem.get(_folded(stem), ())
        found = [photo for photo in found if Path(photo).stem == stem] or found
        found = [photo for photo in found if Path(photo).is_relative_to(beside)] or found
        if len(found) > 1 and len({(directory / photo).read_bytes() for photo in found}) > 1:
            raise DataError(
                f"{table.path} names {row.photo}, which may be {found[0]} or {found[1]}: write paths into it"
            )
        yield from ((row, photo) for photo in found)


def _say_unlabelled(photos: Sequence[tuple[Table, str] | None], classes: Sequence[str]) -> None:
    """Say what is left out because the model lacks the class; in a table of codes, an unknown code is an error."""
    counts: Counter[str] = Counter()
    for said in photos:
        if said is not None and said[0].codes:
            raise DataError(f"{said[0].path} names the class {said[1]!r}; this model knows {', '.join(classes)}")
        nothing = "photos without a class"
        counts[nothing if said is None else f"photos of {said[1]}, no class of this model"] += 1
    for what, count in sorted(counts.items()):
        say(f"left out {count} {what}")
