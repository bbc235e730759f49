"""Signed versions: what was changed, or signed by somebody else, is refused."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from dermserve.models.lifecycle.errors import GateError, StoreError
from dermserve.models.lifecycle.manifest import MANIFEST, SIGNATURE, problems, sign_version, write_manifest
from dermserve.models.lifecycle.moves import promote, rollback
from dermserve.models.lifecycle.stores import LocalStore, open_store
from tests.k8s.rendering import containers, named, render
from tests.lifecycle.fake_servers import fake_desk
from tests.lifecycle.versions_at_hand import make_version, run

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its keys with openssl")


@pytest.fixture
def store(keys: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A store with a signed version 1 of m."""
    folder = make_version(tmp_path / "store" / "m" / "1")
    sign_version(folder, keys / "ours.key")
    return tmp_path / "store"


def _flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _damage(folder: pathlib.Path, how: str, keys: pathlib.Path) -> None:
    if how in {"saved_model.pb", "assets.extra/other", MANIFEST, SIGNATURE}:
        _flip(folder / how)
    elif how == "added":
        (folder / "model.tflite").write_bytes(b"")
    elif how == "removed":
        (folder / "assets.extra" / "other").unlink()
    elif how == "unsigned":
        (folder / SIGNATURE).unlink()
    elif how == "signed anew":
        sign_version(folder, keys / "theirs.key")
    elif how == "a file outside":
        shutil.move(folder / "saved_model.pb", folder.parents[1] / "outside")
        (folder / "saved_model.pb").symlink_to(folder.parents[1] / "outside")
    elif how == "a folder outside":
        (folder / "variables").symlink_to(folder / "assets.extra")
    elif how == "no signature at all":
        (folder / SIGNATURE).write_text("{}")
    elif how == "changed with its manifest":  # whom the manifest alone would not stop
        (folder / "saved_model.pb").write_bytes(b"evil!")
        write_manifest(folder, model="m", about={})


DAMAGES = ["saved_model.pb", "assets.extra/other", MANIFEST, SIGNATURE, "added", "removed", "unsigned", "signed anew",
           "no signature at all", "changed with its manifest", "a file outside", "a folder outside"]  # fmt: skip


def test_a_version_of_another_model_is_refused(store: pathlib.Path, keys: pathlib.Path) -> None:
    (problem,) = problems(store / "m" / "1", keys / "ours.pub", model="x", where="x/1")
    assert problem == "x/1 was signed as a version of m"


def test_keys_that_are_none_are_named(store: pathlib.Path, keys: pathlib.Path) -> None:
    for name in ("junk.pub", "ours.key", "strange.pub"):
        (problem,) = problems(store / "m" / "1", keys / name, model="m", where="m/1")
        assert f"{name} is no public key" in problem
    for name in ("junk.pub", "ours.pub", "strange.key"):
        with pytest.raises(StoreError, match=rf"{name} is no private key"):
            sign_version(store / "m" / "1", keys / name)
    done = run("publish", str(store), "--sign", str(keys / "junk.pub"), f"--store={store}")
    assert (done.exit_code, "exporting" in done.output, "no private key" in done.output) == (1, False, True)


@pytest.mark.parametrize("how", ["saved_model.pb", "unsigned", "signed anew", "a folder outside"])
def test_pull_refuses_what_is_not_signed_as_it_is_and_mends_what_was_changed_here(
    store: pathlib.Path, keys: pathlib.Path, tmp_path: pathlib.Path, how: str
) -> None:
    local = tmp_path / "local"
    pull = ["pull", f"--store={store}", f"--to={local}", f"--public-key={keys / 'ours.pub'}"]
    assert run(*pull).exit_code == 0
    _damage(local / "m" / "1", how, keys)
    mended = run(*pull)
    assert (mended.exit_code, "version 1 copied" in mended.output) == (0, True), mended.output
    assert problems(local / "m" / "1", keys / "ours.pub", model="m", where="here") == []
    _damage(store / "m" / "1", how, keys)
    shutil.rmtree(local)
    refused = run(*pull)
    assert refused.exit_code == 1
    assert f"{store}/m/1" in refused.output
    assert open_store(local).versions("m") == []


