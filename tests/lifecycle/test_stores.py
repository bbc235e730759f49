"""What every store promises, in a folder and in object storage alike."""

import concurrent.futures
import contextlib
import errno
import json
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import boto3
import pytest

from dermserve.models.lifecycle.errors import StoreError
from dermserve.models.lifecycle.manifest import MANIFEST, changes, parse_manifest, write_manifest
from dermserve.models.lifecycle.moves import pull
from dermserve.models.lifecycle.stores import LocalStore, Store, entries, new_entry, open_store
from tests.lifecycle.conftest import CREDENTIALS
from tests.lifecycle.versions_at_hand import make_version

PUBLISHERS, EACH = 4, 5
_PUBLISHER = """
import json, pathlib, sys
from tests.lifecycle.versions_at_hand import make_version
from dermserve.models.lifecycle.stores import new_entry, open_store
base, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(base)
sys.stdin.readline()  # all begin together
for turn in range(count):
    with store.staged("m") as staging:
        make_version(staging, content=f"{name} {turn}".encode())
        number = store.publish(staging, "m")
    store.append_audit(json.dumps(new_entry("publish", "m", None, number)))
    print(number, name, turn, flush=True)
"""


@pytest.fixture(params=["folder", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    return str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("bucket")


def _publish(store: Store, content: bytes = b"graph") -> int:
    with store.staged("m") as staging:
        return store.publish(make_version(staging, content=content), "m")


def test_what_is_published_can_be_read_copied_and_removed(base: str, tmp_path: pathlib.Path) -> None:
    store = open_store(base)
    assert (store.models(), store.versions("m"), list(store.audit())) == ([], [], [])
    assert [_publish(store), _publish(store, b"second")] == [1, 2]
    assert (store.models(), store.versions("m")) == (["m"], [1, 2])
    assert store.read("m", 2, "saved_model.pb") == b"second"
    manifest = parse_manifest(store.read("m", 2, MANIFEST), where="here")
    (tmp_path / "copy").mkdir()
    store.fetch("m", 2, tmp_path / "copy")
    assert changes(tmp_path / "copy", manifest) == []
    store.remove("m", 1)
    assert store.versions("m") == [2]
    assert store.read("m", 1, "saved_model.pb") is None
    assert _publish(store) == 3  # a number is used once


def test_publishers_in_processes_of_their_own_never_share_a_number_or_mix_their_files(base: str) -> None:
    command = [sys.executable, "-c", _PUBLISHER, base]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [subprocess.Popen([*command, f"p{index}", str(EACH)], env=env, **pipes) for index in range(PUBLISHERS)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [line for process in processes for line in process.communicate(timeout=300)[0].splitlines()]
    assert [process.returncode for process in processes] == [0] * PUBLISHERS
    store = open_store(base)
    numbers = sorted(int(line.split()[0]) for line in said)
    assert numbers == list(range(1, PUBLISHERS * EACH + 1)) == store.versions("m")
    for line in said:
        number, content = line.split(maxsplit=1)
        assert store.read("m", int(number), "saved_model.pb").decode() == content
    assert sorted(entry["to"] for entry in entries(store, "m")) == numbers


def test_the_log_keeps_who_when_from_and_to_in_order(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERMSERVE_WHO", "ann@ci")
    store = open_store(base)
    for version in (1, 2):
        store.append_audit(json.dumps(new_entry("publish", "m", version - 1, version, digest="why", empty="")))
    lines = [json.loads(line) for line in store.audit()]
    assert "empty" not in lines[0]
    assert [(line["from"], line["to"], line["who"], line["digest"]) for line in lines] == [
        (0, 1, "ann@ci", "why"),
        (1, 2, "ann@ci", "why"),
    ]
    assert lines[0]["when"] <= lines[1]["when"]


def test_the_log_is_in_order_when_clocks_go_back(base: str) -> None:
    for when in ("2026-03-01", "2026-01-01", "2025-12-31"):
        open_store(base).append_audit(json.dumps({**new_entry("publish", "m", None, 1), "when": when}))
    assert [entry["when"] for entry in entries(open_store(base))] == ["2026-03-01", "2026-01-01", "2025-12-31"]


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_line_of_the_log_that_was_cut_off_does_not_count_and_spoils_no_other(
    tmp_path: pathlib.Path, cut: int
) -> None:
    store = LocalStore(tmp_path)
    lines = [json.dumps(new_entry("publish", "m", None, version)) for version in (1, 2, 3)]
    store.append_audit(lines[0])
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write(lines[1][:cut])
    assert [entry["to"] for entry in entries(store)] == [1]
    store.append_audit(lines[2])
    assert [entry["to"] for entry in entries(store)] == [1, 3]


@pytest.mark.parametrize(
    "line",
    ["", "[]", "{}", '{"what": "promote"', "3", '"from"', "null", json.dumps(new_entry("promote", "m", None, 1))],
)
def test_a_line_of_the_log_that_is_none_is_named(tmp_path: pathlib.Path, line: str) -> None:
    store = LocalStore(tmp_path)
    store.append_audit(json.dumps(new_entry("publish", "m", None, 1)))
    store.append_audit(line)
    with pytest.raises(StoreError, match="line 2 of the audit log of"):
        list(entries(store, "m"))


@pytest.mark.parametrize("name", ["models.config", "canary.toml", "audit.jsonl", "intent.json"])
def test_a_file_of_the_store_that_is_no_text_is_named(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\n")
    elsewhere = open_store(f"memory://no-text-{os.urandom(4).hex()}")
    elsewhere._files.pipe_file(f"{elsewhere._root}/{name}", b"\xff\xfe\n")
    for store in (LocalStore(tmp_path), elsewhere):
        with pytest.raises(StoreError, match=f"{name} can't be understood"):
            store.read_text(name)


def test_a_full_disk_is_named_with_the_file_and_leaves_no_other(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    store.write_text("models.config", "first")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/models.config'"):
        store.write_text("models.config", "second")
    assert [path.name for path in tmp_path.iterdir()] == ["models.config"]
    assert store.read_text("models.config") == "first"


def test_what_a_killed_command_was_writing_is_deleted_by_the_next_and_what_another_is_writing_is_not(
    tmp_path: pathlib.Path,
) -> None:
    store = LocalStore(tmp_path)
    make_version(tmp_path / ".staging-m-killed" / "version")
    make_version(tmp_path / ".staging-m-replaced" / "former")
    with store.staged("m") as other:
        assert [path.name for path in tmp_path.iterdir()] == [other.parent.name]
        assert _publish(store) == 1
        assert store.publish(make_version(other), "m") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_model_whose_folder_is_on_another_file_system_is_published_replaced_and_retired(
    tmp_path: pathlib.Path,
) -> None:
    elsewhere = pathlib.Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one file system")
    store, source = LocalStore(tmp_path / "store"), LocalStore(tmp_path / "source")
    _publish(source)
    store.folder.mkdir()
    with tempfile.TemporaryDirectory(dir=elsewhere) as other:
        (store.folder / "m").symlink_to(other)
        assert [_publish(store), _publish(store)] == [1, 2]
        (store.folder / "m" / "1" / "saved_model.pb").write_bytes(b"damaged")
        assert list(pull(source, store)) == [("m", 1)]
        store.remove("m", 2)
        make_version(pathlib.Path(other, ".staging-m-killed", "version"))
        with store.staged("m"):
            assert not pathlib.Path(other, ".staging-m-killed").exists()
        assert (store.models(), [path.name for path in pathlib.Path(other).iterdir()]) == (["m"], ["1"])


def test_a_file_system_that_syncs_no_folders_can_hold_a_store(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))  # as of SMB and VirtualBox's shared folders
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    store = LocalStore(tmp_path)
    assert _publish(store) == 1
    store.write_text("models.config", "x")


def test_a_file_system_without_locks_is_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlockable(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("portalocker.portalocker.LOCKER", unlockable)
    store = LocalStore(tmp_path)
    uses: list[Callable[[], object]] = [
        lambda: store.locked().__enter__(),
        lambda: store.staged("m").__enter__(),
        lambda: store.append_audit("x"),
    ]
    for use in uses:
        with pytest.raises(OSError, match="No locks available"):
            use()


def test_a_version_that_cannot_be_copied_is_one_line(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "from" / "m" / "1"
    make_version(folder)
    for name in ("a", "b"):
        (folder / name).symlink_to("nowhere")
    with pytest.raises(StoreError, match=r"^\[Errno 2\] No such file or directory: \S+/m/1/[ab]'$"):
        list(pull(LocalStore(tmp_path / "from"), LocalStore(tmp_path / "to")))
    assert LocalStore(tmp_path / "to").versions("m") == []


def test_a_file_that_another_command_removes_while_it_is_looked_for_is_absent(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pathlib.Path, "exists", lambda *_: True)
    assert LocalStore(tmp_path).read_text("intent.json") is None


def test_a_command_that_begins_while_others_end_is_not_stopped_by_what_they_remove(tmp_path: pathlib.Path) -> None:
    def begin_and_end(turn: int) -> None:
        with LocalStore(tmp_path).staged("m") as staging:
            (staging / "saved_model.pb").write_bytes(b"graph")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(begin_and_end, range(400))) == [None] * 400


def test_a_failed_export_leaves_the_store_as_it_was(tmp_path: pathlib.Path) -> None:
    with contextlib.suppress(RuntimeError), open_store(tmp_path).staged("m") as staging:
        make_version(staging)
        raise RuntimeError("in the middle")
    assert list(tmp_path.iterdir()) == []


def test_small_files_are_replaced_whole(base: str) -> None:
    store = open_store(base)
    assert store.read_text("models.config") is None
    for text in ("first", "second"):
        store.write_text("models.config", text)
        assert store.read_text("models.config") == text


def test_a_second_change_waits_and_then_gives_up_with_a_reason(base: str) -> None:
    store, other = open_store(base), open_store(base)
    with store.locked(), pytest.raises(StoreError, match="is being changed by"), other.locked(wait=0.2):
        pass
    with other.locked(wait=5):
        pass


def test_a_version_whose_upload_did_not_finish_is_not_there(bucket: str, tmp_path: pathlib.Path) -> None:
    store = open_store(bucket)
    _publish(store)
    make_version(tmp_path / "half")
    uploads: list[str] = []

    def fail_before_the_manifest(source: str, target: str) -> None:
        if target.endswith(MANIFEST):
            assert store.versions("m") == [1]
            raise ConnectionError("cut")
        uploads.append(target.partition("/m/")[2])
        put(source, target)

    client = store._files
    put, client.put_file = client.put_file, fail_before_the_manifest
    try:
        with pytest.raises(StoreError, match="cut"):
            store.publish(tmp_path / "half", "m")
    finally:
        client.put_file = put
    assert uploads[-1] == "2/saved_model.pb"
    assert store.versions("m") == [1]
    assert _publish(store) == 3  # a number is used once, whatever became of it


def test_a_bucket_that_does_not_exist_is_named(s3: None) -> None:
    with pytest.raises(StoreError, match=r"s3://no-such-bucket-here/x can't be used"):
        _publish(open_store("s3://no-such-bucket-here/x"))


def test_a_storage_that_never_answers_is_named_after_four_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.cachable", False)  # or it would be the client of another test
    monkeypatch.setattr("s3fs.S3FileSystem.read_timeout", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreError, match=r"s3://silent/models can't be used: ReadTimeoutError"):
            open_store("s3://silent/models").read_text("models.config")
        silent.settimeout(0.1)
        attempts = 0
        with contextlib.suppress(TimeoutError):
            while True:
                silent.accept()[0].close()
                attempts += 1
    assert 2 <= attempts <= 4


class _LostAnswers:
    """A storage's client, of which one call does what it should, and its answer is lost."""

    def __init__(self, client: Any, *, fault: BaseException) -> None:
        self.client, self.fault, self.fails = client, fault, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def pipe_file(self, path: str, value: bytes, **how: Any) -> None:
        self.client.pipe_file(path, value, **how)
        if "mode" in how and self.fails:
            self.fails = False
            raise self.fault


@pytest.mark.parametrize(
    "fault",
    [
        FileExistsError("a try again, after the first one that did it"),
        OSError(errno.EINVAL, "At least one of the pre-conditions you specified did not hold"),
        ConnectionError("no answer"),
    ],
    ids=["exists", "precondition", "no answer"],
)
def test_an_object_that_was_created_is_ours_although_its_answer_was_lost(fault: Exception) -> None:
    store = open_store(f"memory://lost-{os.urandom(4).hex()}")
    client = store._files
    store._files = _LostAnswers(client, fault=fault)
    with store.locked(wait=0):
        store._files = _LostAnswers(client, fault=fault)
        store.append_audit("line")
        store._files = _LostAnswers(client, fault=fault)
        assert _publish(store) == 1
    assert (store.audit(), store.versions("m"), store.read_text(".lock")) == (["line"], [1], None)


def test_another_number_is_claimed_where_the_storage_says_in_its_own_words_that_one_is_taken() -> None:
    store = open_store(f"memory://taken-{os.urandom(4).hex()}")

    class OwnWords(_LostAnswers):
        def pipe_file(self, path: str, value: bytes, **how: Any) -> None:
            if "mode" in how and self.fails:
                self.fails = False
                self.client.pipe_file(path, b"another command's")
            try:
                self.client.pipe_file(path, value, **how)
            except FileExistsError:
                raise self.fault from None

    store._files = OwnWords(store._files, fault=OSError(errno.EINVAL, "PreconditionFailed"))
    assert _publish(store) == 2


def test_an_interrupt_while_a_lock_is_being_made_leaves_none() -> None:
    store = open_store(f"memory://interrupted-{os.urandom(4).hex()}")
    store._files = _LostAnswers(store._files, fault=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), store.locked(wait=0):
        pass
    assert store.read_text(".lock") is None


def test_a_command_whose_lock_was_deleted_changes_nothing_more_and_leaves_the_lock_of_the_next() -> None:
    first, second = open_store("memory://deleted"), open_store("memory://deleted")
    _publish(second)
    changes: list[Callable[[], object]] = [
        lambda: first.write_text("models.config", "x"),
        lambda: first.remove_text("models.config"),
        lambda: first.append_audit("x"),
        lambda: first.remove("m", 1),
    ]
    with contextlib.ExitStack() as held:
        held.enter_context(first.locked())
        first.write_text("models.config", "first")
        with pytest.raises(StoreError, match=r"delete memory://deleted/\.lock"), second.locked(wait=0):
            pass
        second.remove_text(".lock")
        for change in changes:
            with pytest.raises(StoreError, match="was deleted while this command held it"):
                change()
        with second.locked(wait=0):
            for change in changes:
                with pytest.raises(StoreError, match="was deleted while this command held it"):
                    change()
            held.close()
            with pytest.raises(StoreError, match="is being changed"), first.locked(wait=0):
                pass
    assert (second.read_text("models.config"), second.audit(), second.versions("m")) == ("first", [], [1])
    first.write_text("models.config", "without a lock")  # as `dermserve model pull` does


def test_a_protocol_nobody_speaks_is_named() -> None:
    with pytest.raises(StoreError, match="ftq://x"):
        open_store("ftq://x")


def test_a_manifest_notices_every_kind_of_change(tmp_path: pathlib.Path) -> None:
    folder = make_version(tmp_path / "v")
    manifest = parse_manifest((folder / MANIFEST).read_bytes(), where="here")
    assert changes(folder, manifest) == []
    (folder / "saved_model.pb").write_bytes(b"other")
    (folder / "assets.extra" / "other").unlink()
    (folder / "more").write_bytes(b"")
    assert changes(folder, manifest) == [
        "assets.extra/other is missing",
        "more was added",
        "saved_model.pb was changed",
    ]


def test_a_manifest_that_was_tampered_with_is_refused(tmp_path: pathlib.Path) -> None:
    manifest = write_manifest(make_version(tmp_path / "v"), model="m", about={})
    text = (tmp_path / "v" / MANIFEST).read_text().replace(manifest.files["saved_model.pb"], "0" * 64)
    with pytest.raises(StoreError, match="its own digest"):
        parse_manifest(text.encode(), where="here")


def test_a_store_is_copied_whole_version_by_version(base: str, tmp_path: pathlib.Path) -> None:
    store, target = open_store(base), LocalStore(tmp_path / "local")
    for content in (b"1", b"2", b"3"):
        _publish(store, content)
    text = 'model_config_list { config { name: "m" base_path: "/models/m" version_labels { key: "stable" value: 1 } } }'
    store.write_text("models.config", text)
    assert list(pull(store, target, latest=1)) == [("m", 1), ("m", 3)]  # the labelled one is needed, too
    assert list(pull(store, target)) == [("m", 2)]
    assert target.read_text("models.config") == text
    assert target.read("m", 3, "saved_model.pb") == b"3"
    assert not [path for path in target.folder.iterdir() if path.name.startswith(".staging")]


@pytest.mark.parametrize("damage", ["changed", "missing", "added", "no manifest", "another version", "empty"])
def test_a_copy_that_is_there_and_wrong_is_made_anew(base: str, tmp_path: pathlib.Path, damage: str) -> None:
    store, target = open_store(base), LocalStore(tmp_path / "local")
    _publish(store, b"graph")
    folder = target.folder / "m" / "1"
    assert list(pull(store, target)) == [("m", 1)]
    assert list(pull(store, target)) == []
    if damage == "changed":
        (folder / "saved_model.pb").write_bytes(b"")  # as a power failure may leave it
    elif damage == "missing":
        (folder / "assets.extra" / "other").unlink()
    elif damage == "added":
        (folder / "saved_model.pb.old").write_bytes(b"")
    elif damage == "no manifest":
        (folder / MANIFEST).unlink()
    else:
        shutil.rmtree(folder)
        folder.mkdir()
        if damage == "another version":
            make_version(folder, content=b"whole, and not what the store has")
    assert list(pull(store, target)) == [("m", 1)]
    assert (folder / "saved_model.pb").read_bytes() == b"graph"
    assert changes(folder, parse_manifest(store.read("m", 1, MANIFEST), where="here")) == []
    assert [path.name for path in target.folder.iterdir()] == ["m"]


def test_what_is_copied_is_on_the_disk_before_it_appears(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, target = open_store(tmp_path / "store"), LocalStore(tmp_path / "local")
    _publish(store)
    names, whole = [], target.folder / "m" / "1"
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        names.append((os.readlink(f"/proc/self/fd/{descriptor}"), whole.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    list(pull(store, target))
    before = {pathlib.Path(name).name for name, appeared in names if not appeared}
    assert {"saved_model.pb", "other", "dermserve.json", "assets.extra", "version"} <= before
    assert {name for name, appeared in names if appeared} >= {str(target.folder / "m"), target.base}


def test_a_store_without_versions_is_no_success_to_copy(base: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(StoreError, match="has no version of any model"):
        list(pull(open_store(base), LocalStore(tmp_path / "local")))


def test_a_copy_that_differs_from_its_manifest_never_appears(tmp_path: pathlib.Path) -> None:
    store = open_store(tmp_path / "store")
    _publish(store)
    (tmp_path / "store" / "m" / "1" / "saved_model.pb").write_bytes(b"bad")
    with pytest.raises(StoreError, match=r"saved_model.pb was changed"):
        list(pull(store, LocalStore(tmp_path / "local")))
    assert open_store(tmp_path / "local").versions("m") == []


@pytest.mark.parametrize("there", [False, True])
def test_two_commands_that_copy_to_the_same_place_both_succeed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    store, target = open_store(tmp_path / "store"), LocalStore(tmp_path / "local")
    _publish(store)
    if there:
        make_version(target.folder / "m" / "1", content=b"damaged")
    rename, others = pathlib.Path.rename, iter([True])

    def beside_another(path: pathlib.Path, place: pathlib.Path) -> pathlib.Path:
        if path.name == "version" and next(others, False):  # the other one comes just before
            list(pull(store, LocalStore(tmp_path / "local")))
        return rename(path, place)

    monkeypatch.setattr(pathlib.Path, "rename", beside_another)
    assert list(pull(store, target)) == [("m", 1)]
    assert target.read("m", 1, "saved_model.pb") == b"graph"
    assert [path.name for path in target.folder.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["../../../out", "a/../../../out", "/out", "//out"])
def test_an_object_whose_name_leads_out_of_its_version_is_refused(
    bucket: str, tmp_path: pathlib.Path, name: str
) -> None:
    store = open_store(bucket)
    _publish(store)
    store._files.pipe_file(f"{bucket.removeprefix('s3://')}/m/1/{name}", b"x")
    with pytest.raises(StoreError, match=r"m/1 has an object whose name leads out of it"):
        list(pull(store, LocalStore(tmp_path / "local")))
    assert not list(tmp_path.rglob("out"))
    assert not pathlib.Path("/out").exists()


def test_folders_that_consoles_make_in_object_storage_are_no_versions(bucket: str, tmp_path: pathlib.Path) -> None:
    store = open_store(bucket)
    _publish(store)
    boto = boto3.client("s3")
    where, _, root = bucket.removeprefix("s3://").partition("/")
    for name in ("", "m/", "m/1/", "m/1/assets.extra/", "m/2/", "empty/"):
        boto.put_object(Bucket=where, Key=f"{root}/{name}")
    boto.close()
    store = open_store(bucket)
    assert (store.models(), store.versions("m")) == (["m"], [1])
    assert list(pull(store, LocalStore(tmp_path / "local"))) == [("m", 1)]
    assert _publish(store) == 2


def test_a_version_folder_with_leading_zeros_is_that_version_and_one_beyond_int64_is_none(
    tmp_path: pathlib.Path,
) -> None:
    """TensorFlow Serving serves `00000001` as version 1."""
    make_version(tmp_path / "m" / "00000001", content=b"zeros")
    for name in ("99999999999999999999", "\N{ARABIC-INDIC DIGIT THREE}", "latest", "0x9", ".staging-m-1"):
        make_version(tmp_path / "m" / name)
    (tmp_path / "m" / "8").write_text("a file")
    store = open_store(str(tmp_path))
    assert store.versions("m") == [1]
    assert store.read("m", 1, "saved_model.pb") == b"zeros"
    assert parse_manifest(store.read("m", 1, MANIFEST), where="here")
    store.fetch("m", 1, tmp_path / "copy")
    assert (tmp_path / "copy" / MANIFEST).exists()
    assert _publish(store) == 2
    store.remove("m", 1)
    assert store.versions("m") == [2]


def test_object_storage_with_leading_zeros_is_read_alike(bucket: str, tmp_path: pathlib.Path) -> None:
    store = open_store(bucket)
    folder = tmp_path / "v"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"zeros")
    write_manifest(folder, model="m", about={})
    for number in ("00000003", "99999999999999999999"):
        for name in ("saved_model.pb", MANIFEST):
            store._files.put_file(str(folder / name), f"{bucket.removeprefix('s3://')}/m/{number}/{name}")
    assert open_store(bucket).versions("m") == [3]
    (tmp_path / "local" / "m" / "003").mkdir(parents=True)
    assert list(pull(open_store(bucket), LocalStore(tmp_path / "local"))) == [("m", 3)]
    assert (tmp_path / "local" / "m" / "003" / "saved_model.pb").read_bytes() == b"zeros"
    assert _publish(open_store(bucket)) == 4
    store.remove("m", store.versions("m")[0])
    assert store.versions("m") == [4]
