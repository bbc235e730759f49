"""What the model server does that needs no recording to know."""

import base64
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.modelserver.server_process import (
    PREDICTION,
    Caller,
    floats,
    publish,
    running,
    serving,
    serving_process,
    starting,
    wait_until,
    write_config,
)

TENSORFLOW = 'model_platform: "tensorflow"'
VALUES: dict[str, tuple[str, list[Any]]] = {
    "float32": ("float_val", [1.5, -2.0]),
    "float64": ("double_val", [1.5, -2.0]),
    "uint8": ("int_val", [0, 255]),
    "int32": ("int_val", [-(2**31), 2**31 - 1]),
    "int64": ("int64_val", [str(-(2**63)), str(2**63 - 1)]),
    "string": ("string_val", ["", base64.b64encode(bytes(range(256)) * 3).decode()]),
}
NAMES = {"float32": "DT_FLOAT", "float64": "DT_DOUBLE"}


@pytest.fixture(scope="module")
def caller(models: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """One server with all the small models."""
    names = ("half_plus_two", "echo", "slow", "defaults", "warm", "picky")
    entries = [f'name: "{name}" base_path: "{models}/{name}" {TENSORFLOW}' for name in names]
    flag = write_config(tmp_path_factory.mktemp("config") / "models.config", *entries)
    with serving(flag, "--grpc_max_threads=4") as (_, found):
        yield found


def test_a_card_is_served_whatever_is_asked(caller: Caller) -> None:
    query = {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "2"}]}, "string_val": ["", ""]}
    reply = caller.predict("echo", spec={"signature_name": "describe"}, query=query)
    assert reply.code == "OK", reply
    cards = reply.response["outputs"]["card"]["string_val"]
    assert [json.loads(base64.b64decode(card)) for card in cards] == [{"model": "echo"}] * 2


@pytest.mark.parametrize("sizes", [(1, 3), (2, 5), (0, 1)])
def test_what_a_graph_refuses_is_refused_with_the_graphs_own_status(caller: Caller, sizes: tuple[int, int]) -> None:
    dims = [{"size": size} for size in sizes]
    wrong = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": dims}, "float_val": [1.0] * (sizes[0] * sizes[1])}
    reply = caller.predict("picky", x=wrong)
    assert reply.code == "INVALID_ARGUMENT"
    assert f"[{sizes[0]},{sizes[1]}] is not compatible with expected shape [?,4]" in reply.message
    assert caller.predict("picky", x={**wrong, "tensor_shape": {"dim": [{"size": 1}, {"size": 4}]}}).code == "OK"


@pytest.mark.parametrize("dtype", VALUES)
def test_tensors_of_each_dtype_go_in_and_come_out(caller: Caller, dtype: str) -> None:
    field, values = VALUES[dtype]
    tensor = {"dtype": NAMES.get(dtype, f"DT_{dtype.upper()}"), "tensor_shape": {"dim": [{"size": "2"}]}, field: values}
    reply = caller.predict("echo", spec={"signature_name": dtype}, x=tensor)
    assert reply.code == "OK", reply
    assert reply.response["outputs"]["x"] == tensor


def test_numbers_and_strings_are_read_from_tensor_content(caller: Caller) -> None:
    shape = {"dim": [{"size": "2"}]}
    numbers = {"dtype": "DT_INT64", "tensor_shape": shape}
    numbers["tensor_content"] = base64.b64encode(np.array([1, -1], "<i8").tobytes()).decode()
    reply = caller.predict("echo", spec={"signature_name": "int64"}, x=numbers)
    assert reply.response["outputs"]["x"]["int64_val"] == ["1", "-1"]
    words = {"dtype": "DT_STRING", "tensor_shape": shape, "tensor_content": base64.b64encode(b"\x01\x02abc").decode()}
    reply = caller.predict("echo", spec={"signature_name": "string"}, x=words)
    assert reply.response["outputs"]["x"]["string_val"] == [base64.b64encode(word).decode() for word in (b"a", b"bc")]


