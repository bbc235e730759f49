"""Labelled photos, their lesions, and the split into train, validation and test, from a seed.

The protocol `lesion` keeps the photos of a lesion together; `image` draws photos one by one, as the papers did, so that
photos of a test lesion may be trained on. Equal files stay together in both.
"""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dermserve.models.durable import replacing
from dermserve.models.training.errors import DataError, RunError

_SHOWN = 3
_COLUMNS = ("photo", "lesion_id", "part", "sha256")
_TEXT: Mapping[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}  # file names may not be UTF-8


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo."""

    path: Path
    name: str  # its path within the data set, with slashes
    label: int  # index into the classes
    lesion: str  # the photo's own name if none is given
    split: str = ""  # "train", "validation" or "test" if the data set says so, else empty
    digest: str = ""  # first 64 bits of the SHA-256 of its file, in hexadecimal


_Key: TypeAlias = Callable[[Sample], str]


class Part(StrEnum):
    """A part of a split."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Protocol(StrEnum):
    """What a split keeps together: all photos of a lesion, or only equal files."""

    LESION = "lesion"
    IMAGE = "image"


class Recorded(NamedTuple):
    """A photo in a run's split.csv; `digest` as in Sample."""

    lesion: str
    part: Part
    digest: str


def digest_file(sample: Sample) -> str:
    """Return the digest of a photo's file, as in Sample. Raises DataError: it can't be read, or is empty."""
    try:
        data = sample.path.read_bytes()
    except OSError as error:
        raise DataError(f"{sample.path} can't be read: {error.strerror}") from error
    if not data:
        raise DataError(f"{sample.path} is empty: replace or remove it")
    return hashlib.sha256(data).hexdigest()[:16]


def join_lesions(samples: Sequence[Sample], lesions: Sequence[Sequence[str]]) -> list[Sample]:
    """Join photos with common lesions, as the data set names them, or equal files, under the first lesion's name.

    So are files of one name in one folder, as IMG_1.HEIC and IMG_1.JPG: one photo in two formats.
    """
    from scipy.cluster.hierarchy import DisjointSet  # in the extra `train`, which an export does not need

    groups, names = DisjointSet(range(len(samples))), dict[Any, str]()
    for item, (sample, own) in enumerate(zip(samples, lesions, strict=True)):
        photo = ("photo", sample.name.rpartition(".")[0])
        for key in (*(("lesion", name) for name in own), ("bytes", sample.digest), photo):
            groups.add(key)
            groups.merge(item, key)
    for item, own in enumerate(lesions):
        for name in own[:1]:
            names.setdefault(groups[item], name)
    return [replace(sample, lesion=names.setdefault(groups[item], sample.name)) for item, sample in enumerate(samples)]


def refuse_contradictions(samples: Sequence[Sample], classes: Sequence[str]) -> None:
    """Raise DataError if equal files are of two classes, or the data set's own split divides them or a lesion."""
    two = _differing(samples, lambda sample: sample.digest, lambda sample: classes[sample.label])
    if pairs := [f"{one.name} ({classes[one.label]}) = {other.name} ({classes[other.label]})" for one, other in two]:
        raise DataError(f"the same photo is under two labels: {_shown(pairs)}; remove the wrong one")
    pairs = [
        f"{one.name} ({one.split or 'train'}) and {other.name} ({other.split or 'train'}) "
        f"{'are equal byte for byte' if one.digest == other.digest else f'show the lesion {other.lesion}'}"
        for one, other in _differing(samples, lambda sample: sample.lesion, lambda sample: sample.split or "train")
    ]
    if pairs:
        raise DataError(f"the data set's own split divides lesions or equal files: {_shown(pairs)}; correct it")


def _differing(samples: Sequence[Sample], key: _Key, value: _Key) -> Iterator[tuple[Sample, Sample]]:
    """Pair the first photo of each group with one of another value, an equal file if there is one."""
    for first, *rest in _grouped(samples, key):
        if others := [other for other in rest if value(other) != value(first)]:
            yield first, min(others, key=lambda other: other.digest != first.digest)


