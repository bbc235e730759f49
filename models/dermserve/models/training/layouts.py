"""The three layouts photos come in, read to one list of labelled photos.

- `labels.csv` (path, label, lesion_id, split) beside a folder a class: the split it names is kept;
- `HAM10000_metadata.csv` (image_id, lesion_id, dx) beside flat photos, or the two folders Kaggle ships them in;
- a folder a class, with lesion ids from `HAM10000_metadata.csv` or `metadata.csv` where there is one.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dermserve.models.training.errors import DataError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_METADATA = ("HAM10000_metadata.csv", "HAM10000_metadata", "metadata.csv")
_FLAT_FOLDERS = ("", "images", "HAM10000_images_part_1", "HAM10000_images_part_2")


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo."""

    path: Path
    """Its file."""
    label: int
    """Index into the classes."""
    lesion: str
    """The lesion it shows; the photo's own name where nothing says."""
    split: str = ""
    """"train" or "test" where the data set itself says, else empty."""

    @property
    def name(self) -> str:
        """The file name without its suffix: HAM10000's image_id."""
        return self.path.stem


def read_samples(directory: Path, classes: Sequence[str]) -> list[Sample]:
    """Read a data set's list of photos, sorted by name; no photo is decoded.

    Photos whose files are equal byte for byte are taken to show the same lesion.

    Raises:
        DataError: the layout is not one of the three, or names photos or classes that are not there.
    """
    if not directory.is_dir():
        raise DataError(f"{directory} is not a folder: pass the folder that holds the photos")
    samples = _read(directory, [code.lower() for code in classes])
    if not samples:
        raise DataError(f"no photos in {directory}: expected {_expected(classes)}")
    return _join_equal_files(sorted(samples, key=lambda sample: (sample.name, str(sample.path))))


def require_samples(samples: Iterable[Sample], classes: Sequence[str], *, minimum: int) -> None:
    """Check that every class has enough lesions to be split.

    Raises:
        DataError: the first class that has fewer than `minimum` lesions.
    """
    lesions: dict[int, set[str]] = {}
    for sample in samples:
        lesions.setdefault(sample.label, set()).add(sample.lesion)
    for label, code in enumerate(classes):
        if (count := len(lesions.get(label, ()))) < minimum:
            raise DataError(f"class {code} has {count} lesions; at least {minimum} are needed: add photos of it")


def count_classes(samples: Iterable[Sample], classes: Sequence[str]) -> dict[str, int]:
    """Count photos by class code, in the order of the classes."""
    counts = Counter(sample.label for sample in samples)
    return {code: counts[label] for label, code in enumerate(classes)}


def _read(directory: Path, classes: Sequence[str]) -> list[Sample]:
    if (labels := directory / "labels.csv").is_file():
        return _read_labels(labels, classes)
    metadata = next((path for name in _METADATA if (path := directory / name).is_file()), None)
    folders = _class_folders(directory, classes)
    if folders:
        return _read_folders(folders, _lesions(metadata))
    if metadata is not None:
        return _read_flat(directory, metadata, classes)
    raise DataError(f"{directory} has no layout dermserve knows: expected {_expected(classes)}")


def _expected(classes: Sequence[str]) -> str:
    return (
        f"a folder a class ({', '.join(classes)}), HAM10000_metadata.csv beside its photos, "
        "or labels.csv with the columns path, label, lesion_id, split"
    )


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} lacks the column {missing[0]}; it needs {', '.join(columns)}")
        return list(reader)


def _label(text: str, classes: Sequence[str], where: Path) -> int:
    try:
        return classes.index(text.lower())
    except ValueError:
        raise DataError(f"{where} names the class {text!r}; this model knows {', '.join(classes)}") from None


def _read_labels(path: Path, classes: Sequence[str]) -> list[Sample]:
    samples = []
    for row in _rows(path, ("path", "label", "lesion_id", "split")):
        photo = path.parent / row["path"]
        if not photo.is_file():
            raise DataError(f"{path} names {row['path']}, which is not there")
        samples.append(Sample(photo, _label(row["label"], classes, path), row["lesion_id"] or photo.stem, row["split"]))
    return samples


def _lesions(metadata: Path | None) -> Mapping[str, str]:
    if metadata is None:
        return {}
    return {row["image_id"]: row["lesion_id"] for row in _rows(metadata, ("image_id", "lesion_id"))}


def _class_folders(directory: Path, classes: Sequence[str]) -> dict[int, Path]:
    """Find the folders named as classes; a data set may lack some classes, but not all."""
    by_name = {path.name.lower(): path for path in sorted(directory.iterdir()) if path.is_dir()}
    return {label: by_name[code] for label, code in enumerate(classes) if code in by_name}


def _photos(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.suffix.lower() in _SUFFIXES)


def _read_folders(folders: Mapping[int, Path], lesions: Mapping[str, str]) -> list[Sample]:
    return [
        Sample(photo, label, lesions.get(photo.stem, photo.stem))
        for label, folder in folders.items()
        for photo in _photos(folder)
    ]


def _read_flat(directory: Path, metadata: Path, classes: Sequence[str]) -> list[Sample]:
    folders = [folder for name in _FLAT_FOLDERS if (folder := directory / name).is_dir()]
    photos = {photo.stem: photo for folder in folders for photo in _photos(folder)}
    samples = []
    for row in _rows(metadata, ("image_id", "lesion_id", "dx")):
        if row["image_id"] not in photos:
            raise DataError(f"{metadata} names {row['image_id']}, which is not among the photos of {directory}")
        samples.append(Sample(photos[row["image_id"]], _label(row["dx"], classes, metadata), row["lesion_id"]))
    return samples


def _join_equal_files(samples: Sequence[Sample]) -> list[Sample]:
    """Give photos with equal bytes one lesion, so that no split can put a copy on either side."""
    first: dict[bytes, str] = {}
    joined: dict[str, str] = {}
    for sample in samples:
        digest = hashlib.sha256(sample.path.read_bytes()).digest()
        lesion = first.setdefault(digest, sample.lesion)
        if lesion != sample.lesion:
            joined[sample.lesion] = lesion
    return [replace(sample, lesion=_root(sample.lesion, joined)) for sample in samples]


def _root(lesion: str, joined: Mapping[str, str]) -> str:
    seen = {lesion}
    while (parent := joined.get(lesion)) is not None and parent not in seen:
        seen.add(parent)
        lesion = parent
    return lesion