def test_an_answer_of_another_dtype_says_that_this_is_the_stand_in(caller: Caller) -> None:
    tensor = {"dtype": "DT_BOOL", "tensor_shape": {}, "bool_val": [True]}
    reply = caller.predict("echo", spec={"signature_name": "bool"}, x=tensor)
    assert (reply.code, "stand-in can't answer a tensor of dtype 10 " in reply.message) == ("UNIMPLEMENTED", True)


def test_an_input_with_a_default_must_be_sent_too(caller: Caller) -> None:
    reply = caller.predict("defaults")
    assert (reply.code, "Missing but required: {x}" in reply.message) == ("INVALID_ARGUMENT", True)


def test_an_output_asked_for_twice_is_refused(caller: Caller) -> None:
    request = {"model_spec": {"name": "half_plus_two"}, "inputs": {"x": floats(1.0)}, "output_filter": ["y", "y"]}
    reply = caller.call(f"{PREDICTION}/Predict", request)
    assert (reply.code, reply.message) == ("INVALID_ARGUMENT", "duplicate output tensor alias: y")


@pytest.mark.parametrize(
    ("signature", "message"),
    [("lost", "Tensor lost:0, specified in either feed_devices or fetch_devices was not found"), ("gone", "y:7")],
)
def test_a_signature_that_names_what_the_graph_lacks_fails_the_call_alone(
    caller: Caller, signature: str, message: str
) -> None:
    reply = caller.predict("defaults", spec={"signature_name": signature}, x=floats(1.0))
    assert reply.code == "INVALID_ARGUMENT"
    assert message in reply.message
    assert caller.predict("defaults", x=floats(1.0)).code == "OK"


def test_only_a_timeout_of_its_own_ends_a_call(caller: Caller) -> None:
    assert caller.predict("slow", deadline_s=0.05, x=floats(1.0)).code == "DEADLINE_EXCEEDED"
    assert caller.predict("slow", x=floats(1.0)).code == "OK"


def test_calls_beyond_the_limit_are_turned_away_at_once_and_the_others_answered(caller: Caller) -> None:
    with ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: caller.predict("slow", x=floats(1.0)), range(12)))
    outcomes = {(reply.code, reply.message) for reply in replies}
    assert outcomes == {("OK", ""), ("RESOURCE_EXHAUSTED", "Server Threadpool Exhausted")}
    assert sum(reply.code == "OK" for reply in replies) >= 4
    assert caller.predict("half_plus_two", x=floats(1.0)).code == "OK"


def test_warm_up_records_written_by_tensorflow_are_replayed(models: pathlib.Path) -> None:
    with serving("--model_name=warm", f"--model_base_path={models}/warm") as (server, _):
        assert server.find(r"Warmed .*warm/1 up: 4 records")
        assert server.find("skipping a warm-up record of another call than Predict")


