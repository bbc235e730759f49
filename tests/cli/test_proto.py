"""What clients in other languages are generated from."""

import pathlib
import subprocess
import sys

import pytest
from click.testing import CliRunner
from google.protobuf import descriptor_pb2, descriptor_pool

from dermserve.cli import main

ROOT = pathlib.Path(__file__).resolve().parents[2]
API = "dermserve/v1/classifier.proto", "dermserve/v1/card.proto"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("protos") / "made"
    done = CliRunner().invoke(main, ["proto", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert {pathlib.Path(line) for line in done.output.splitlines()} == {p for p in out.rglob("*") if p.is_file()}
    return out


@pytest.mark.parametrize(
    "paths",
    [["written"], [ROOT / "proto", ROOT / "proto" / "third_party"]],
    ids=["what is written", "the checkout"],
)
def test_a_compiler_finds_every_import(written, tmp_path, paths):
    folders = [f"-I{written if path == 'written' else path}" for path in paths]
    command = [sys.executable, "-m", "grpc_tools.protoc", *folders, "--include_imports"]
    command += [f"--descriptor_set_out={tmp_path / 'all'}", *API]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_protoset_holds_all_that_is_needed_and_where_each_language_puts_it(written):
    image = descriptor_pb2.FileDescriptorSet.FromString((written / "dermserve.protoset").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in image.file:
        pool.Add(file)  # in order: nothing is imported before it is there
    assert pool.FindMethodByName("dermserve.v1.Classifier.Classify")
    assert pool.FindMessageTypeByName("google.rpc.RetryInfo")
    for file in image.file:
        if file.package == "dermserve.v1":
            o = file.options
            assert o.go_package == "dermserve.dev/proto/dermserve/v1;dermservev1"
            assert (o.java_package, o.java_multiple_files) == ("dev.dermserve.v1", True)
            assert (o.csharp_namespace, o.swift_prefix, o.objc_class_prefix) == ("Dermserve.V1", "Derm", "DERM")
            fields = [field for message in file.message_type for field in message.field]
            assert all(field.json_name for field in fields)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    done = CliRunner().invoke(main, ["proto", "--out", str(tmp_path / "file" / "below")])
    assert done.exit_code == 1
    assert f"can't use {tmp_path / 'file' / 'below'}" in done.output


def test_the_googleapis_files_in_the_checkout_are_those_that_are_written(written):
    third_party = ROOT / "proto" / "third_party"
    for path in third_party.rglob("*.proto"):
        assert (written / path.relative_to(third_party)).read_bytes() == path.read_bytes()
    assert "Apache License" in (third_party / "LICENSE").read_text()
