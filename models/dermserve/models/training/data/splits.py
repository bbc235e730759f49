"""Which photos train, which validate and which test, decided once per run from a seed.

`lesion` keeps a lesion's photos together: the honest split. `image` draws photos one by one, as the papers did, so that
other photos of a test lesion may have been trained on; equal files stay together even so.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dermserve.models.training.data.samples import Sample
from dermserve.models.training.errors import DataError, RunError


class Part(StrEnum):
    """What a photo is for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Protocol(StrEnum):
    """What a split keeps together."""

    LESION = "lesion"
    """All photos of a lesion."""
    IMAGE = "image"
    """Nothing but equal files: photos are drawn one by one."""


class Recorded(NamedTuple):
    """A photo in a run's split."""

    lesion: str
    """The lesion it shows."""
    part: Part
    """What it was for."""
    digest: str
    """First 64 bits of the SHA-256 of its file, in hexadecimal."""


_COLUMNS = ("photo", "lesion_id", "part", "sha256")


def split(
    samples: Sequence[Sample], *, protocol: Protocol, validation: float, test: float, seed: int
) -> dict[Sample, Part]:
    """Assign every photo to a part, class by class, at random from the seed.

    Where the data set says which photos test, these do and no others; likewise for validation. The rest is divided.

    Args:
        samples: the photos; the result does not depend on their order.
        protocol: what to keep together.
        validation: share of the photos, 0..1; unused where the data set says what validates.
        test: share of the photos, 0..1; unused where the data set says what tests.
        seed: another seed, another split.
    """
    own = own_parts(samples)
    parts = {sample: Part(sample.split) for sample in samples if sample.split in own}
    rng = np.random.default_rng(seed)
    shares = {Part.TEST: test, Part.VALIDATION: validation}
    shares = {part: 0.0 if part in own else share for part, share in shares.items()}
    for groups in _groups_by_class([sample for sample in samples if sample not in parts], protocol):
        parts |= _assign(groups, shares, rng)
    return parts


def own_parts(samples: Sequence[Sample]) -> set[Part]:
    """List what the data set itself says photos are for, but for training."""
    return {Part(sample.split) for sample in samples if sample.split} - {Part.TRAIN}


def require_parts(parts: Mapping[Sample, Part], classes: Sequence[str], shares: Mapping[Part, float | None]) -> None:
    """Check that every class has photos to train on, to validate on, and to test on.

    Args:
        parts: the split.
        classes: codes.
        shares: by part to check, of the photos, 0..1; None where the data set itself says what is in the part.

    Raises:
        DataError: classes that a part lacks, and how many lesions it takes.
    """
    have = Counter((part, sample.label) for sample, part in parts.items())
    lesions = {(sample.label, sample.lesion) for sample in parts}
    missing = []
    for part, share in shares.items():
        lacking = [label for label in range(len(classes)) if share != 0 and not have[part, label]]
        counts = [f"{classes[label]} ({sum(own == label for own, _ in lesions)} lesions)" for label in lacking]
        if counts:
            missing.append(f"{part.value} has no photo of {', '.join(counts)}{_needed(share)}")
    if missing:
        raise DataError(
            f"too few lesions to split; {'; '.join(missing)}: add photos, or change the experiment's shares"
        )


def write_split(path: Path, parts: Mapping[Sample, Part]) -> None:
    """Write a split as CSV: photo (its path within the data set), lesion_id, part, sha256 (its first 64 bits)."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for sample, part in sorted(parts.items(), key=lambda item: item[0].name):
            writer.writerow((sample.name, sample.lesion, part.value, sample.digest))


def read_split(path: Path) -> dict[str, Recorded]:
    """Read a split by the photos' paths within the data set.

    Raises:
        RunError: no such file, or another one.
    """
    if not path.is_file():
        raise RunError(f"{path} is not there: pass the folder of a run that `dermserve train` wrote")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise RunError(f"{path} does not have the columns {', '.join(_COLUMNS)}: train again")
        return {row["photo"]: Recorded(row["lesion_id"], Part(row["part"]), row["sha256"]) for row in reader}


def _needed(share: float | None) -> str:
    if share is None:
        return ", by the data set's own split"
    return f": at {share:.0%}, about {int(0.5 / share) + 1} lesions of a class are needed"


def _groups_by_class(samples: Sequence[Sample], protocol: Protocol) -> list[list[list[Sample]]]:
    """Group photos as the protocol says, then by the class most of a group's photos have; in a fixed order."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: (sample.path.stem, sample.name)):
        groups[sample.lesion if protocol is Protocol.LESION else sample.digest or sample.name].append(sample)
    by_class: dict[int, list[list[Sample]]] = defaultdict(list)
    for group in groups.values():
        by_class[Counter(sample.label for sample in group).most_common(1)[0][0]].append(group)
    return [by_class[label] for label in sorted(by_class)]


def _assign(
    groups: Sequence[Sequence[Sample]], shares: Mapping[Part, float], rng: np.random.Generator
) -> dict[Sample, Part]:
    """Fill test, then validation, to their share of the class's photos; the rest trains."""
    total = sum(len(group) for group in groups)
    order = iter([groups[index] for index in rng.permutation(len(groups))])
    parts: dict[Sample, Part] = {}
    for part, share in shares.items():
        wanted, have = round(total * share), 0
        while have < wanted and (group := next(order, None)) is not None:
            parts |= dict.fromkeys(group, part)
            have += len(group)
    for group in order:
        parts |= dict.fromkeys(group, Part.TRAIN)
    return parts
