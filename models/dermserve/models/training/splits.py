"""Which photos train, which validate and which test, decided once per run from a seed.

`lesion` keeps a lesion's photos together: the honest split. `image` draws photos one by one, as the papers did, so that
other photos of a test lesion may have been trained on.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np

from dermserve.models.training.errors import RunError
from dermserve.models.training.layouts import Sample


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
    """Nothing: photos are drawn one by one."""


def split(
    samples: Sequence[Sample], *, protocol: Protocol, validation: float, test: float, seed: int
) -> dict[Sample, Part]:
    """Assign every photo to a part, class by class, at random from the seed.

    Photos that their data set puts into "test" test and no others do; those it puts into "train" are divided into train
    and validation.

    Args:
        samples: the photos; the result does not depend on their order.
        protocol: what to keep together.
        validation: share of the photos, 0..1.
        test: share of the photos, 0..1; unused where the data set says what tests.
        seed: another seed, another split.
    """
    fixed = any(sample.split == Part.TEST for sample in samples)
    drawn = [sample for sample in samples if not (fixed and sample.split == Part.TEST)]
    parts = dict.fromkeys((sample for sample in samples if fixed and sample.split == Part.TEST), Part.TEST)
    rng = np.random.default_rng(seed)
    shares = {Part.TEST: 0.0 if fixed else test, Part.VALIDATION: validation}
    for groups in _groups_by_class(drawn, protocol):
        parts |= _assign(groups, shares, rng)
    return parts


def write_split(path: Path, parts: Mapping[Sample, Part]) -> None:
    """Write a split as CSV: image_id, lesion_id, part."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image_id", "lesion_id", "part"))
        for sample, part in sorted(parts.items(), key=lambda item: item[0].name):
            writer.writerow((sample.name, sample.lesion, part.value))


def read_split(path: Path) -> dict[str, tuple[str, Part]]:
    """Read a split: image id → (lesion id, part).

    Raises:
        RunError: no such file.
    """
    if not path.is_file():
        raise RunError(f"{path} is not there: pass the folder of a run that `dermserve train` wrote")
    with path.open(newline="", encoding="utf-8") as file:
        return {row["image_id"]: (row["lesion_id"], Part(row["part"])) for row in csv.DictReader(file)}


def _groups_by_class(samples: Sequence[Sample], protocol: Protocol) -> list[list[list[Sample]]]:
    """Group photos as the protocol says, then by the class most of a group's photos have; in a fixed order."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: (sample.name, str(sample.path))):
        groups[sample.lesion if protocol is Protocol.LESION else str(sample.path)].append(sample)
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
