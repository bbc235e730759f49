"""Reading data sets."""

import csv
import pathlib

import pytest

from dermserve.models.training.cache import load_pixels
from dermserve.models.training.errors import DataError
from dermserve.models.training.layouts import count_classes, read_samples, require_samples

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
    assert found == [("ISIC_0", 0, "HAM_7"), ("ISIC_1", 1, "HAM_7")]


def test_labels_csv_gives_the_split(tmp_path: pathlib.Path) -> None:
    draw(tmp_path / "BCC" / "a.png", label=0, seed=0)
    (tmp_path / "labels.csv").write_text("path,label,lesion_id,split\nBCC/a.png,BCC,L1,test\n")
    (sample,) = read_samples(tmp_path, CLASSES)
    assert (sample.label, sample.lesion, sample.split) == (0, "L1", "test")


def test_photos_with_equal_bytes_show_one_lesion(folders: MakeFolders) -> None:
    base = folders({"bcc": 2})
    (base / "bcc" / "copy.png").write_bytes((base / "bcc" / "bcc_001.png").read_bytes())
    by_name = {sample.name: sample.lesion for sample in read_samples(base, CLASSES)}
    assert by_name["copy"] == by_name["bcc_001"] != by_name["bcc_000"]


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


def test_pixels_are_decoded_once_and_again_when_a_photo_changes(folders: MakeFolders, tmp_path: pathlib.Path) -> None:
    base, cache = folders({"bcc": 3}), tmp_path / "cache"
    done: list[int] = []
    first = load_pixels(read_samples(base, CLASSES), folder=cache, side=32, progress=done.append)
    again = load_pixels(read_samples(base, CLASSES), folder=cache, side=32, progress=done.append)
    assert sum(done) == 3
    assert first.shape == (3, 32, 32, 3)
    assert (first == again).all()
    draw(base / "bcc" / "bcc_001.png", label=2, seed=99, side=50)
    changed = load_pixels(read_samples(base, CLASSES), folder=cache, side=32)
    assert [bool((a == b).all()) for a, b in zip(first, changed, strict=True)] == [True, False, True]
