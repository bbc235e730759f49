"""Reading data sets, and their photos as pixels."""

import errno
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dermserve.imaging import decode
from dermserve.models.durable import replacing
from dermserve.models.training.data import photos
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.photos import load_pixels
from dermserve.models.training.data.splits import (
    Protocol,
    read_split,
    split,
    write_split,
)
from dermserve.models.training.errors import DataError
from tests.training.conftest import CLASSES, MakeFolders, draw

LABELS = "path,label,lesion_id,split\n"


def test_a_folder_a_class_is_read_whatever_the_case_of_its_names(folders: MakeFolders) -> None:
    base = folders({"BCC": 2, "Scc": 3, "normal": 1})
    assert Counter(sample.label for sample in read_samples(base, CLASSES)) == {0: 2, 1: 3, 2: 1}


def test_heic_is_read_as_in_serving(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    draw(photo := tmp_path / "bcc" / "drawn.png", label=0, seed=0)
    with Image.open(photo) as image:
        pillow_heif.from_pillow(image).save(tmp_path / "bcc" / "IMG_1.HEIC")
    photo.unlink()
    samples = read_samples(tmp_path, CLASSES)
    assert [sample.name for sample in samples] == ["bcc/IMG_1.HEIC"]
    assert "left out" not in capsys.readouterr().err
    pixels = load_pixels(samples, folder=tmp_path / "cache", side=32)
    np.testing.assert_array_equal(pixels[0], decode(samples[0].path.read_bytes(), height=32, width=32))


def test_a_photo_in_two_formats_is_one_lesion_and_one_row(tmp_path: Path) -> None:
    for seed, name in enumerate(("a/IMG_1.jpg", "a/IMG_1.png", "a/IMG_2.png", "b/IMG_2.png")):
        draw(tmp_path / "bcc" / name, label=0, seed=seed)
    lesions = {sample.name: sample.lesion for sample in read_samples(tmp_path, CLASSES)}
    assert lesions["bcc/a/IMG_1.jpg"] == lesions["bcc/a/IMG_1.png"]
    assert len(set(lesions.values())) == 3
    (tmp_path / "metadata.csv").write_text("isic_id,diagnosis_1,lesion_id\nIMG_1,Basal cell carcinoma,L1\n")
    lesions = {sample.name: sample.lesion for sample in read_samples(tmp_path, CLASSES)}
    assert [name for name, lesion in lesions.items() if lesion == "L1"] == ["bcc/a/IMG_1.jpg", "bcc/a/IMG_1.png"]


def test_labels_csv_gives_the_split(tmp_path: Path) -> None:
    draw(tmp_path / "BCC" / "a.png", label=0, seed=0)
    (tmp_path / "labels.csv").write_text(f"{LABELS}BCC/a.png,BCC,L1,test\n")
    (sample,) = read_samples(tmp_path, CLASSES)
    assert (sample.label, sample.lesion, sample.split) == (0, "L1", "test")


def write_labels(base: Path, rows: list[tuple[str, str, str]]) -> None:
    """Write labels.csv beside photos of bcc: path, lesion, split."""
    (base / "labels.csv").write_text(LABELS + "".join(f"{path},bcc,{lesion},{part}\n" for path, lesion, part in rows))


def copies(base: Path, groups: list[str]) -> None:
    """Draw a photo for each group of one-letter names, and copy it under each of them."""
    for seed, names in enumerate(groups):
        for name in names:
            draw(base / f"{name}.png", label=0, seed=seed, side=16)


@pytest.mark.parametrize("order", ["ABCD", "DCBA", "BDAC", "CADB"])
def test_copies_and_lesions_are_joined_along_any_chain(tmp_path: Path, order: str) -> None:
    """A (L1) = B (L2), C (L3) = D (L2): all four show one lesion."""
    lesions = {"A": "L1", "B": "L2", "C": "L3", "D": "L2", "E": "L5"}
    names = dict(zip("ABCDE", [*order, "E"], strict=True))  # the order of the names must not matter
    copies(tmp_path, [names["A"] + names["B"], names["C"] + names["D"], "E"])
    write_labels(tmp_path, [(f"{names[key]}.png", lesion, "") for key, lesion in lesions.items()])
    found = {sample.name[0]: sample.lesion for sample in read_samples(tmp_path, CLASSES)}
    assert len({found[name] for name in "ABCD"}) == 1
    assert found["E"] not in {found[name] for name in "ABCD"}


def test_a_copy_without_a_lesion_takes_that_of_its_twin(tmp_path: Path) -> None:
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
def test_an_own_split_that_leaks_is_refused(tmp_path: Path, rows: list[tuple[str, str, str]], message: str) -> None:
    copies(tmp_path, ["AB", "C"])
    write_labels(tmp_path, [(f"{name}.png", lesion, part) for name, lesion, part in rows])
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path, CLASSES)


