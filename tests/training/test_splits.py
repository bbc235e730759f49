"""Dividing photos into parts."""

import random
from collections import defaultdict
from pathlib import Path

import pytest

from dermserve.models.training.errors import RunError
from dermserve.models.training.layouts import Sample
from dermserve.models.training.splits import Part, Protocol, read_split, split, write_split

SAMPLES = [
    Sample(Path(f"{label}/{label}_{index}.jpg"), label, f"lesion{label}_{index // (1 + label)}")
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


def test_a_split_of_the_data_set_is_kept() -> None:
    fixed = [Sample(s.path, s.label, s.lesion, "test" if i % 4 == 0 else "train") for i, s in enumerate(SAMPLES)]
    parts = divide(fixed)
    assert all((part is Part.TEST) == (sample.split == "test") for sample, part in parts.items())
    assert Part.VALIDATION in parts.values()


def test_a_split_is_read_as_it_was_written(tmp_path: Path) -> None:
    parts = divide(SAMPLES)
    write_split(tmp_path / "split.csv", parts)
    assert read_split(tmp_path / "split.csv") == {s.name: (s.lesion, part) for s, part in parts.items()}


def test_a_missing_split_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="dermserve train"):
        read_split(tmp_path / "split.csv")
