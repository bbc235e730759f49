"""Dividing photos into parts."""

import random
from collections import defaultdict
from pathlib import Path

import pytest

from dermserve.models.training.data.splits import (
    Part,
    Protocol,
    Recorded,
    Sample,
    read_split,
    require_parts,
    split,
    write_split,
)
from dermserve.models.training.errors import DataError

SAMPLES = [
    Sample(Path(f"{label}_{index}.jpg"), f"{label}/{label}_{index}.jpg", label, f"lesion{label}_{index // (1 + label)}")
    for label, count in enumerate((200, 100, 40))
    for index in range(count)
]


def divide(samples: list[Sample], protocol: Protocol = Protocol.LESION, seed: int = 0) -> dict[Sample, Part]:
    return split(samples, protocol=protocol, validation=0.15, test=0.15, seed=seed)


def test_no_lesion_lies_in_two_parts() -> None:
    parts = defaultdict(set)
    for sample, part in divide(SAMPLES).items():
        parts[sample.lesion].add(part)
    assert all(len(found) == 1 for found in parts.values())


def test_drawing_by_image_does_divide_lesions() -> None:
    parts = defaultdict(set)
    for sample, part in divide(SAMPLES, Protocol.IMAGE).items():
        parts[sample.lesion].add(part)
    assert any(len(found) > 1 for found in parts.values())


@pytest.mark.parametrize("protocol", list(Protocol))
def test_every_class_is_divided_as_asked(protocol: Protocol) -> None:
    parts = divide(SAMPLES, protocol)
    assert set(parts) == set(SAMPLES)
    for label, count in enumerate((200, 100, 40)):
        for part in (Part.VALIDATION, Part.TEST):
            found = sum(1 for sample, of in parts.items() if sample.label == label and of is part)
            assert abs(found - 0.15 * count) <= 2


def test_the_split_depends_on_the_seed_and_not_on_the_order() -> None:
    shuffled = random.Random(0).sample(SAMPLES, len(SAMPLES))
    assert divide(SAMPLES) == divide(shuffled)
    assert divide(SAMPLES) != divide(SAMPLES, seed=1)


@pytest.mark.parametrize("kinds", [("test", "train", "train", "train"), ("test", "validation", "train", "")])
def test_photos_are_for_what_the_data_set_itself_says(kinds: tuple[str, ...]) -> None:
    fixed = [Sample(s.path, s.name, s.label, s.path.name, kinds[i % 4]) for i, s in enumerate(SAMPLES)]
    parts = divide(fixed)
    assert all((part is Part.TEST) == (sample.split == "test") for sample, part in parts.items())
    assert Part.VALIDATION in parts.values()
    if "validation" in kinds:
        assert all(part == (sample.split or "train") for sample, part in parts.items())


def test_copies_stay_together_even_when_photos_are_drawn_one_by_one() -> None:
    twins = [Sample(Path(f"{i}.jpg"), f"{i}.jpg", 0, f"lesion{i}", digest=f"bytes{i // 2}") for i in range(200)]
    parts = {sample.path.stem: part for sample, part in divide(twins, Protocol.IMAGE).items()}
    assert all(parts[f"{i}"] == parts[f"{i + 1}"] for i in range(0, 200, 2))
    assert len(set(parts.values())) == 3


@pytest.mark.parametrize(("count", "enough"), [(1, False), (3, False), (4, True), (10, True)])
def test_a_class_without_photos_in_a_part_is_refused_with_counts(count: int, enough: bool) -> None:
    rare = [Sample(Path(f"rare{i}.jpg"), f"rare{i}.jpg", 1, f"rare{i}") for i in range(count)]
    parts = divide([*SAMPLES[:200], *rare])
    if enough:
        require_parts(parts, ("nv", "df"), validation=0.15, test=0.15)
        return
    lesions = rf"df \({count} lesions\): at 15%, about 4 lesions of a class are needed"
    with pytest.raises(DataError, match=rf"validation has no photo of {lesions}; test has no photo of {lesions}"):
        require_parts(parts, ("nv", "df"), validation=0.15, test=0.15)


def test_own_validation_photos_must_have_every_class_and_own_test_photos_need_not() -> None:
    samples = [
        Sample(Path(f"{i}.jpg"), f"{i}.jpg", i % 2, f"{i}", "validation" if i in (0, 2) else "train") for i in range(40)
    ]
    with pytest.raises(DataError, match=r"validation has no photo of df \(20 lesions\), by the data set's own split"):
        require_parts(divide(samples), ("nv", "df"), validation=0.15, test=0.15)


def test_a_split_is_read_as_it_was_written(tmp_path: Path) -> None:
    parts = divide(SAMPLES)
    write_split(tmp_path / "split.csv", parts)
    assert read_split(tmp_path / "split.csv") == {s.name: Recorded(s.lesion, part, "") for s, part in parts.items()}
