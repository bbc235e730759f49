"""Data sets as people have them: each is read, or named in one line before any work."""

import contextlib
import csv
import io
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from dermserve.models.training import cli
from dermserve.models.training.data.layouts import read_samples
from dermserve.models.training.data.splits import Sample
from dermserve.models.training.errors import DataError
from tests.training.conftest import CLASSES, draw
from tests.training.runs import command

CASES = Path(__file__).parent / "cases"
SEVEN = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
HEAD = "lesion_id,image_id,dx\n"


def photo(path: Path, label: int = 0) -> Path:
    """Draw a photo that differs from all others."""
    draw(path, label=label, seed=sum(map(ord, str(path))) * 31 + len(str(path)), side=16)
    return path


def flat(base: Path, count: int = 3) -> list[str]:
    """Draw photos beside each other and return their ids."""
    names = [f"ISIC_{index:07}" for index in range(count)]
    for index, name in enumerate(names):
        draw(base / f"{name}.png", label=0, seed=index, side=16)
    return names


def described(base: Path, *rows: str, head: str = HEAD) -> None:
    """Write a table beside photos."""
    (base / "metadata.csv").write_text(head + "".join(f"{row}\n" for row in rows))


def said(base: Path, classes: tuple[str, ...] = CLASSES) -> tuple[list[Sample], str]:
    with contextlib.redirect_stderr(io.StringIO()) as lines:
        samples = read_samples(base, classes)
    return samples, lines.getvalue().rstrip()


@pytest.mark.parametrize(
    ("case", "lesions"),
    [
        ("c04-blank-lesion-ids", ""),
        ("c10-isic-archive-metadata", "IL_"),
        ("c11-isic2018-one-hot", "HAM_"),
        ("c13-latin1", ""),
    ],
)
def test_a_case_is_read_whole_with_its_lesions(case: str, lesions: str) -> None:
    samples, lines = said(CASES / case, SEVEN)
    assert Counter(sample.label for sample in samples) == dict.fromkeys(range(7), 3)
    assert len({sample.lesion for sample in samples}) == 21
    assert all(sample.lesion.startswith(lesions) for sample in samples)
    assert lines == ""


def test_one_photo_under_two_labels_is_refused_by_both_names() -> None:
    with pytest.raises(DataError, match=r"under two labels: (mel/\S+ \(mel\) = nv/again\.jpg \(nv\)|nv/again.jpg)"):
        read_samples(CASES / "c14-two-labels", SEVEN)


def test_what_macos_leaves_is_said_and_left_out(tmp_path: Path) -> None:
    shutil.copytree(CASES / "c12-appledouble" / "folder", tmp_path / "bcc")
    (tmp_path / "bcc" / ".DS_Store").write_bytes(b"\0")
    photo(tmp_path / "__MACOSX" / "bcc" / "IMG.jpg")
    (sample,), lines = said(tmp_path)
    assert sample.name == "bcc/IMG.jpg"
    assert "left out 3 files that macOS leaves" in lines


@pytest.mark.parametrize(
    "option", [["--thin", 2], ["--again", "why"], ["--also", "."], ["--paper", "."], ["--others", "."]]
)
def test_options_that_would_change_nothing_for_other_data_are_refused(option: list[object]) -> None:
    lines = command(cli.evaluate, ".", "--data", ".", "--other", "clinic", *option, code=2)
    assert f"leave out {option[0]}" in lines


@pytest.mark.parametrize("blank", ["", " ", "NA", "nan", "None", '""', "-", "?", "n/a", "#N/A", "<NA>"])
def test_a_blank_lesion_is_one_of_its_own(tmp_path: Path, blank: str) -> None:
    names = flat(tmp_path)
    described(tmp_path, *(f"{blank},{name},bcc" for name in names))
    assert len({sample.lesion for sample in read_samples(tmp_path, CLASSES)}) == 3


def test_a_blank_lesion_in_labels_csv_is_one_of_its_own_even_where_names_repeat(tmp_path: Path) -> None:
    for code in ("bcc", "scc"):
        photo(tmp_path / code / "1.png")
    (tmp_path / "labels.csv").write_text("path,label,lesion_id,split\nbcc/1.png,bcc,,\nscc/1.png,scc,,\n")
    assert len({sample.lesion for sample in read_samples(tmp_path, CLASSES)}) == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize(("name", "delimiter"), [("metadata.csv", ";"), ("HAM10000_metadata.tab", "\t")])
