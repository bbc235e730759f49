"""Signed versions: what was changed, or signed by somebody else, is refused."""

import json
import pathlib
import shutil
import subprocess

import pytest
from click.testing import CliRunner, Result

from dermserve.cli import main
from dermserve.models.lifecycle.desk import Desk
from dermserve.models.lifecycle.errors import GateError, SignatureError
from dermserve.models.lifecycle.local_store import LocalStore
from dermserve.models.lifecycle.manifest import MANIFEST, SIGNATURE, write_manifest
from dermserve.models.lifecycle.moves import promote
from dermserve.models.lifecycle.signature import check_signature, sign_version
from dermserve.models.lifecycle.stores import open_store
from tests.lifecycle.fake_servers import FakeServer, FakeServers
from tests.lifecycle.versions_at_hand import make_version

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its keys with openssl")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two pairs, NAME.key and NAME.pub."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        made = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{folder}/{name}.key"]
        subprocess.run(made, check=True, capture_output=True)
        public = ["openssl", "ec", "-in", f"{folder}/{name}.key", "-pubout", "-out", f"{folder}/{name}.pub"]
        subprocess.run(public, check=True, capture_output=True)
    (folder / "junk.pub").write_text("junk")
    return folder


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
    elif how == "no signature at all":
        (folder / SIGNATURE).write_text("{}")
    elif how == "changed with its manifest":  # whom the manifest alone would not stop
        (folder / "saved_model.pb").write_bytes(b"evil!")
        write_manifest(folder, model="m", about={})


DAMAGES = ["saved_model.pb", "assets.extra/other", MANIFEST, SIGNATURE, "added", "removed", "unsigned", "signed anew",
           "no signature at all", "changed with its manifest"]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_a_version_that_was_changed_is_refused(store: pathlib.Path, keys: pathlib.Path, how: str) -> None:
    folder, public = store / "m" / "1", keys / "ours.pub"
    check_signature(folder, public, model="m", where="m/1")
    _damage(folder, how, keys)
    with pytest.raises(SignatureError, match=r"^m/1 is not"):
        check_signature(folder, public, model="m", where="m/1")


def test_a_version_of_another_model_is_refused(store: pathlib.Path, keys: pathlib.Path) -> None:
    with pytest.raises(SignatureError, match="x/1 was signed as a version of m"):
        check_signature(store / "m" / "1", keys / "ours.pub", model="x", where="x/1")


def test_keys_that_are_none_are_named(store: pathlib.Path, keys: pathlib.Path) -> None:
    with pytest.raises(SignatureError, match=r"junk.pub is no public key"):
        check_signature(store / "m" / "1", keys / "junk.pub", model="m", where="m/1")
    for name in ("junk.pub", "ours.pub"):
        with pytest.raises(SignatureError, match=rf"{name} is no private key"):
            sign_version(store / "m" / "1", keys / name)
    done = _run("publish", str(store), "--sign", str(keys / "junk.pub"), f"--store={store}")
    assert (done.exit_code, "exporting" in done.output, "no private key" in done.output) == (1, False, True)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["model", *arguments])


@pytest.mark.parametrize("how", DAMAGES)
def test_pull_refuses_what_is_not_signed_as_it_is_and_mends_what_was_changed_here(
    store: pathlib.Path, keys: pathlib.Path, tmp_path: pathlib.Path, how: str
) -> None:
    local = tmp_path / "local"
    pull = ["pull", f"--store={store}", f"--to={local}", f"--public-key={keys / 'ours.pub'}"]
    assert _run(*pull).exit_code == 0
    _damage(local / "m" / "1", how, keys)
    mended = _run(*pull)
    assert (mended.exit_code, "version 1 copied" in mended.output) == (0, True), mended.output
    check_signature(local / "m" / "1", keys / "ours.pub", model="m", where="here")
    _damage(store / "m" / "1", how, keys)
    shutil.rmtree(local)
    refused = _run(*pull)
    assert refused.exit_code == 1
    assert f"{store}/m/1" in refused.output
    assert open_store(local).versions("m") == []


def test_verify_names_the_signature(store: pathlib.Path, keys: pathlib.Path) -> None:
    done = _run("verify", "m", f"--store={store}", f"--public-key={keys / 'theirs.pub'}", "--tfs=127.0.0.1:1", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["what"].split()[0], row["ok"]) for row in rows] == [("files", True), ("signature", False)]
    assert "theirs.pub" in rows[1]["problem"]


@pytest.mark.parametrize("checked", [True, False])
def test_promote_with_a_key_refuses_another_signature(store: pathlib.Path, keys: pathlib.Path, checked: bool) -> None:
    (store / "models.config").write_text('model_config_list { config { name: "m" base_path: "/models/m" } }')
    held = LocalStore(store)
    servers = FakeServers([FakeServer("one", held, broken=set())])
    with pytest.raises(GateError, match="is not what was signed with the key of"):
        promote(Desk(store=held, servers=servers, public_key=keys / "theirs.pub"), "m", 1, checked=checked)
    assert promote(Desk(store=held, servers=servers, public_key=keys / "ours.pub"), "m", 1).after == {"stable": 1}