def test_a_truncated_warm_up_file_fails_the_load(models: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = pathlib.Path("assets.extra") / "tf_serving_warmup_requests"
    publish(models / "warm" / "1", tmp_path / "m" / "1")
    (tmp_path / "m" / "1" / path).write_bytes((models / "warm" / "1" / path).read_bytes()[:-3])
    with starting(f"--model_base_path={tmp_path / 'm'}", "--max_num_load_retries=0") as server:
        assert server.wait_exit() == 255
        assert "DATA_LOSS: corrupted record at" in server.find("Failed to start server")


def test_a_version_is_unloaded_when_its_last_call_has_ended(models: pathlib.Path, tmp_path: pathlib.Path) -> None:
    publish(models / "slow" / "1", tmp_path / "m" / "1")
    flags = ("--model_name=m", f"--model_base_path={tmp_path}/m", "--file_system_poll_wait_seconds=1")
    with serving(*flags, "--grpc_max_threads=16") as (_, caller), ThreadPoolExecutor(8) as pool:
        stop = threading.Event()
        answers: list[list[str]] = [[], []]
        calls = [pool.submit(_call_until, caller, stop, into) for into in answers]
        wait_until(lambda: all(answers))
        publish(models / "half_plus_two" / "2", tmp_path / "m" / "2")
        seen = set()
        while (states := caller.states("m")).get(1) != "END":
            seen.add(states[1])
        wait_until(lambda: all(len(set(answered)) == 2 for answered in answers))
        stop.set()
        assert seen <= {"AVAILABLE", "UNLOADING"}
        assert states == {2: "AVAILABLE", 1: "END"}
        # Calls went on all the while, and once the new version answered, the old one did no more.
        for call, versions in zip(calls, answers, strict=True):
            call.result()
            assert versions == sorted(versions)


def _call_until(caller: Caller, stop: threading.Event, into: list[str]) -> None:
    while not stop.is_set():
        reply = caller.predict("m", x=floats(2.0))
        assert reply.code == "OK", reply
        into.append(reply.response["model_spec"]["version"])


def test_no_call_is_lost_while_versions_come_and_go(models: pathlib.Path, tmp_path: pathlib.Path) -> None:
    base = tmp_path / "m"
    publish(models / "half_plus_two" / "1", base / "1")
    flags = ("--model_name=m", f"--model_base_path={base}", "--file_system_poll_wait_seconds=1")
    with serving(*flags, "--grpc_max_threads=64") as (_, caller), ThreadPoolExecutor(6) as pool:
        stop = threading.Event()
        answers: list[tuple[str, float]] = []
        calls = [pool.submit(_answers_until, caller, stop, answers) for _ in range(6)]
        for version in (1, 2, 3):
            if version > 1:
                publish(models / "half_plus_two" / str(version), base / str(version))
            wait_until(lambda version=version: str(version) in {answered for answered, _ in answers})
        shutil.rmtree(base / "3")
        wait_until(lambda: caller.states("m") == {3: "END", 2: "AVAILABLE", 1: "END"})
        stop.set()
        for call in calls:
            call.result()
    assert {version for version, _ in answers} == {"1", "2", "3"}
    assert all(y == int(version) + 2.0 for version, y in answers)


def _answers_until(caller: Caller, stop: threading.Event, answers: list[tuple[str, float]]) -> None:
    while not stop.is_set():
        reply = caller.predict("m", x=floats(2.0))
        assert reply.code == "OK", reply
        answers.append((reply.response["model_spec"]["version"], reply.response["outputs"]["y"]["float_val"][0]))


def test_one_broken_version_does_not_keep_the_others_from_serving(models: pathlib.Path, tmp_path: pathlib.Path) -> None:
    publish(models / "half_plus_two" / "1", tmp_path / "m" / "1")
    (tmp_path / "m" / "2").mkdir()
    every = "model_version_policy { all {} }"
    entries = [f'name: "m" base_path: "{tmp_path}/m" {TENSORFLOW} {every}']
    config = write_config(tmp_path / "models.config", *entries)
    with serving(config, "--max_num_load_retries=0", "--num_load_threads=2") as (server, caller):
        assert caller.states("m") == {2: "END", 1: "AVAILABLE"}
        assert server.find(r"Servable {name: m version: 2} cannot be loaded: NOT_FOUND")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_calls_in_flight_finish_and_then_ends_the_process(models: pathlib.Path, number: int) -> None:
    flags = ("--model_name=slow", f"--model_base_path={models}/slow")
    with serving_process(*flags, "--grpc_max_threads=1") as (server, caller), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(caller.predict, "slow", x=floats(1.0))
        while caller.predict("slow").code != "RESOURCE_EXHAUSTED":  # It is on its way.
            if waiting.done():
                waiting = pool.submit(caller.predict, "slow", x=floats(1.0))
        server.process.send_signal(number)
        assert waiting.result().code == "OK"
        assert server.wait_exit() == 0


def test_a_signal_ends_a_server_that_still_waits_for_its_models(tmp_path: pathlib.Path) -> None:
    with running("--port=0", f"--model_base_path={tmp_path}") as server:
        server.wait_log("No versions of servable default found")
        server.process.terminate()
        assert server.wait_exit() == 0


def test_reloads_that_wait_for_ever_do_not_keep_the_server_from_stopping(models: pathlib.Path) -> None:
    with serving_process(f"--model_base_path={models}/half_plus_two") as (server, caller):
        lost = {"name": "lost", "base_path": "/nowhere", "model_platform": "tensorflow"}
        for _ in range(2):  # The second waits for the first.
            assert caller.reload(lost, deadline_s=0.5).code == "DEADLINE_EXCEEDED"
        server.process.terminate()
        assert server.wait_exit() == 0


@pytest.mark.skipif(shutil.which("localedef") is None, reason="makes a locale with localedef")
def test_a_path_is_found_in_a_locale_other_than_utf_8(
    models: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(tmp_path / "de_DE.ISO-8859-1")]
    if subprocess.run(made, check=False, capture_output=True).returncode:
        pytest.skip("localedef lacks its sources")
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    monkeypatch.setenv("LC_ALL", "de_DE.ISO-8859-1")
    publish(models / "half_plus_two" / "1", tmp_path / "a näme" / "1")
    with serving_process(f"--model_base_path={tmp_path / 'a näme'}", "--max_num_load_retries=0") as (_, caller):
        assert caller.states("default") == {1: "AVAILABLE"}


def test_a_taken_port_is_said_to_be_taken(models: pathlib.Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with starting(f"--port={port}", f"--model_base_path={models}/half_plus_two") as server:
            assert server.wait_exit() == 255
            assert f"can't listen on 127.0.0.1:{port}" in server.text


def test_the_configuration_file_is_read_again(models: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "models.config"
    line = f'name: "half_plus_two" base_path: "{models}/half_plus_two" {TENSORFLOW}'
    flag = write_config(path, line)
    polls = ("--model_config_file_poll_wait_seconds=1", "--file_system_poll_wait_seconds=1")
    with serving(flag, *polls) as (server, caller):
        path.write_text("nonsense")
        server.wait_log("failed to ReloadConfig: INVALID_ARGUMENT: Invalid protobuf file")
        write_config(path, line, f'name: "echo" base_path: "{models}/echo" {TENSORFLOW}')
        wait_until(lambda: caller.states("echo") == {1: "AVAILABLE"})
        assert caller.states("half_plus_two") == {3: "AVAILABLE"}


def test_a_version_that_comes_back_is_loaded_afresh(models: pathlib.Path, tmp_path: pathlib.Path) -> None:
    base = tmp_path / "m"
    publish(models / "half_plus_two" / "1", base / "1")
    flags = ("--model_name=m", f"--model_base_path={base}", "--file_system_poll_wait_seconds=1")
    with serving(*flags) as (_, caller):
        shutil.rmtree(base / "1")
        wait_until(lambda: caller.states("m") == {1: "END"})
        publish(models / "half_plus_two" / "3", base / "1")
        wait_until(lambda: caller.states("m") == {1: "AVAILABLE"})
        assert caller.predict("m", x=floats(2.0)).response["outputs"]["y"]["float_val"] == [5.0]


def test_the_server_runs_without_tensorflows_python_and_beside_it() -> None:
    code = """
import sys
import dermserve.modelserver.server
from dermserve.modelserver import session
assert "tensorflow" not in sys.modules
session.library()
import hashlib, ssl  # They crash when TensorFlow's OpenSSL gets in their way.
import tensorflow as tf
assert tf.constant([1.0]).numpy().tolist() == [1.0]
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