def test_tables_of_any_encoding_and_delimiter_are_read(
    tmp_path: Path, encoding: str, name: str, delimiter: str
) -> None:
    names = flat(tmp_path)
    rows = [("Lesion_ID", "image_id", "dx", "localization"), *((f"L{n}", n, "BCC", "Rücken; links, ") for n in names)]
    with (tmp_path / name).open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    samples, _ = said(tmp_path)
    assert [(sample.label, sample.lesion) for sample in samples] == [(0, f"L{name}") for name in names]


def test_excels_hint_and_empty_lines_are_no_rows(tmp_path: Path) -> None:
    names = flat(tmp_path)
    rows = "".join(f"L{name};{name}.png;scc\r\n;;\r\n" for name in names)
    (tmp_path / "metadata.csv").write_text("sep=;\r\nlesion_id;image_id;dx\r\n" + rows)
    assert [sample.label for sample in read_samples(tmp_path, CLASSES)] == [1, 1, 1]


@pytest.mark.parametrize(
    "table",
    [
        ",image_id,dx,,\n0,{},bcc,,\n",  # as pandas and Excel leave them
        "image_id,dx\n{},bcc,\n",
        '\r\n\r\nimage_id;dx;"age, sex, site"\r\n{};bcc;"30, m, back"\r\n',
        "image_id|dx\n{}|bcc\n",
        "image,BCC,SCC\n{},1.0,\n",
        "image,BCC,SCC\n{},nan,1\n",
        "image,BCC,SCC\n{},True,False\n",
        'IMAGE_ID,"no\nte",DX\n{},"a\nb",BCC\n',
        "Image ID,DX \n{},bcc\n",
        "image-id;dx;note\r{};bcc;1,2,3,4\rx;bcc;5,6,7,8\r",  # of Excel on a Mac
    ],
)
def test_tables_as_spreadsheets_leave_them_are_read(tmp_path: Path, table: str) -> None:
    (name,) = flat(tmp_path, 1)
    (tmp_path / "metadata.csv").write_text(table.format(name), newline="")
    assert [sample.label for sample in read_samples(tmp_path, CLASSES)] == [1 if "nan" in table else 0]


@pytest.mark.parametrize(
    ("name", "written"),
    [("isic_01.JPG", "ISIC_01"), ("ISIC_01.jpg", "isic_01.JPG"), ("Ru\u0308cken.png", "R\u00fccken")],
)
def test_an_id_names_a_photo_in_any_case_and_with_any_accents(tmp_path: Path, name: str, written: str) -> None:
    photo(tmp_path / name)
    described(tmp_path, f"L1,{written},bcc")
    assert [sample.lesion for sample in read_samples(tmp_path, CLASSES)] == ["L1"]


def test_nested_folders_and_upper_case_suffixes_are_found(tmp_path: Path) -> None:
    places = ("archive/HAM10000_images_part_1/A.JPG", "archive/HAM 10000_images_part_2/B.JPEG", "archive/deep/er/C.Png")
    for place in places:
        photo(tmp_path / place)
    rows = "".join(f"L{name},{name},bcc\n" for name in "ABC")
    (tmp_path / "archive" / "HAM10000_metadata.csv").write_text(HEAD + rows)
    (tmp_path / "archive" / "hmnist_8_8_L.csv").write_text("pixel0000,pixel0001,label\n1,2,3\n")
    assert sorted(sample.name for sample in read_samples(tmp_path, CLASSES)) == sorted(places)


def test_a_photo_that_lies_in_two_folders_is_one_lesion(tmp_path: Path) -> None:
    first = photo(tmp_path / "HAM10000_images_part_1" / "A.jpg")
    (tmp_path / "ham10000_images").mkdir()
    shutil.copy(first, tmp_path / "ham10000_images" / "A.jpg")
    (tmp_path / "HAM10000_metadata.csv").write_text(HEAD + ",A,bcc\n")
    samples = read_samples(tmp_path, CLASSES)
    assert len({sample.lesion for sample in samples}) == 1