@pytest.fixture(scope="module")
def init_container() -> list[str]:
    """What components/signed has the init container run, in the namespaces of nobody's file system."""
    (verify,) = (c for c in containers(named(render("production+signed"), "Deployment", "modelserver"))
                 if c["name"] == "verify")  # fmt: skip
    arguments: list[str] = verify["args"]
    return arguments


def _here(arguments: list[str], store: pathlib.Path, key: pathlib.Path) -> list[str]:
    assert {"--store=/models", "--public-key=/keys/release.pub"} <= set(arguments)
    return [one.replace("/models", str(store)).replace("/keys/release.pub", str(key)) for one in arguments]


NO_TENSORFLOW = "import sys; sys.modules.update(tensorflow=None, PIL=None); from dermserve.cli import main; main()"
"""The image that runs it has neither."""


def test_the_init_container_passes_a_signed_store_and_stops_the_pod_at_one_that_was_changed(
    store: pathlib.Path, keys: pathlib.Path, init_container: list[str]
) -> None:
    command = [sys.executable, "-c", NO_TENSORFLOW, *_here(init_container, store, keys / "ours.pub")]
    passed = subprocess.run(command, capture_output=True, text=True, check=False, env={"HOME": "/nonexistent"})
    assert (passed.returncode, passed.stdout.count(": ok")) == (0, 1), passed
    _flip(store / "m" / "1" / "saved_model.pb")
    stopped = subprocess.run(command, capture_output=True, text=True, check=False, env={"HOME": "/nonexistent"})
    assert (stopped.returncode, "saved_model.pb was changed" in stopped.stdout) == (1, True), stopped


@pytest.mark.parametrize("how", [*DAMAGES, "no version", "another version", "another text graph", "another model"])
def test_the_init_container_refuses_what_is_not_signed_as_it_is(
    store: pathlib.Path, keys: pathlib.Path, init_container: list[str], how: str
) -> None:
    command = _here(init_container, store, keys / "ours.pub")[1:]
    assert run(*command).exit_code == 0
    if how == "no version":
        shutil.rmtree(store / "m")
    elif how == "another version":
        make_version(store / "m" / "007")
    elif how == "another text graph":  # TensorFlow Serving would load it as the newest
        (store / "m" / "2").mkdir()
        (store / "m" / "2" / "saved_model.pbtxt").touch()
    elif how == "another model":
        make_version(store / "x" / "1", model="x")
    else:
        _damage(store / "m" / "1", how, keys)
    assert run(*command).exit_code == 1


def test_a_model_must_be_named_where_servers_are_asked(store: pathlib.Path) -> None:
    done = run("verify", f"--store={store}")
    assert (done.exit_code, "--offline" in done.output) == (2, True)
    assert run("verify", "--offline", f"--store={store}", "m", "2").exit_code == 1
    assert run("verify", "--offline", f"--store={store}", "m", "1").exit_code == 0


def test_verify_names_the_signature(store: pathlib.Path, keys: pathlib.Path) -> None:
    done = run("verify", "m", f"--store={store}", f"--public-key={keys / 'theirs.pub'}", "--tfs=127.0.0.1:1", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["what"], row["ok"]) for row in rows] == [(f"files and signature of {store}/m/1", False)]
    assert "is not what was signed with the key of" in rows[0]["problem"]
    assert "theirs.pub" in rows[0]["problem"]


def test_promote_and_rollback_with_a_key_refuse_another_signature(store: pathlib.Path, keys: pathlib.Path) -> None:
    desk = fake_desk(LocalStore(store), public_key=keys / "theirs.pub")
    with pytest.raises(GateError, match="is not what was signed with the key of"):
        promote(desk, "m", 1)
    make_version(store / "m" / "2")
    for version in (1, 2):
        promote(dataclasses.replace(desk, public_key=None), "m", version)
    with pytest.raises(GateError, match="is not what was signed with the key of"):
        rollback(desk, "m")
    promote(dataclasses.replace(desk, public_key=keys / "ours.pub"), "m", 1)
    assert [server.labels for server in desk.servers] == [{"stable": 1}] * 2
