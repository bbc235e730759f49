"""Reading data sets."""

import csv
import itertools
import os
import pathlib

import pytest

from dermserve.models.training.data import photos
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.photos import load_pixels
from dermserve.models.training.data.splits import (
    Protocol,
    count_classes,
    read_split,
    require_samples,
    split,
    write_split,
)
from dermserve.models.training.errors import DataError

from .conftest import CLASSES, MakeFolders, draw


def test_a_folder_a_class_is_read_whatever_the_case_of_its_names(folders: MakeFolders) -> None:
    base = folders({"BCC": 2, "Scc": 3, "normal": 1})
    assert count_classes(read_samples(base, CLASSES), CLASSES) == {"bcc": 2, "scc": 3, "normal": 1}


def test_metadata_beside_class_folders_gives_the_lesions(folders: MakeFolders) -> None:
    samples = read_samples(folders({"bcc": 4, "scc": 2}, lesions=True), CLASSES)
    assert len({sample.lesion for sample in samples}) == 3


def test_flat_photos_take_class_and_lesion_from_the_metadata(tmp_path: pathlib.Path) -> None:
    for index, folder in enumerate(("HAM10000_images_part_1", "HAM10000_images_part_2")):
        draw(tmp_path / folder / f"ISIC_{index}.jpg", label=index, seed=index)
    rows = [("image_id", "lesion_id", "dx"), ("ISIC_0", "HAM_7", "bcc"), ("ISIC_1", "HAM_7", "scc")]
    with (tmp_path / "HAM10000_metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    found = [(sample.name, sample.label, sample.lesion) for sample in read_samples(tmp_path, CLASSES)]
    assert found == [
        ("HAM10000_images_part_1/ISIC_0.jpg", 0, "HAM_7"),
        ("HAM10000_images_part_2/ISIC_1.jpg", 1, "HAM_7"),
    ]


def test_labels_csv_gives_the_split(tmp_path: pathlib.Path) -> None:
    draw(tmp_path / "BCC" / "a.png", label=0, seed=0)
    (tmp_path / "labels.csv").write_text("path,label,lesion_id,split\nBCC/a.png,BCC,L1,test\n")
    (sample,) = read_samples(tmp_path, CLASSES)
    assert (sample.label, sample.lesion, sample.split) == (0, "L1", "test")


def test_photos_with_equal_bytes_show_one_lesion(folders: MakeFolders) -> None:
    base = folders({"bcc": 2})
    (base / "bcc" / "copy.png").write_bytes((base / "bcc" / "bcc_001.png").read_bytes())
    by_name = {sample.name: sample.lesion for sample in read_samples(base, CLASSES)}
    assert by_name["bcc/copy.png"] == by_name["bcc/bcc_001.png"] != by_name["bcc/bcc_000.png"]


def write_labels(base: pathlib.Path, rows: list[tuple[str, str, str]]) -> None:
    """Write labels.csv beside photos of bcc: path, lesion, split."""
    lines = [f"{path},bcc,{lesion},{split}\n" for path, lesion, split in rows]
    (base / "labels.csv").write_text("path,label,lesion_id,split\n" + "".join(lines))


def copies(base: pathlib.Path, groups: list[str]) -> None:
    """Draw a photo for each group of one-letter names, and copy it under each of them."""
    for seed, names in enumerate(groups):
        for name in names:
            draw(base / f"{name}.png", label=0, seed=seed, side=16)


@pytest.mark.parametrize("order", ["ABCD", "DCBA", "BDAC", "CADB"])
def test_copies_and_lesions_are_joined_along_any_chain(tmp_path: pathlib.Path, order: str) -> None:
    """A (L1) = B (L2), C (L3) = D (L2): all four show one lesion."""
    lesions = {"A": "L1", "B": "L2", "C": "L3", "D": "L2", "E": "L5"}
    names = dict(zip("ABCDE", [*order, "E"], strict=True))  # the order of the names must not matter
    copies(tmp_path, [names["A"] + names["B"], names["C"] + names["D"], "E"])
    write_labels(tmp_path, [(f"{names[key]}.png", lesion, "") for key, lesion in lesions.items()])
    found = {sample.name[0]: sample.lesion for sample in read_samples(tmp_path, CLASSES)}
    assert len({found[name] for name in "ABCD"}) == 1
    assert found["E"] not in {found[name] for name in "ABCD"}


def test_a_copy_without_a_lesion_takes_that_of_its_twin(tmp_path: pathlib.Path) -> None:
    copies(tmp_path, ["AB"])
    write_labels(tmp_path, [("A.png", "", ""), ("B.png", "L2", "")])
    assert {sample.lesion for sample in read_samples(tmp_path, CLASSES)} == {"L2"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("A", "", "train"), ("B", "", "test")], r"A\.png \(train\) and B\.png \(test\) are equal byte for byte"),
        ([("A", "", ""), ("B", "", "test")], r"A\.png \(train\) and B\.png \(test\) are equal byte for byte"),
        ([("A", "", "val"), ("B", "", "test")], r"A\.png \(validation\) and B\.png \(test\) are equal"),
        ([("A", "", "training"), ("B", "", "valid")], r"A\.png \(train\) and B\.png \(validation\) are equal"),
        ([("A", "L", "train"), ("C", "L", "test")], r"A\.png \(train\) and C\.png \(test\) show the lesion L"),
        ([("A", "L", "train"), ("B", "K", "train"), ("C", "K", "test")], r"A\.png \(train\) and C\.png \(test\) show"),
    ],
)
def test_a_data_sets_own_split_that_leaks_is_refused(
    tmp_path: pathlib.Path, rows: list[tuple[str, str, str]], message: str
) -> None:
    copies(tmp_path, ["AB", "C"])
    write_labels(tmp_path, [(f"{name}.png", lesion, split) for name, lesion, split in rows])
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path, CLASSES)