def test_an_id_that_may_be_two_photos_is_refused(tmp_path: Path) -> None:
    for code in ("bcc", "scc"):
        photo(tmp_path / code / "1.png")
    (tmp_path / "metadata.csv").write_text("image_id,lesion_id\n1,L1\n")
    with pytest.raises(DataError, match=r"names 1, which may be bcc/1\.png or scc/1\.png"):
        read_samples(tmp_path, CLASSES)
    (tmp_path / "metadata.csv").write_text("image_id,lesion_id\nbcc/1.png,L1\nscc/1.png,L2\n")
    assert [sample.lesion for sample in read_samples(tmp_path, CLASSES)] == ["L1", "L2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("L0,a,bcc", "L0,a,bcc"), "names a twice"),
        (("L0,a,bcc", "L1,a,scc"), "names a twice"),
        (("L0,a,scc",), r"bcc/a\.png is under two labels: bcc, and by \S+metadata\.csv scc"),
    ],
)
def test_a_photo_named_twice_or_by_two_classes_is_refused(tmp_path: Path, rows: tuple[str, ...], message: str) -> None:
    photo(tmp_path / "bcc" / "a.png")
    described(tmp_path, *rows)
    with pytest.raises(DataError, match=message):
        read_samples(tmp_path, CLASSES)


@pytest.mark.parametrize("second", ["bcc/a.png", "./bcc/a.png", "bcc\\a.png", "bcc/../bcc/a.png"])
def test_a_path_that_labels_csv_names_twice_is_refused(tmp_path: Path, second: str) -> None:
    photo(tmp_path / "bcc" / "a.png")
    (tmp_path / "labels.csv").write_text(f"path,label,lesion_id,split\nbcc/a.png,bcc,L1,train\n{second},bcc,L2,test\n")
    with pytest.raises(DataError, match=r"a\.png twice"):
        read_samples(tmp_path, CLASSES)


def test_a_table_of_other_classes_beside_class_folders_gives_the_lesions_alone(tmp_path: Path) -> None:
    photo(tmp_path / "scc" / "a.png")
    described(tmp_path, "L,a,akiec")
    (sample,), lines = said(tmp_path)
    assert (sample.label, sample.lesion, lines) == (1, "L", "")


def test_subsets_are_read_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    flat(tmp_path, 5)
    rows = "".join(f"L{index},ISIC_{index:07},bcc\n" for index in range(2, 9))
    (tmp_path / "HAM10000_metadata.csv").write_text(HEAD + rows)
    samples, lines = said(tmp_path)
    assert len(samples) == 3
    assert "names 4 photos that are not there, of 7, such as ISIC_0000005" in lines
    assert "left out 2 photos without a class, such as ISIC_0000000.png" in lines


def test_the_isic_archives_diagnoses_are_classes_and_others_are_counted(tmp_path: Path) -> None:
    said_of = ["Nevus", "Melanoma in situ", "Basal cell carcinoma", "Solar or actinic keratosis", "Dermatofibroma",
               "Seborrheic keratosis", "Hemangioma", "Scar"]  # fmt: skip
    rows = "".join(f"{name},Benign,,{text},IL_1\n" for name, text in zip(flat(tmp_path, 8), said_of, strict=True))
    (tmp_path / "metadata.csv").write_text("isic_id,diagnosis_1,diagnosis_2,diagnosis_3,lesion_id\n" + rows)
    samples, lines = said(tmp_path, SEVEN)
    assert [SEVEN[sample.label] for sample in samples] == ["nv", "mel", "bcc", "akiec", "df", "bkl", "vasc"]
    assert lines == "left out 1 photos of Scar, no class of this model, such as ISIC_0000007.png"


def test_pad_ufes_20_as_downloaded_is_read(tmp_path: Path) -> None:
    codes = ("BCC", "SCC", "ACK", "NEV", "SEK", "MEL")
    rows = "".join(f"PAT_1,{i},False,{code},PAT_1_{i}.png,True\n" for i, code in enumerate(codes))
    for index in range(len(codes)):
        photo(tmp_path / f"imgs_part_{index % 3 + 1}" / f"PAT_1_{index}.png")
    (tmp_path / "metadata.csv").write_text("patient_id,lesion_id,smoke,diagnostic,img_id,biopsed\n" + rows)
    samples, lines = said(tmp_path, SEVEN)
    found = {sample.lesion: SEVEN[sample.label] for sample in samples}
    assert found == {"0": "bcc", "2": "akiec", "3": "nv", "4": "bkl", "5": "mel"}
    assert lines == "left out 1 photos of SCC, no class of this model, such as imgs_part_2/PAT_1_1.png"


