"""Folders off phones, cameras and clinics: every file is answered or named, and a run goes on where it stopped."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import threading

import pytest
from google.rpc import code_pb2

from dermserve.cli.photos import SUFFIXES, expand
from dermserve.v1 import classifier_pb2
from tests.client import fake_gateway


def _lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def _make(folder, *names, content=b"x"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _names(found, folder):
    return [os.path.relpath(name, folder) for name in found.photos]


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_what_its_name_makes_a_picture_is_sent_in_either_case(tmp_path, suffix):
    _make(tmp_path, f"a{suffix}", f"b{suffix.upper()}")
    assert _names(expand([str(tmp_path)]), tmp_path) == [f"a{suffix}", f"b{suffix.upper()}"]


@pytest.mark.parametrize("name", ["movie.mov", "report.pdf", "IM000001", "a.jpg.crdownload"])
def test_what_is_no_picture_is_named_and_counted(run, folder, name):
    _make(folder, name)
    done = run("classify", folder, "--json")
    assert done.returncode == 1
    (refused,) = [answer for answer in _lines(done) if "error" in answer]
    assert (refused["file"], refused["error"]["reason"]) == (str(folder / name), "NOT_A_PHOTO")
    assert len(_lines(done)) == 4


def test_what_macos_and_windows_leave_is_skipped_and_said(run, gateway, folder):
    names = ("._a.png", ".DS_Store", "Thumbs.db", "deeper/._c.webp", "a.png:Zone.Identifier", ".Trashes/501/d.jpg",
             "System Volume Information/WPSettings.dat", "deeper/.AppleDouble/c.webp")  # fmt: skip
    _make(folder, *names)
    done = run("classify", folder)
    assert done.returncode == 0
    for name in ("notes.txt", *names):
        assert f"{folder / name}: skipped: " in done.stderr
    assert len(gateway.requests) == 3
    assert "._a.png: skipped" in run("classify", folder, "--json").stderr


def test_a_folder_of_nothing_but_leftovers_has_no_photos(run, gateway, tmp_path):
    _make(tmp_path, "._a.png", ".DS_Store")
    done = run("classify", tmp_path)
    assert (done.returncode, f"no photos in {tmp_path}" in done.stderr, gateway.requests) == (2, True, [])


def test_linked_folders_are_followed_and_loops_end(tmp_path):
    photos, other = tmp_path / "photos", tmp_path / "other"
    _make(photos, "a.jpg", "deeper/b.jpg")
    _make(other, "c.jpg")
    (photos / "linked").symlink_to(other, target_is_directory=True)
    (other / "back").symlink_to(photos, target_is_directory=True)
    (photos / "deeper" / "self").symlink_to(photos / "deeper", target_is_directory=True)
    (photos / "a_link").symlink_to(photos / "deeper", target_is_directory=True)
    (photos / "file.jpg").symlink_to(other / "c.jpg")
    assert _names(expand([str(photos)]), photos) == ["a.jpg", "deeper/b.jpg", "file.jpg", "linked/c.jpg"]


def test_a_file_that_is_named_twice_is_sent_and_counted_once(run, gateway, folder):
    _make(folder, "movie.mov", "._a.png")
    done = run("classify", folder, folder / "a.png", folder)
    assert "4 photos: 3 answered, 1 failed" in done.stdout
    assert len(gateway.requests) == 3
    assert len(done.stderr.splitlines()) == 3  # movie.mov, ._a.png and notes.txt, once each


def test_a_link_that_leads_nowhere_is_named_and_counted(run, folder):
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "gone").symlink_to(folder / "nowhere")
    (folder / "self").symlink_to(folder / "self")
    done = run("classify", folder, "--json")
    assert done.returncode == 1
    errors = {pathlib.Path(a["file"]).name: a["error"]["reason"] for a in _lines(done) if "error" in a}
    assert errors == {"gone.jpg": "FILE_NOT_FOUND", "gone": "FILE_NOT_FOUND", "self": "UNREADABLE_FILE"}
    assert len(_lines(done)) == 6


@pytest.mark.parametrize("name", ["pipe", "pipe.jpg"])
def test_a_pipe_in_a_folder_is_named_and_not_waited_for(run, folder, name):
    os.mkfifo(folder / name)
    done = run("classify", folder, "--json")
    assert (done.returncode, len(_lines(done))) == (1, 4)
    assert _lines(done)[0]["error"]["reason"] == "NOT_A_PHOTO"


def test_folders_may_be_as_deep_as_a_path_can_name(tmp_path):
    deepest = tmp_path.joinpath("photos", *["d"] * 1010)
    subprocess.run(["mkdir", "-p", deepest], check=True)  # Python's own way recurses, and so does pytest's to tidy up
    _make(deepest, "a.jpg")
    found = expand([str(tmp_path)])
    subprocess.run(["rm", "-r", tmp_path / "photos"], check=True)
    assert _names(found, deepest) == ["a.jpg"]


def test_what_the_command_writes_into_a_folder_is_not_among_its_photos(run, folder):
    for _ in range(2):
        done = run("classify", folder, "--resume", folder / "journal", "--csv", folder / "table.tab")
        assert (done.returncode, "3 photos: 3 answered" in done.stdout) == (0, True)
    assert f"{folder / 'journal'}: skipped" in done.stderr


def test_a_name_cannot_write_to_the_terminal(run, folder):
    _make(folder, "a\x1b[2J\n.jpg", "b\r.exe", "._\x1b.jpg", "odd\udcff.jpg")
    done = run("classify", folder)
    said = done.stdout + done.stderr
    assert not {"\x1b", "\r"} & {*said}
    for name in ("a\\x1b[2J\\n.jpg", "b\\r.exe", "._\\x1b.jpg", "odd\\udcff.jpg"):
        assert name in said


def test_photos_that_are_gone_are_out_of_the_table_and_the_summary(run, folder, tmp_path):
    journal, table = tmp_path / "journal", tmp_path / "table.csv"
    assert run("classify", folder, "--resume", journal).returncode == 0
    (folder / "a.png").unlink()
    done = run("classify", folder, "--resume", journal, "--csv", table)
    assert "2 photos: 2 answered" in done.stdout
    assert len(table.read_text().splitlines()) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named_and_counted(run, folder):
    (folder / "deeper").chmod(0)
    try:
        done = run("classify", folder, "--json")
    finally:
        (folder / "deeper").chmod(0o700)
    assert done.returncode == 1
    assert any(answer["file"] == str(folder / "deeper") for answer in _lines(done))


def test_a_summary_ends_what_a_person_reads(run, folder):
    _make(folder, "bad.jpg", content=b"bad")
    done = run("classify", folder)
    summary = done.stdout[done.stdout.index("4 photos: 3 answered, 1 failed") :].splitlines()
    assert summary[1].split() == ["UNCERTAIN", "3", "3", "INTERMEDIATE", "risk"]
    assert summary[2].split() == ["UNDECODABLE_IMAGE", "1", "docs/errors.md#undecodable_image"]


@pytest.mark.parametrize("others", ["photos", "nothing_else"])
def test_rejected_photos_are_summed_up_and_written_though_they_have_no_classes(run, folder, tmp_path, others):
    folder = folder.with_name(others)
    _make(folder, "beach.jpg", "beach2.jpg", content=b"beach")
    table, journal = tmp_path / "answers.csv", tmp_path / "journal"
    done = run("classify", folder, "--csv", table, "--resume", journal)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].split() == ["REJECTED", "2", "2", "without", "risk"]
    with table.open(encoding="utf-8", newline="") as file:
        rejected = {row["file"]: row for row in csv.DictReader(file)}[str(folder / "beach.jpg")]
    assert "malignancy" not in rejected
    assert (rejected["verdict"], rejected["reasons"], rejected.get("top_class", "")) == ("REJECTED", "NOT_SKIN", "")
    again = run("classify", folder, "--csv", table, "--resume", journal)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, done.stdout.splitlines()[-1])


def test_the_table_has_a_row_for_every_file(run, folder, tmp_path):
    _make(folder, "bad.jpg", "movie.mov", content=b"bad")
    odd = os.fsdecode(os.fsencode(folder) + b"/odd\xff,\n.jpg")
    pathlib.Path(odd).write_bytes(b"odd")
    table = tmp_path / "answers.csv"
    done = run("classify", folder, "--csv", table)
    assert done.returncode == 1
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = {row["file"]: row for row in reader}
    assert len(rows) == 6
    columns = list(reader.fieldnames)
    assert (columns[:3], columns[-4:]) == (
        ["file", "verdict", "malignancy_level"],
        ["error_status", "error_reason", "error_message", "error_request_id"],
    )
    good = rows[str(folder / "a.png")]
    values = good["top_class"], good["top_probability"], good["p_nv"], good["reasons"]
    assert values == ("mel", "0.75", "0.25", "LOW_CONFIDENCE")
    assert (good["model"], good["version"], good["verdict"]) == ("resnet50", "3", "UNCERTAIN")
    assert rows[str(folder / "bad.jpg")]["error_reason"] == "UNDECODABLE_IMAGE"
    assert f"{folder}/odd\\udcff,\n.jpg" in rows
    assert sorted(tmp_path.iterdir()) == [table, folder]


@pytest.mark.parametrize("option", ["--csv", "--resume"])
def test_a_file_that_cannot_be_written_is_refused_before_any_work(run, gateway, folder, tmp_path, option):
    done = run("classify", folder, option, tmp_path / "no" / "such" / "file")
    assert (done.returncode, "can't be written" in done.stderr, gateway.requests) == (2, True, [])


@pytest.mark.parametrize(
    "command", [["classify", "a.png"], ["classify", "."], ["models"], ["models", "gone"], ["doctor", "--target"]]
)
def test_nor_can_what_a_gateway_says(run, gateway, target, folder, monkeypatch, command):
    odd = "owned\x1b]0;\x07\x9b2J\r"

    def classify(request, context):
        if request.image != b"a.png":
            fake_gateway.abort(context, gone)
        found = fake_gateway.answer(request)
        found.notice = found.model = found.classes[0].name = found.gateway_version = odd
        return found

    gone = fake_gateway.rich_status(code_pb2.NOT_FOUND, odd, reason=odd)
    available = classifier_pb2.ModelVersion(version=3, state="VERSION_STATE_AVAILABLE", labels=[odd], ready=True)
    monkeypatch.setattr(fake_gateway, "model", lambda **_: classifier_pb2.Model(name=odd, versions=[available]))
    monkeypatch.setattr(gateway, "classify", classify)
    monkeypatch.setattr(fake_gateway, "rich_status", lambda *_, **__: gone)
    monkeypatch.chdir(folder)
    done = run(*command, *([target] if command[-1] == "--target" else []))
    said = done.stdout + done.stderr
    assert "owned" in said
    assert not {"\x1b", "\x07", "\x9b", "\r"} & {*said}


@pytest.mark.parametrize("option", ["--csv", "--resume"])
@pytest.mark.parametrize("name", ["-", "null", "pipe", "a.png", "deeper/c.webp", "new.JPG"])
def test_a_photo_a_device_or_standard_output_is_no_file_to_write(run, gateway, folder, option, name, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "null").symlink_to(os.devnull)
    os.mkfifo(folder / "pipe")
    path = pathlib.Path(name)
    before = path.read_bytes() if name in {"a.png", "deeper/c.webp"} else b""
    done = run("classify", folder, option, path)
    assert (done.returncode, gateway.requests) == (2, [])
    assert f"{path}" in done.stderr
    assert not before or path.read_bytes() == before


def test_table_and_journal_are_two_files(run, gateway, folder, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    done = run("classify", folder, "--csv", tmp_path / "file", "--resume", tmp_path / "link")
    assert (done.returncode, "same file" in done.stderr, gateway.requests) == (2, True, [])


@pytest.mark.parametrize("option", ["--csv", "--resume"])
def test_a_disk_that_fills_up_is_named_and_what_was_there_stays(run, folder, tmp_path, option):
    """A limit on the size of files stands in for the disk's."""
    path = tmp_path / "answers"
    assert run("classify", folder / "a.png", option, path).returncode == 0
    before = path.read_bytes()
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 9}, {len(before) + 9}))"
    done = run("classify", folder, option, path, first=limit)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"Error: can't write {path}: File too large")
    assert path.read_bytes().startswith(before)
    assert run("classify", folder, option, path).returncode == 0


