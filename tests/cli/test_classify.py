"""`dermserve classify` as a person and as a script run it."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading

import pytest
from google.rpc import code_pb2

from tests.client.fake_gateway import NOTICE, abort, rich_status

KEYS = {
    "file", "model", "version", "classes", "verdict", "reasons", "views_used", "views_asked", "timings_ms",
    "request_id", "notice", "malignancy", "named_class", "weights_digest", "gateway_version",
}  # fmt: skip


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_json_has_one_object_a_line_with_the_promised_keys(run, folder):
    done = run("classify", folder / "a.png", folder / "b.JPG", "--model", "m", "--tta", "full", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answers = lines(done)
    assert {answer["file"] for answer in answers} == {str(folder / "a.png"), str(folder / "b.JPG")}
    for answer in answers:
        assert set(answer) == KEYS
        assert [set(entry) for entry in answer["classes"]] == [
            {"code", "name", "common_name", "malignant", "probability", "std"}
        ] * 2
        assert answer["classes"][0]["probability"] > answer["classes"][1]["probability"]
        assert (answer["verdict"], answer["reasons"]) == ("UNCERTAIN", ["LOW_CONFIDENCE"])
        assert (answer["views_used"], answer["views_asked"]) == (9, 10)
        assert set(answer["timings_ms"]) == {"decode", "plan", "predict", "reduce", "total"}


def test_one_photo_is_told_in_words(run, folder):
    done = run("classify", folder / "a.png", "--model", "m")
    assert done.returncode == 0
    for words in ("a.png\n", "m version 3, 1 of 1 view", "melanoma (mel)", "75.0 %", "uncertain", NOTICE):
        assert words in done.stdout


def test_the_request_says_what_was_asked(run, gateway, folder):
    run("classify", folder / "a.png", "--model", "m", "--version", "4", "--tta", "full", "--deadline", "7")
    run("classify", folder / "a.png", "--label", "stable")
    first, second = gateway.requests
    assert (first.model.name, first.model.version, first.tta, first.image) == ("m", 4, 2, b"a.png")
    assert (second.model.name, second.model.label) == ("resnet50", "stable")
    assert 5 < gateway.remaining[0] < 8


def test_what_fails_gets_a_line_of_its_own_and_exit_code_1(run, folder):
    (folder / "bad.jpg").write_bytes(b"bad")
    done = run("classify", folder, folder / "missing.jpg", "--json")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)  # of notes.txt
    answers = {os.path.basename(answer["file"]): answer for answer in lines(done)}
    assert len(answers) == 5
    error = answers["bad.jpg"].pop("error")
    assert answers["bad.jpg"] == {"file": str(folder / "bad.jpg")}
    assert error == {
        "status": "INVALID_ARGUMENT", "reason": "UNDECODABLE_IMAGE", "message": "damaged: send it again",
        "request_id": "r-bad",
    }  # fmt: skip
    assert answers["missing.jpg"]["error"]["reason"] == "FILE_NOT_FOUND"
    assert "verdict" in answers["a.png"]


def test_errors_in_words_go_to_stderr_with_a_link(run, folder):
    (folder / "bad.jpg").write_bytes(b"bad")
    done = run("classify", folder / "bad.jpg", folder / "a.png")
    said = "damaged: send it again (UNDECODABLE_IMAGE: docs/errors.md#undecodable_image)"
    assert (done.returncode, done.stderr) == (1, f"{folder / 'bad.jpg'}: {said}\n")
    assert "bad.jpg" not in done.stdout
    alone = run("classify", folder / "missing.jpg")
    assert (alone.returncode, alone.stdout, "FILE_NOT_FOUND" in alone.stderr) == (1, "", True)


def test_a_defect_is_told_with_the_request_to_report(run, gateway, folder):
    status = rich_status(code_pb2.INTERNAL, "internal error", reason="INTERNAL", request_id="r-9")
    gateway.classify = lambda request, context: abort(context, status)
    done = run("classify", folder / "a.png")
    said = f"{folder / 'a.png'}: internal error (INTERNAL: docs/errors.md#internal, request r-9)\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("way", ["option", "variable"])
def test_an_api_key_is_sent(run, gateway, folder, way, monkeypatch):
    keys = []

    def classify(request, context):
        keys.append(dict(context.invocation_metadata()).get("x-api-key"))
        return gateway.at_once(request, context)

    gateway.classify = classify
    if way == "variable":
        monkeypatch.setenv("DERMSERVE_API_KEY", "k-1")
    assert run("classify", folder / "a.png", *(["--api-key", "k-1"] if way == "option" else [])).returncode == 0
    assert keys == ["k-1"]


def test_a_dash_reads_standard_input(run, gateway):
    done = run("classify", "-", "-", "--json", input="from stdin")  # named twice, asked once
    assert done.returncode == 0
    assert lines(done)[0]["file"] == "-"
    assert gateway.requests[0].image == b"from stdin"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("x.jpg", "--tta", "sometimes"),
        ("x.jpg", "--deadline", "0"),
        ("x.jpg", "--version", "0"),
        ("x.jpg", "--version", "1", "--label", "stable"),
        ("x.jpg", "--in-flight", "0"),
        ("x.jpg", "--server", ""),
        ("x.jpg", "--model", ""),
        ("x.jpg", "--version", str(2**63)),
        ("x.jpg", "--model", "\udcff"),
        ("x.jpg", "--label", "\udcff"),
        ("x.jpg", "--tls-ca", "no-such.pem"),
        ("x.jpg", "--tls-cert", __file__),
        ("x.jpg", "--no-such-option"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(run, arguments):
    done = run("classify", *arguments)
    assert done.returncode == 2, done
    assert "Error:" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("names", [("a.png",), ("a.png", "b.JPG")])
def test_no_server_is_3(run, folder, names):
    done = run("classify", *(folder / name for name in names), "--json", "--server", "127.0.0.1:1")
    assert done.returncode == 3
    assert [answer["error"]["status"] for answer in lines(done)] == ["UNAVAILABLE"] * len(names)
    assert done.stderr == ""


def test_a_gateway_without_a_model_server_is_3_too(run, gateway, folder):
    status = rich_status(code_pb2.UNAVAILABLE, "no model server", reason="MODEL_SERVER_UNREACHABLE")
    gateway.classify = lambda request, context: abort(context, status)
    done = run("classify", folder / "a.png")
    said = "no model server (MODEL_SERVER_UNREACHABLE: docs/errors.md#model_server_unreachable)"
    assert (done.returncode, done.stderr) == (3, f"{folder / 'a.png'}: {said}\n")


@pytest.fixture
def half(start, gateway, folder):
    """A run that has printed one answer, and what lets the gateway give the others."""
    arrived, going_on = threading.Event(), threading.Event()
    (folder / "notes.txt").unlink()

    def held(request, context):
        if request.image != b"a.png":
            context.add_callback(gateway.cancelled.set)
            arrived.set()
            going_on.wait(200)
        return gateway.at_once(request, context)

    gateway.classify = held
    with start("classify", folder, "--json", "--deadline", "200") as process:
        assert json.loads(process.stdout.readline())
        assert arrived.wait(200)
        yield process, going_on


def test_ctrl_c_does_not_wait_for_a_file_whose_reading_hangs(start, folder, tmp_path):
    os.mkfifo(tmp_path / "hangs.jpg")  # a stand-in for a phone or a network drive that is gone
    with start("classify", tmp_path / "hangs.jpg", folder / "a.png", "--json") as process:
        try:
            assert json.loads(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()


def test_each_line_is_there_as_soon_as_its_answer(half):
    process, going_on = half
    going_on.set()
    rest, _ = process.communicate(timeout=200)
    assert (process.returncode, len(rest.splitlines())) == (0, 2)


def test_ctrl_c_is_130_and_clean(half, gateway):
    process, going_on = half
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out, err.strip()) == (130, "", "")
    assert gateway.cancelled.wait(200)
    going_on.set()


def test_a_reader_that_leaves_ends_it_quietly(half):
    process, going_on = half
    process.stdout.close()
    going_on.set()
    err = process.stderr.read()
    process.wait(timeout=200)
    assert (process.returncode, err) == (1, "")


def test_progress_is_on_stderr_when_it_is_a_terminal(run, folder):
    terminal, end = pty.openpty()
    try:
        done = run("classify", folder, "--json", stderr=end)
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(end)
    assert done.returncode == 0
    assert "0 of 3" in shown
    assert "2 of 3" in shown
    assert shown.endswith("\r\x1b[K")
    assert len(lines(done)) == 3


def test_standard_input_without_an_end_is_not_read_for_ever():
    code = "from dermserve.cli import photos; photos.MOST_BYTES = 9; print(len(photos.read_stdin()))"
    with open("/dev/zero", "rb") as endless:
        assert subprocess.check_output([sys.executable, "-c", code], stdin=endless, text=True) == "10\n"


@pytest.mark.parametrize("closed", ["0", "1", "2", "1, 2", "0, 1, 2"])
def test_closed_standard_streams_change_neither_answers_nor_files(run, folder, tmp_path, closed):
    first = "; ".join(f"os.close({number})" for number in closed.split(","))
    table, journal = tmp_path / "table.csv", tmp_path / "journal"
    done = run("classify", folder, "--csv", table, "--resume", journal, first=first)
    assert done.returncode == 0
    assert (len(table.read_text().splitlines()), len(journal.read_text().splitlines())) == (4, 4)
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))"
    done = run("classify", folder, "--csv", table, first=f"{first}; {limit}")
    assert (done.returncode, done.stderr.count("\n")) == (1, 0 if "2" in closed else 2)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_a_terminal_of_few_characters_gets_what_it_can_show(run, folder, monkeypatch, encoding):
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = run("classify", folder / "a.png", encoding=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("█" in done.stdout) == (encoding == "utf-8")
    assert "75.0 %" in done.stdout