def test_isic_2019_as_downloaded_is_read(tmp_path: Path) -> None:
    names = flat(tmp_path / "ISIC_2019_Training_Input", 4)
    hot = ("0,1,0,0,0,0,0,0,0", "0,0,0,1,0,0,0,0,0", "0,0,0,0,0,0,0,1,0", "1.0,0,0,0,0,0,0,0,0")
    truth = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\n" + "".join(f"{n},{h}\n" for n, h in zip(names, hot, strict=True))
    (tmp_path / "ISIC_2019_Training_GroundTruth.csv").write_text(truth)
    rows = "".join(
        f"{name},55.0,back,{lesion},male\n" for name, lesion in zip(names, ("B_1", "", "", "B_1"), strict=True)
    )
    (tmp_path / "ISIC_2019_Training_Metadata.csv").write_text(
        "image,age_approx,anatom_site_general,lesion_id,sex\n" + rows
    )
    samples, lines = said(tmp_path, SEVEN)
    assert [SEVEN[sample.label] for sample in samples] == ["nv", "akiec", "mel"]
    assert samples[0].lesion == samples[2].lesion != samples[1].lesion
    assert "left out 1 photos of scc, no class of this model" in lines


@pytest.mark.parametrize("cells", ["0,0", "1,1", "x,0", "0.9,0", "2,0"])
def test_a_one_hot_row_that_is_none_is_named(tmp_path: Path, cells: str) -> None:
    (name,) = flat(tmp_path, 1)
    (tmp_path / "truth.csv").write_text(f"image,BCC,SCC\n{name},{cells}\n")
    with pytest.raises(DataError, match=name):
        read_samples(tmp_path, CLASSES)


@pytest.mark.parametrize(
    "folders", [("train", "test"), ("Training", "Testing"), ("ISIC_Training_Input", "ISIC_Test_Input")]
)
def test_train_and_test_folders_split_the_photos(tmp_path: Path, folders: tuple[str, str]) -> None:
    for folder in (*folders, "val"):
        photo(tmp_path / folder / "BCC" / "a.png")
    splits = Counter(sample.split for sample in read_samples(tmp_path, CLASSES))
    assert splits == {"train": 1, "test": 1, "validation": 1}


def test_a_table_splits_the_photos_too(tmp_path: Path) -> None:
    head, names = "lesion_id,image_id,dx,Split\n", flat(tmp_path / "Training_Input")
    rows = [
        f"L{index},{name},bcc,{part}"
        for index, (name, part) in enumerate(zip(names, ("Test", "valid", ""), strict=True))
    ]
    described(tmp_path, *rows, head=head)
    assert [sample.split for sample in read_samples(tmp_path, CLASSES)] == ["test", "validation", "train"]
    described(tmp_path, *(row.replace("L1", "L0") for row in rows), head=head)
    with pytest.raises(DataError, match=r"ISIC_0000000\.png \(test\) and \S+1\.png \(validation\) show the lesion L0"):
        read_samples(tmp_path, CLASSES)
    described(tmp_path, rows[0].replace("Test", "fold 1"), head=head)
    with pytest.raises(DataError, match="names the split 'fold 1'; it may be train"):
        read_samples(tmp_path, CLASSES)


def test_lesions_of_any_table_are_held_against_the_split_of_labels_csv(tmp_path: Path) -> None:
    for name in "abc":
        photo(tmp_path / "BCC" / f"{name}.png")
    (tmp_path / "labels.csv").write_text(
        "path,label,lesion_id,split\nBCC/a.png,bcc,,train\nBCC/b.png,bcc,,test\n", encoding="utf-8-sig"
    )
    samples, lines = said(tmp_path)
    assert [sample.split for sample in samples] == ["train", "test", ""]
    assert not lines
    (tmp_path / "LesionGroupings.csv").write_text("image,lesion_id\na,L1\nb,L1\nc,L1\n")
    with pytest.raises(DataError, match=r"BCC/a\.png \(train\) and BCC/b\.png \(test\) show the lesion L1"):
        read_samples(tmp_path, CLASSES)