def test_train_and_test_folders_that_share_a_photo_are_refused(tmp_path: pathlib.Path) -> None:
    for folder in ("train", "test"):
        draw(tmp_path / folder / "bcc" / f"{folder}.png", label=0, seed=1)
    with pytest.raises(DataError, match=r"test/bcc/test\.png \(test\) and train/bcc/train\.png \(train\) are equal"):
        read_samples(tmp_path, CLASSES)


def test_a_split_that_is_none_is_named(tmp_path: pathlib.Path) -> None:
    copies(tmp_path, ["A"])
    write_labels(tmp_path, [("A.png", "L", "holdout")])
    with pytest.raises(DataError, match="'holdout'; it may be train, validation, test or empty"):
        read_samples(tmp_path, CLASSES)


def test_equal_names_in_several_folders_are_several_photos(tmp_path: pathlib.Path) -> None:
    for label, code in enumerate(CLASSES):
        for index in range(4):
            draw(tmp_path / code / f"{index}.png", label=label, seed=10 * label + index, side=16)
    samples = read_samples(tmp_path, CLASSES)
    assert len({sample.name for sample in samples}) == len({sample.lesion for sample in samples}) == 12
    parts = split(samples, protocol=Protocol.LESION, validation=0.25, test=0.25, seed=0)
    write_split(tmp_path / "split.csv", parts)
    recorded = read_split(tmp_path / "split.csv")
    assert {sample: recorded[sample.name].part for sample in samples} == parts


def test_a_wrong_layout_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "cats").mkdir()
    with pytest.raises(DataError, match=r"no layout dermserve knows.*a folder a class"):
        read_samples(tmp_path, CLASSES)


def test_an_unknown_class_is_named(tmp_path: pathlib.Path) -> None:
    draw(tmp_path / "x" / "a.png", label=0, seed=0)
    (tmp_path / "labels.csv").write_text("path,label,lesion_id,split\nx/a.png,mole,L1,\n")
    with pytest.raises(DataError, match="'mole'; this model knows bcc, scc, normal"):
        read_samples(tmp_path, CLASSES)


def test_a_missing_photo_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label,lesion_id,split\nx/a.png,bcc,L1,\n")
    with pytest.raises(DataError, match=r"x/a.png, which is not there"):
        read_samples(tmp_path, CLASSES)


def test_a_missing_column_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="lacks the column lesion_id"):
        read_samples(tmp_path, CLASSES)


def test_a_class_with_too_few_lesions_is_named(folders: MakeFolders) -> None:
    samples = read_samples(folders({"bcc": 6, "scc": 4, "normal": 6}, lesions=True), CLASSES)
    with pytest.raises(DataError, match="class scc has 2 lesions; at least 3"):
        require_samples(samples, CLASSES, minimum=3)


def test_unreadable_photos_are_named_and_leave_no_cache(folders: MakeFolders, tmp_path: pathlib.Path) -> None:
    base = folders({"bcc": 2})
    (base / "bcc" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 3 photos can't be read(.|\n)*broken\.png"):
        load_pixels(read_samples(base, CLASSES), folder=tmp_path / "cache", side=32)
    assert list((tmp_path / "cache").iterdir()) == []


def test_pixels_are_decoded_again_by_other_code(
    folders: MakeFolders, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, done = read_samples(folders({"bcc": 2}), CLASSES), list[int]()
    for version in ("one", "one", "two"):
        monkeypatch.setattr(photos, "imaging_version", lambda version=version: version)
        load_pixels(samples, folder=tmp_path / "cache", side=32, progress=done.append)
    assert sum(done) == 4


def test_two_processes_that_decode_the_same_photos_do_not_share_a_partial_file(
    folders: MakeFolders, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, seen = read_samples(folders({"bcc": 3}), CLASSES), set[str]()
    other = itertools.count(1000)

    def meet(_: int) -> None:
        """Let a second process begin and end while the first one is half way."""
        seen.update(path.name for path in (tmp_path / "cache").iterdir())
        if len(seen) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(os, "getpid", lambda: next(other))
                load_pixels(samples, folder=tmp_path / "cache", side=32)

    pixels = load_pixels(samples, folder=tmp_path / "cache", side=32, progress=meet)
    assert pixels.any(axis=(1, 2, 3)).all()
    (whole,) = (tmp_path / "cache").iterdir()
    assert whole.suffix == ".npy"


def test_pixels_are_decoded_once_and_again_when_a_photo_changes(folders: MakeFolders, tmp_path: pathlib.Path) -> None:
    base, folder = folders({"bcc": 3}), tmp_path / "cache"
    done: list[int] = []
    first = load_pixels(read_samples(base, CLASSES), folder=folder, side=32, progress=done.append)
    again = load_pixels(read_samples(base, CLASSES), folder=folder, side=32, progress=done.append)
    assert sum(done) == 3
    assert first.shape == (3, 32, 32, 3)
    assert (first == again).all()
    draw(base / "bcc" / "bcc_001.png", label=2, seed=99, side=50)
    changed = load_pixels(read_samples(base, CLASSES), folder=folder, side=32)
    assert [bool((a == b).all()) for a, b in zip(first, changed, strict=True)] == [True, False, True]
