"""Each deliberate difference from a real TensorFlow Serving, as docs/modelserver.md lists them."""

import pathlib
from collections.abc import Iterator

import grpc
import pytest

from dermserve.modelserver._protos import model_management_pb2
from tests.modelserver.server_process import PREDICTION, Caller, ServerProcess, floats, running, serving


@pytest.fixture(scope="module")
def line(models: pathlib.Path) -> Iterator[tuple[ServerProcess, Caller]]:
    with serving("--model_name=line", f"--model_base_path={models}/line", "--enable_grpc_healthcheck_service") as pair:
        yield pair


def test_it_listens_on_this_machine_alone_and_on_a_free_port(line: tuple[ServerProcess, Caller]) -> None:
    host, _, port = line[0].address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


def test_it_listens_elsewhere_when_told(models: pathlib.Path) -> None:
    with serving("--host=0.0.0.0", f"--model_base_path={models}/line") as (server, _):
        assert server.address.startswith("0.0.0.0:")


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_calls_on_examples_say_that_this_is_the_stand_in(line: tuple[ServerProcess, Caller], method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        line[1].raw(f"{PREDICTION}/{method}", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "local stand-in for TensorFlow Serving" in caught.value.details()


def test_health_is_not_watched(line: tuple[ServerProcess, Caller]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        line[1].raw("/grpc.health.v1.Health/Watch", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_tensor_that_only_repetition_could_fill_is_refused(line: tuple[ServerProcess, Caller]) -> None:
    huge = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": str(2**40)}]}, "float_val": [1.0]}
    reply = line[1].predict("line", x=huge)
    assert (reply.code, reply.message) == ("INVALID_ARGUMENT", "tensor parsing error: x")


def test_of_the_metrics_only_the_models_read_are_counted(
    line: tuple[ServerProcess, Caller], models: pathlib.Path
) -> None:
    request = model_management_pb2.ReloadConfigRequest(metric_names=["/tensorflow/serving/request_count"])
    request.config.model_config_list.config.add(
        name="line", base_path=str(models / "line"), model_platform="tensorflow"
    )
    answer = line[1].raw("/tensorflow.serving.ModelService/HandleReloadConfigRequest", request.SerializeToString())
    (metric,) = model_management_pb2.ReloadConfigResponse.FromString(answer).metric
    assert (metric.name, metric.int64_value_increase) == ("/tensorflow/serving/request_count", 0)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--ssl_config_file=tls.config", "--ssl_config_file does nothing in this stand-in"),
        ("--platform_config_file=x", "--platform_config_file does nothing in this stand-in"),
    ],
)
def test_flags_that_would_be_missed_keep_it_from_starting(models: pathlib.Path, flag: str, message: str) -> None:
    with running("--port=0", f"--model_base_path={models}/line", flag) as server:
        assert server.wait_exit() == 255
        assert message in server.text


def test_a_custom_model_config_keeps_it_from_starting(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "models.config"
    path.write_text("custom_model_config { }")
    with running("--port=0", f"--model_config_file={path}") as server:
        assert server.wait_exit() == 255
        assert "custom_model_config is not served by this stand-in" in server.text


def test_a_largest_batch_of_nothing_is_an_error_and_not_a_crash(models: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "batching.config"
    path.write_text("max_batch_size { value: 0 }")
    flags = ("--enable_batching", f"--batching_parameters_file={path}")
    with running("--port=0", f"--model_base_path={models}/line", *flags) as server:
        assert server.wait_exit() == 255
        assert "INVALID_ARGUMENT: max_batch_size must be positive; was 0" in server.text


def test_base_paths_are_local() -> None:
    with running("--port=0", "--model_base_path=gs://bucket/model") as server:
        server.wait_log("Could not find base path gs://bucket/model")
        assert server.process.poll() is None


def test_it_stops_on_sigterm_with_exit_code_0(models: pathlib.Path) -> None:
    with serving(f"--model_base_path={models}/line") as (server, caller):
        assert caller.predict("default", x=floats(1.0)).code == "OK"
        server.process.terminate()
        assert server.wait_exit() == 0