@pytest.mark.parametrize("outside", ["../b.png", "/b.png", "bcc", "BCC/b.png"])
def test_labels_csv_names_photos_of_the_data_set_alone(tmp_path: Path, outside: str) -> None:
    photo(tmp_path / "b.png")
    photo(tmp_path / "data" / "bcc" / "a.png")
    (tmp_path / "data" / "labels.csv").write_text(f"path,label\n{outside},bcc\n")
    samples, lines = said(tmp_path / "data")
    assert [sample.name for sample in samples] == ["bcc/a.png"]
    assert "labels.csv names 1 photos that are not there, of 1" in lines


def test_a_path_of_another_machine_is_found_by_its_file_name(tmp_path: Path) -> None:
    photo(tmp_path / "photos" / "a.png")
    (tmp_path / "labels.csv").write_text("path,label\nC:\\data\\a.png,bcc\n")
    assert [sample.name for sample in read_samples(tmp_path, CLASSES)] == ["photos/a.png"]


@pytest.mark.parametrize(
    "table",
    ["image_id,dx,label\na,bcc,0\n", "isic_id,diagnosis_1,label\na,Basal cell carcinoma,checked\n",
     "image_id,dx,path\na,bcc,\n", "path,label\na.png,bcc\n"],
)  # fmt: skip
def test_the_columns_path_and_label_count_where_there_are_no_others(tmp_path: Path, table: str) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "table.csv").write_text(table)
    assert [sample.label for sample in read_samples(tmp_path, CLASSES)] == [0]


def test_labels_csv_and_its_folders_may_not_disagree(tmp_path: Path) -> None:
    photo(tmp_path / "bcc" / "a.png")
    (tmp_path / "labels.csv").write_text("path,label,lesion_id,split\nbcc/a.png,scc,,\n")
    with pytest.raises(DataError, match=r"bcc/a\.png is under two labels: bcc, and by \S+labels\.csv scc"):
        read_samples(tmp_path, CLASSES)


@pytest.mark.parametrize("spaces", [" ", "_", "-"])
def test_full_names_of_classes_are_folders_too(tmp_path: Path, spaces: str) -> None:
    names = {
        "Basal Cell Carcinoma": 1,
        "Melanocytic nevi": 5,
        "actinic keratoses": 0,
        "Benign keratosis-like lesions": 2,
    }
    for name in names:
        photo(tmp_path / name.replace(" ", spaces) / "a b.png")
    samples = read_samples(tmp_path, SEVEN)
    assert {sample.name.partition("/")[0]: sample.label for sample in samples} == {
        name.replace(" ", spaces): label for name, label in names.items()
    }


@pytest.mark.parametrize(("column", "ids"), [("image_id", ("7.0", "8.0")), ("image", ("7", "8.png"))])
def test_numbers_of_photos_and_lesions_are_known_again_as_spreadsheets_write_them(
    tmp_path: Path, column: str, ids: tuple[str, str]
) -> None:
    for name in ("7", "8", "9"):
        photo(tmp_path / f"{name}.png")
    (tmp_path / "a.csv").write_text(f"{column},lesion_id,dx\n{ids[0]},12.0,bcc\n{ids[1]},13.0,bcc\n")
    (tmp_path / "b.csv").write_text("image_id,lesion_id,dx\n9,12,bcc\n")
    assert [sample.lesion for sample in read_samples(tmp_path, CLASSES)] == ["12", "13", "12"]


def test_a_table_of_ids_is_read_whatever_its_name(tmp_path: Path) -> None:
    (name,) = flat(tmp_path, 1)
    (tmp_path / "labels.csv").write_text(f"{HEAD}L1,{name},bcc\n")
    assert [sample.lesion for sample in read_samples(tmp_path, CLASSES)] == ["L1"]


def test_a_table_is_known_in_any_case(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "Labels.CSV").write_text("path,label,lesion_id,split\na.png,bcc,L1,test\n")
    assert [sample.split for sample in read_samples(tmp_path, CLASSES)] == ["test"]