def _grouped(samples: Iterable[Sample], key: _Key) -> list[list[Sample]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[key(sample)].append(sample)
    return list(groups.values())


def _shown(found: Sequence[str]) -> str:
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def split(
    samples: Sequence[Sample], *, protocol: Protocol, validation: float, test: float, seed: int
) -> dict[Sample, Part]:
    """Assign every photo to a part, class by class, at random from the seed; the order of photos does not matter.

    If the data set names test or validation photos, they stay that. Shares, 0..1, divide the rest. What stays together
    by the protocol counts to its most common class.
    """
    own = _own_parts(samples)
    parts = {sample: Part(sample.split) for sample in samples if sample.split in own}
    left = sorted((s for s in samples if s not in parts), key=lambda sample: (sample.path.stem, sample.name))
    by_class: dict[int, list[list[Sample]]] = defaultdict(list)
    for group in _grouped(left, lambda s: s.lesion if protocol is Protocol.LESION else s.digest or s.name):
        by_class[Counter(sample.label for sample in group).most_common(1)[0][0]].append(group)
    rng = np.random.default_rng(seed)
    for _, groups in sorted(by_class.items()):
        total, order = sum(map(len, groups)), iter([groups[index] for index in rng.permutation(len(groups))])
        for part, share in ((Part.TEST, test), (Part.VALIDATION, validation)):
            wanted, have = 0 if part in own else round(total * share), 0
            while have < wanted and (group := next(order, [])):
                parts |= dict.fromkeys(group, part)
                have += len(group)
        parts |= {sample: Part.TRAIN for group in order for sample in group}
    return parts


def _own_parts(samples: Iterable[Sample]) -> set[Part]:
    return {Part(sample.split) for sample in samples if sample.split} - {Part.TRAIN}


def require_parts(parts: Mapping[Sample, Part], classes: Sequence[str], *, validation: float, test: float) -> None:
    """Raise DataError if a part lacks photos of a class; a data set's own test part may lack some."""
    own = _own_parts(parts)
    shares = {Part.TRAIN: 1 - validation - test, Part.VALIDATION: validation, Part.TEST: test * (Part.TEST not in own)}
    have = Counter((part, sample.label) for sample, part in parts.items())
    lesions = Counter(label for label, _ in {(sample.label, sample.lesion) for sample in parts})
    missing = []
    for part, share in shares.items():
        counts = [f"{code} ({lesions[i]} lesions)" for i, code in enumerate(classes) if not have[part, i]]
        if counts and share:
            needed = f": at {share:.0%}, about {int(0.5 / share) + 1} lesions of a class are needed"
            by = ", by the data set's own split" if part in own or (own and part is Part.TRAIN) else needed
            missing.append(f"{part.value} has no photo of {', '.join(counts)}{by}")
    if missing:
        raise DataError(f"too few lesions to split; {'; '.join(missing)}: add photos, or change the shares")


def write_split(path: Path, parts: Mapping[Sample, Part]) -> None:
    """Write a split as CSV: photo (path within the data set), lesion_id, part, sha256 (first 64 bits)."""
    with replacing(path) as partial, partial.open("w", newline="", **_TEXT) as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for sample, part in sorted(parts.items(), key=lambda item: item[0].name):
            writer.writerow((sample.name, sample.lesion, part.value, sample.digest))


def read_split(path: Path) -> dict[str, Recorded]:
    """Read a split by photos' paths within the data set. Raises RunError: it is damaged."""
    with path.open(newline="", **_TEXT) as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise RunError(f"{path} does not have the columns {', '.join(_COLUMNS)}: train again")
        try:
            return {row["photo"]: Recorded(row["lesion_id"], Part(row["part"]), row["sha256"]) for row in reader}
        except (ValueError, csv.Error) as error:
            raise RunError(f"{path} is damaged ({error}): restore it, or train again") from error
