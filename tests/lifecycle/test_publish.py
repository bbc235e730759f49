"""From a run to a version in a store, by the command."""

import json
import pathlib
import socket
import subprocess
import sys

import pytest

from dermserve.models import exporter
from dermserve.models.export import SHIPPED
from dermserve.models.lifecycle.manifest import GOLDEN, MANIFEST, WARMUP, parse_manifest, read_records
from dermserve.models.lifecycle.servers import Server, every_address
from dermserve.models.lifecycle.stores import new_entry, open_store
from tests.lifecycle.versions_at_hand import MODEL, run
from tests.tiny import tiny_content


def test_a_run_becomes_a_signed_version_in_object_storage_with_all_that_belongs_to_it(
    bucket: str, keys: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "run_content", lambda run: tiny_content(run.name))
    publish = ["publish", str(SHIPPED / MODEL), f"--store={bucket}", f"--sign={keys / 'ours.key'}", "--json"]
    done = run(*publish)
    assert done.exit_code == 0, done.output
    for name, code in (("ours", 0), ("theirs", 1)):
        key = f"--public-key={keys / f'{name}.pub'}"
        for command in (["verify", "--offline", f"--store={bucket}"], ["pull", f"--store={bucket}", "--to"]):
            to = [str(tmp_path / name)] if "--to" in command else []
            assert run(*command, *to, key).exit_code == code
    assert open_store(tmp_path / "ours").versions(MODEL) == [1]
    assert open_store(tmp_path / "theirs").versions(MODEL) == []
    said = json.loads(done.stdout)
    store = open_store(bucket)
    manifest = parse_manifest(store.read(MODEL, 1, MANIFEST), where="here")
    assert {"saved_model.pb", GOLDEN, WARMUP} <= set(manifest.files)
    golden = list(read_records(store.read(MODEL, 1, GOLDEN), where="here"))
    assert [record.request.model_spec.signature_name for record in golden] == [
        *("serving_default", "encoded", "tta", "describe")
    ]
    assert all(record.response.outputs for record in golden)
    (line,) = map(json.loads, run("log", "--store", bucket, "--json").stdout.splitlines())
    assert (line["what"], line["from"], line["to"], line["digest"]) == ("publish", None, 1, manifest.digest)
    assert said == line


def test_a_folder_that_is_no_run_publishes_nothing(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    done = run("publish", str(tmp_path / "run"), "--store", str(tmp_path / "store"))
    assert done.exit_code == 1
    assert "lacks experiment.json" in done.output
    assert not (tmp_path / "store").exists()


def _resolver(*addresses: str):
    def resolve(host: str, port: str, **_: object) -> list[tuple[object, ...]]:
        if host != "tfs":
            raise OSError("Name or service not known")
        return [(0, 0, 0, "", (address, int(port))) for address in addresses]

    return resolve


@pytest.mark.parametrize(
    ("addresses", "meant"),
    [
        (["10.0.0.1", "10.0.0.2", "10.0.0.1"], ["10.0.0.1:8500", "10.0.0.2:8500"]),
        (["10.0.0.1", "fd00::1"], ["10.0.0.1:8500", "[fd00::1]:8500"]),
        (["10.0.0.1"], ["tfs:8500"]),
        (["127.0.0.1", "::1"], ["tfs:8500"]),
    ],
)
def test_a_name_with_many_addresses_means_every_server(
    addresses: list[str], meant: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _resolver(*addresses))
    assert every_address("tfs:8500") == meant


def test_a_reader_that_has_enough_of_the_log_sees_no_error(tmp_path: pathlib.Path) -> None:
    store = open_store(tmp_path)
    store.append_audit("\n".join([json.dumps(new_entry("publish", "m", None, 1))] * 5000))
    program = "from dermserve.cli import main; main()"
    command = [sys.executable, "-c", program, "model", "log", f"--store={tmp_path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


def test_names_are_read_as_the_gateway_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _resolver("10.0.0.1", "10.0.0.2"))
    asked: list[str] = []
    monkeypatch.setattr(Server, "states", lambda self, model: asked.append(self.address) or [])
    done = run("status", "m", env={"DERMSERVE_TFS": "dns:///tfs:8500"})
    assert (done.exit_code, asked) == (1, ["10.0.0.1:8500", "10.0.0.2:8500"])
