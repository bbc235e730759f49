"""Starting with wrong flags, wrong files and warm-up records goes as on a real TensorFlow Serving 2.20."""

import pathlib
import re
import struct
from typing import Any

import grpc
import pytest

from tests.modelserver import protos
from tests.modelserver.golden import Recording, plain, replay
from tests.modelserver.server_process import PREDICTION, Caller, publish, serving, starting, write_config

WARMUP = pathlib.Path("assets.extra") / "tf_serving_warmup_requests"


@pytest.fixture(scope="session")
def live(golden_models: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directories and files that the recorded flags name."""
    folder, source = tmp_path_factory.mktemp("live"), golden_models / "half_plus_two"
    (folder / "empty").mkdir()
    publish(source / "1", folder / "bad" / "1")
    (folder / "bad" / "1" / "saved_model.pb").write_bytes(b"garbage")
    tensorflow = 'model_platform: "tensorflow"'
    labels = 'version_labels { key: "stable" value: 3 }'
    good = f'base_path: "{source}"'
    (folder / "bad.config").write_text("model_config_list { config { name: }")
    write_config(
        folder / "two.config", f'name: "a" {good} {tensorflow}', f'name: "b" base_path: "{folder}/bad" {tensorflow}'
    )
    write_config(folder / "lab.config", f'name: "a" {good} {tensorflow} {labels}')
    write_config(folder / "pl.config", f'name: "a" {good} model_platform: "nope"')
    write_config(folder / "npl.config", f'name: "a" {good}')
    specific = "model_version_policy { specific { versions: 99 } }"
    write_config(folder / "sp.config", f'name: "a" {good} {tensorflow} {specific}')
    return folder


def last_error(lines: list[str]) -> str:
    return next(plain(line).strip() for line in reversed(lines) if line.startswith("Failed to start server. Error: "))


def test_every_recorded_start_ends_as_recorded(
    recordings: pathlib.Path, golden_models: pathlib.Path, live: pathlib.Path, subtests: pytest.Subtests
) -> None:
    recording = Recording(recordings / "07_startup.json", live=live, models=golden_models)
    for case in recording.cases:
        if case["case"] == "port_zero":
            continue  # A deliberate difference; see test_differences.py.
        with subtests.test(case["case"]), starting(*case["flags"]) as server:
            if case["port_open_after_s"]:
                server.wait_serving()
            elif case["exit_code"] == 255:
                assert server.wait_exit() == 255
                assert last_error(server.log) == last_error(case["log_lines"])
            else:
                line = plain(case["log_lines"][-1].partition("] ")[2])
                for _ in range(2):  # It waits and looks again, and does not open its port.
                    server.wait_log(re.escape(line))
                    server.log.clear()
                assert server.running
                assert not server.find("Running gRPC ModelServer")


@pytest.fixture(scope="session")
def warm(golden_models: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Copies of a model with warm-up files of all kinds."""
    folder = tmp_path_factory.mktemp("warm")
    for name in ("wok", "wbad", "wgarb", "wnot", "wmany", "wname"):
        publish(golden_models / "half_plus_two" / "1", folder / name / "1")
        (folder / name / "1" / WARMUP.parent).mkdir()
    for name, records in _records().items():
        with (folder / name / "1" / WARMUP).open("wb") as file:
            for record in records:
                file.write(struct.pack("<Q4x", len(record)) + record + bytes(4))  # checksums are not checked
    (folder / "wgarb" / "1" / WARMUP).write_bytes(b"this is no TFRecord file, and was never one")
    return folder


def _records() -> dict[str, list[bytes]]:
    """Warm-up records by model, none for `wgarb`. (That TensorFlow's own are read is for test_server.py.)"""
    return {
        "wok": [_log("w", "x")] * 2, "wbad": [_log("w", "zzz")], "wnot": [b"\xff\xfe\xfd"],
        "wmany": [_log("w", "x")] * 1001, "wname": [_log("another", "x")],
    }  # fmt: skip


def _log(model: str, alias: str) -> bytes:
    log = protos.prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = model
    request.inputs[alias].dtype = 1
    request.inputs[alias].float_val.extend([1.0, 2.0])
    request.inputs[alias].tensor_shape.dim.add().size = 2
    return log.SerializeToString()


@pytest.mark.parametrize(
    ("case", "model"),
    [
        ("warmup_ok_2_records", "wok"),
        ("warmup_request_invalid_input_name", "wbad"),
        ("warmup_file_garbage_bytes", "wgarb"),
        ("warmup_record_not_a_predictionlog", "wnot"),
        ("warmup_over_1000_records", "wmany"),
        ("warmup_disabled_flag_with_bad_file", "wbad"),
        ("warmup_unknown_model_name_in_request_is_ignored", "wname"),
    ],
)
def test_warm_up_records(recordings: pathlib.Path, warm: pathlib.Path, case: str, model: str) -> None:
    recorded = Recording(recordings / "13_warmup_and_misc.json", live=warm)[case]
    flags = ["--model_name=w", f"--model_base_path={warm / model}", "--max_num_load_retries=0"]
    with starting(*flags, f"--enable_model_warmup={str('disabled' not in case).lower()}") as server:
        if recorded["exit_code"] == 255:
            assert server.wait_exit() == 255
            assert last_error(server.log) == last_error(recorded["log"])
            return
        server.wait_serving()
        with Caller(server.address) as caller:
            assert caller.states("w") == {1: "AVAILABLE"}
        assert bool(server.find("records in")) == ("disabled" not in case)


def test_flags_that_change_answers(
    recordings: pathlib.Path, golden_models: pathlib.Path, subtests: pytest.Subtests
) -> None:
    recording = Recording(recordings / "13_warmup_and_misc.json")
    base = f"--model_base_path={golden_models}/half_plus_two"
    with serving(base) as (_, plain_caller), serving(base, "--enable_grpc_healthcheck_service") as (_, caller):
        with subtests.test("default_model_name_is_default"):
            replay(plain_caller, recording["default_model_name_is_default"])
        checks = {"health_overall": "", "health_PredictionService": "PredictionService", "health_unknown_service": "x"}
        for name, service in checks.items():
            with subtests.test(name):
                case = recording[name] | {"message": ""}  # grpc_health has no words for an unknown service.
                _check_raw(caller, case, b"\n" + bytes([len(service)]) + service.encode() if service else b"")
        for name, request in {
            "unknown_method": b"",
            "unknown_service": b"",
            "session_service_not_registered": b"",
            "unparsable_request_bytes": b"\xff\xff\xff",
            "health_without_flag": b"",
        }.items():
            with subtests.test(name):
                _check_raw(plain_caller, recording[name], request)


def _check_raw(caller: Caller, case: dict[str, Any], request: bytes) -> None:
    try:
        response, code, message = caller.raw(case["rpc"], request), "OK", ""
    except grpc.RpcError as error:
        response, code, message = b"", error.code().name, error.details()
    assert code == case["code"]
    assert response.hex() == case.get("response_hex", "")
    assert not case.get("message") or message == case["message"]


def test_messages_have_no_limit_on_the_server(golden_models: pathlib.Path) -> None:
    """Requests and answers of 24 MB pass; gRPC's default of 4 MB is the caller's own."""
    rows = 6_000_000
    request = protos.predict_pb2.PredictRequest()
    request.model_spec.name = "h"
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add().size = rows
    request.inputs["x"].tensor_content = bytes(4 * rows)
    with serving("--model_name=h", f"--model_base_path={golden_models}/half_plus_two") as (server, caller):
        assert len(caller.raw(f"{PREDICTION}/Predict", request.SerializeToString())) > 4 * rows
        with grpc.insecure_channel(server.address) as limited, pytest.raises(grpc.RpcError) as caught:
            limited.unary_unary(f"{PREDICTION}/Predict")(request.SerializeToString(), timeout=200)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