@pytest.mark.parametrize("command", [["classify", "a.png"], ["classify", ".", "--json"], ["models"]])
def test_output_that_nothing_has_room_for_is_one_line(run, folder, command):
    with open("/dev/full", "w") as full:
        done = run(*command, stdout=full, cwd=folder)
    said = done.stderr.replace("./notes.txt: skipped: notes or metadata, not a photo\n", "")
    assert (done.returncode, said) == (1, "Error: can't write: No space left on device\n")


def test_a_run_goes_on_where_ctrl_c_stopped_it(start, run, gateway, folder, tmp_path):
    held = threading.Event()

    def one(request, context):
        if request.image != b"a.png":
            held.wait(200)
        return gateway.at_once(request, context)

    journal, table = tmp_path / "journal", tmp_path / "table.csv"
    gateway.classify = one
    with start("classify", folder, "--json", "--resume", journal, "--csv", table) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=200)
    held.set()
    assert process.returncode == 130
    assert len(table.read_text().splitlines()) == 2
    with journal.open("a") as file:
        file.write('{"file": "cut o')  # as a power cut leaves it
    gateway.classify, gateway.requests = gateway.at_once, []
    done = run("classify", folder, "--json", "--resume", journal, "--csv", table)
    assert (done.returncode, len(_lines(done)), len(gateway.requests)) == (0, 2, 2)
    assert "has the answers for 1 of 3 photos" in done.stderr
    assert len(table.read_text().splitlines()) == 4
    assert all(json.loads(line) for line in journal.read_text().splitlines())
    gateway.requests = []
    assert run("classify", folder, "--resume", journal).returncode == 0
    assert gateway.requests == []


def test_what_failed_or_changed_is_asked_again(run, gateway, folder, tmp_path):
    journal = tmp_path / "journal"
    _make(folder, "bad.jpg", content=b"bad")
    assert run("classify", folder, "--resume", journal).returncode == 1
    _make(folder, "bad.jpg", content=b"good now")
    _make(folder, "a.png", content=b"another photo")
    gateway.requests = []
    assert run("classify", folder, "--resume", journal).returncode == 0
    assert {request.image for request in gateway.requests} == {b"good now", b"another photo"}


@pytest.mark.parametrize("content", ["", '{"asked": {"model": "other"}}\n', "not a journal\n", "[1]\n", "cut off"])
def test_a_journal_of_other_answers_is_refused(run, gateway, folder, tmp_path, content):
    journal = tmp_path / "journal"
    journal.write_text(content)
    done = run("classify", folder, "--resume", journal)
    assert done.returncode == (2 if content else 0)
    if content:
        assert "another model, version, label or tta" in done.stderr
        assert (journal.read_text(), gateway.requests) == (content, [])