def test_train_and_test_folders_that_share_a_photo_are_refused(tmp_path: Path) -> None:
    for folder in ("train", "test"):
        draw(tmp_path / folder / "bcc" / f"{folder}.png", label=0, seed=1)
    with pytest.raises(DataError, match=r"test/bcc/test\.png \(test\) and train/bcc/train\.png \(train\) are equal"):
        read_samples(tmp_path, CLASSES)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (f"{LABELS}x/a.png,bcc,L,holdout\n", "'holdout'; it may be train, validation, test or empty"),
        (f"{LABELS}x/a.png,mole,L,\n", "'mole'; this model knows bcc, scc, normal"),
        (f"{LABELS}x/absent.png,bcc,L,\n", r"has 1 photos, none with a class"),
        ("path,lesion_id\n", "lacks the columns dx"),
        (None, r"no layout dermserve knows.*a folder a class"),
    ],
)
def test_what_is_wrong_with_a_layout_is_named(tmp_path: Path, labels: str | None, message: str) -> None:
    draw(tmp_path / "x" / "a.png", label=0, seed=0)
    if labels is not None:
        (tmp_path / "labels.csv").write_text(labels)
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path, CLASSES)


def test_equal_names_in_several_folders_are_several_photos(tmp_path: Path) -> None:
    for label, code in enumerate(CLASSES):
        for index in range(4):
            draw(tmp_path / code / f"{index}.png", label=label, seed=10 * label + index, side=16)
    samples = read_samples(tmp_path, CLASSES)
    assert len({sample.name for sample in samples}) == len({sample.lesion for sample in samples}) == 12
    parts = split(samples, protocol=Protocol.LESION, validation=0.25, test=0.25, seed=0)
    write_split(tmp_path / "split.csv", parts)
    recorded = read_split(tmp_path / "split.csv")
    assert {sample: recorded[sample.name].part for sample in samples} == parts


def test_unreadable_photos_are_named_and_leave_no_cache(folders: MakeFolders, tmp_path: Path) -> None:
    base = folders({"bcc": 2})
    (base / "bcc" / "broken.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 3 photos can't be read(.|\n)*broken\.png"):
        load_pixels(read_samples(base, CLASSES), folder=tmp_path / "cache", side=32)
    assert list((tmp_path / "cache").iterdir()) == []


def test_pixels_are_decoded_once_and_again_when_a_photo_or_the_code_changes(
    folders: MakeFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, done = folders({"bcc": 3}), list[int]()
    monkeypatch.setattr(photos, "decode", lambda data, **how: done.append(1) or decode(data, **how))

    def load() -> list[bytes]:
        pixels = load_pixels(read_samples(base, CLASSES), folder=tmp_path / "cache", side=32)
        assert pixels.shape == (3, 32, 32, 3)
        return [photo.tobytes() for photo in pixels]

    first = load()
    assert load() == first
    assert len(done) == 3
    draw(base / "bcc" / "bcc_001.png", label=2, seed=99, side=50)
    assert [a == b for a, b in zip(first, load(), strict=True)] == [True, False, True]
    monkeypatch.setattr(photos, "imaging_version", lambda: "another")
    load()
    assert len(done) == 9


@pytest.mark.parametrize("length", [0, 60, 2000])
def test_pixels_that_a_crash_cut_off_are_decoded_again(folders: MakeFolders, tmp_path: Path, length: int) -> None:
    samples, cache = read_samples(folders({"bcc": 2}), CLASSES), tmp_path / "cache"
    whole = load_pixels(samples, folder=cache, side=32).tobytes()
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:length])
    assert load_pixels(samples, folder=cache, side=32).tobytes() == whole


def test_pixels_take_no_room_before_they_are_written(
    folders: MakeFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file is as long as it will be but has no blocks, a full disk ends the program by a signal."""
    samples, sizes = read_samples(folders({"bcc": 3}), CLASSES), list[int]()

    def look(data: bytes, **how: Any) -> Any:
        sizes.extend(path.stat().st_size for path in (tmp_path / "cache").iterdir())
        return decode(data, **how)

    monkeypatch.setattr(photos, "decode", look)
    monkeypatch.setattr(photos, "_DECODERS", 1)
    load_pixels(samples, folder=tmp_path / "cache", side=32)
    assert len(sizes) == 3
    assert sizes[0] < 32 * 32 * 3


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left on device: '\S+/run\.json'"), replacing(tmp_path / "run.json"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_two_that_decode_the_same_photos_do_not_share_a_partial_file(
    folders: MakeFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, met = read_samples(folders({"bcc": 3}), CLASSES), list[str]()

    def meet(data: bytes, **how: Any) -> Any:
        """Let a second one begin and end while the first is half way, with the process id that all containers have."""
        if not met:
            met.extend(path.name for path in (tmp_path / "cache").iterdir())
            load_pixels(samples, folder=tmp_path / "cache", side=32)
        return decode(data, **how)

    monkeypatch.setattr(photos, "decode", meet)
    monkeypatch.setattr(photos, "_DECODERS", 1)
    pixels = load_pixels(samples, folder=tmp_path / "cache", side=32)
    assert pixels.any(axis=(1, 2, 3)).all()
    (whole,) = (tmp_path / "cache").iterdir()
    assert [name.startswith("partial-") for name in met] == [True]
    assert whole.suffix == ".npy"
