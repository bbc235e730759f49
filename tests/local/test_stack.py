"""The stack's own promises, with small stand-ins where the order is what matters. The real servers are in tests/e2e."""

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from concurrent import futures

import grpc
import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from dermserve.imaging import decode
from dermserve.imaging.header import read_header
from dermserve.local import DRAWN, Stack, StackError
from dermserve.local.child import child_log
from dermserve.local.stack import _TFS_READY, GATEWAY_READY
from dermserve.local.store import ensure_models, write_config


@pytest.fixture
def listener():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_without_tensorflow_the_extra_is_named_before_anything_starts(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else found(name))
    with (
        pytest.raises(StackError, match=r"need TensorFlow: pip install '\.\[local\]'"),
        Stack(store=tmp_path / "store"),
    ):
        pass
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("option", ["port", "tfs_port"])
def test_a_port_in_use_is_refused_before_anything_starts(tmp_path, listener, option):
    ports = {"port": 0, "tfs_port": 0} | {option: listener}
    with pytest.raises(StackError, match=f"port {listener} is in use.*--{option.replace('_', '-')}"):
        Stack(store=tmp_path / "store", **ports).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_port_shared_by_grpc_counts_as_in_use(tmp_path):
    with futures.ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)  # listens with SO_REUSEPORT, as it does by default
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with pytest.raises(StackError):
            Stack(store=tmp_path / "store", port=port, tfs_port=0).__enter__()
        server.stop(None).wait()


def test_the_launcher_loads_neither_tensorflow_nor_pillow():
    code = "import sys, dermserve.local.cli; print({'tensorflow', 'keras', 'PIL'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_store_that_has_the_models_is_left_alone(tmp_path):
    (tmp_path / "resnet50" / "3").mkdir(parents=True)
    said = []
    ensure_models(tmp_path, ["resnet50"], say=said.append)
    assert said == []


def test_a_model_that_cannot_be_built_says_why(tmp_path):
    said = []
    with pytest.raises(StackError, match="no_such_model, and only resnet50, mobilenet_v3_small can be built"):
        ensure_models(tmp_path, ["no_such_model"], say=said.append)
    assert said == []


@pytest.mark.parametrize("where", ["file/below", "/proc/none/store", "/proc"])
def test_a_store_that_cannot_be_written_is_named_before_tensorflow_starts(tmp_path, where):
    (tmp_path / "file").touch()
    said = []
    with pytest.raises(StackError, match=f"can't write {re.escape(str(tmp_path / where))}: "):
        ensure_models(tmp_path / where, ["resnet50"], say=said.append)
    assert said == []


def test_the_config_is_what_tensorflow_serving_reads(tmp_path):
    store = tmp_path / 'a "quoted" näme'
    store.mkdir()
    path = write_config(store, ["resnet50", "other"])
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig())
    assert [(entry.name, entry.base_path, entry.model_platform) for entry in config.model_config_list.config] == [
        ("resnet50", str(store / "resnet50"), "tensorflow"),
        ("other", str(store / "other"), "tensorflow"),
    ]
    assert [entry for entry in store.iterdir() if entry.name != ".lock"] == [path]


def test_a_store_whose_name_is_no_text_is_named(tmp_path):
    store = tmp_path / os.fsdecode(b"caf\xe9")
    store.mkdir()
    with pytest.raises(StackError, match=r"can't write .*models.config: base_path would not be UTF-8"):
        write_config(store, ["m"], into=tmp_path)


def _label(config, *, version):
    pin = f"model_version_policy {{ specific {{ versions: {version} }} }}"
    entry = f'{pin} version_labels {{ key: "stable" value: {version} }}'
    config.write_text(config.read_text().replace('"tensorflow"', f'"tensorflow" {entry}', 1))


def test_labels_and_pins_survive_a_restart_of_everything(tmp_path):
    for model in ("resnet50", "other"):
        (tmp_path / model / "3").mkdir(parents=True)
    config = write_config(tmp_path, ["resnet50"])
    _label(config, version=3)
    pinned = write_config(tmp_path, ["resnet50"]).read_text()
    assert "versions: 3" in pinned
    assert 'key: "stable"' in pinned
    assert "versions: 3" not in write_config(tmp_path, ["other"]).read_text()  # served without that model for a while
    assert write_config(tmp_path, ["resnet50"]).read_text() == pinned


def test_a_pin_on_a_version_that_is_gone_is_an_error_and_not_a_long_wait(tmp_path):
    (tmp_path / "resnet50" / "3").mkdir(parents=True)
    config = write_config(tmp_path, ["resnet50"])
    _label(config, version=2)
    with pytest.raises(StackError, match="asks for version 2 of resnet50, which the store does not have"):
        write_config(tmp_path, ["resnet50"])


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=re.escape(str(tmp_path / "file" / "models.config"))):
        write_config(tmp_path / "file", ["resnet50"])


def test_logs_are_appended_and_put_aside_when_large(tmp_path, monkeypatch):
    path = tmp_path / "logs" / "gateway.log"
    for line in ("first", "second"):
        with child_log(path, say=pytest.fail) as log:
            log(line)
    assert path.read_text() == "first\nsecond\n"
    monkeypatch.setattr("dermserve.local.child._LARGE", 5)
    with child_log(path, say=pytest.fail) as log:
        log("third")
    assert path.read_text() == "third\n"
    assert path.with_name("gateway.log.old").read_text() == "first\nsecond\n"


def test_a_log_on_a_full_disk_ends_nothing(tmp_path):
    (tmp_path / "full.log").symlink_to("/dev/full")
    with child_log(tmp_path / "full.log", say=pytest.fail) as log, contextlib.suppress(OSError):
        log("line")


def test_the_drawn_pictures_differ_and_can_be_classified():
    pictures = [file.read_bytes() for file in DRAWN.iterdir()]
    assert len(pictures) == len(set(pictures)) == 8
    for picture in pictures:
        header = read_header(picture)
        assert (header.format, header.width, header.height) == ("JPEG", 600, 450)
    pixels = decode((DRAWN / "0.jpg").read_bytes(), height=224, width=224)
    middle, corner = pixels[100:124, 90:114].mean(), pixels[:24, :24].mean()
    assert middle < corner - 40


def test_the_shape_of_a_log_line_says_whether_a_server_is_ready():
    for line in ('{"address": "a:5", "event": "health_changed"}', '{"event":"health_changed","address":"a:5"}'):
        assert json.loads(GATEWAY_READY.search(line)[0])["address"] == "a:5"
    assert not GATEWAY_READY.search('{"event": "answered", "address": "127.0.0.1:5"}')
    assert _TFS_READY.search("2026-01-01 I Running gRPC ModelServer at 127.0.0.1:8500 ...")[1] == "127.0.0.1:8500"


def test_serving_without_the_edge_needs_nothing_of_its_extra():
    script = "import sys; sys.modules.update(jinja2=None, envoy=None); import dermserve.local.cli"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=200)