@pytest.mark.parametrize("folder", ["$RECYCLE.BIN", "System Volume Information", "lost+found", ".Trash-1000"])
def test_folders_of_the_system_at_the_top_of_a_disk_are_left_out(tmp_path: Path, folder: str) -> None:
    photo(tmp_path / folder / "bcc" / "deleted.png")
    photo(tmp_path / "bcc" / "a.png")
    assert [sample.name for sample in read_samples(tmp_path, CLASSES)] == ["bcc/a.png"]


def test_a_folder_that_cant_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "bcc" / "a.png")
    listed = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("bcc"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="bcc can't be read: Permission denied"):
        read_samples(tmp_path, CLASSES)


def test_linked_photos_and_folders_are_read(tmp_path: Path) -> None:
    elsewhere, base = tmp_path / "elsewhere", tmp_path / "data"
    photo(elsewhere / "bcc" / "a.png")
    base.mkdir()
    (base / "bcc").symlink_to(elsewhere / "bcc")
    (elsewhere / "bcc" / "loop").symlink_to(base)
    assert [sample.name for sample in read_samples(base, CLASSES)] == ["bcc/a.png"]


def train(model: str, data: Path, tmp_path: Path) -> str:
    """Run the command, which must refuse, and return what it says."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    said = command(cli.train, model, "--data", data, "--out", out, "--cache", cache, code=2)
    assert not out.exists()
    assert not cache.exists()
    (line,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    return line


@pytest.mark.parametrize("name", ["bcc/b.png", "metadata.csv", "test"])
def test_a_dangling_link_is_one_line(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "data" / "bcc" / "a.png")
    (tmp_path / "data" / name).symlink_to(".git/annex/objects/nothing")
    line = train("mobilenet_v3_small", tmp_path / "data", tmp_path)
    assert f"{name} is a link to nothing" in line
    (tmp_path / "data" / name).unlink()
    os.mkfifo(tmp_path / "data" / name)
    with pytest.raises(DataError, match=f"{name} is a link to nothing, or no file"):
        read_samples(tmp_path / "data", CLASSES)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"image_id,dx\nISIC_0000000,bcc,more\n", "line 2, has 1 cells more than there are columns"),
        (b"image_id,dx,dx\nISIC_0000000,bcc,bcc\n", "has the column dx twice"),
        (b"image_id,dx\nISIC_0000000,mole\n", "names the class 'mole'"),
        (b"image_id,age\nISIC_0000000,5\n", "lacks the columns dx"),
        (b"name,dx\nISIC_0000000,bcc\n", "lacks the columns image_id, dx"),
        (b'image_id,dx\n"' + b"x" * 200_000, "can't be read as a table"),
        (
            b'image_id,dx\nISIC_0000000,"bcc\nISIC_0000001,bcc\n',
            "after line 1, can't be read as a table: unexpected end",
        ),
        (b'image_id,dx\nISIC_0000000,"b"cc\n', "after line 1, can't be read as a table"),
        (b"image_id,dx\n,bcc\nISIC_0000001,bcc\n", "line 2, names no photo"),
        (b"", "lacks the columns image_id, dx"),
        (b"\xff\xfe", "lacks the columns image_id, dx"),
        (bytes(range(256)), "lacks the columns image_id, dx"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path: Path, table: bytes, message: str) -> None:
    flat(tmp_path / "data")
    (tmp_path / "data" / "metadata.csv").write_bytes(table)
    assert message in train("mobilenet_v3_small", tmp_path / "data", tmp_path)


@pytest.mark.parametrize("case", ["c04-blank-lesion-ids", "c10-isic-archive-metadata", "c11-isic2018-one-hot"])
def test_too_few_lesions_are_refused_before_training(tmp_path: Path, case: str) -> None:
    line = train("resnet50", CASES / case, tmp_path)
    assert "validation has no photo of akiec (3 lesions), bcc (3 lesions)" in line
    assert "at 15%, about 4 lesions of a class are needed" in line


def test_an_empty_photo_is_one_line(tmp_path: Path) -> None:
    photo(tmp_path / "data" / "bcc" / "a.png")
    (tmp_path / "data" / "bcc" / "b.png").write_bytes(b"")
    assert "b.png is empty" in train("mobilenet_v3_small", tmp_path / "data", tmp_path)
