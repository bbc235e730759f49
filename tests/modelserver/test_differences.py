"""Each deliberate difference from a real TensorFlow Serving, as docs/modelserver.md lists them."""

import pathlib
from collections.abc import Iterator

import grpc
import pytest

from tests.modelserver.protos import model_management_pb2
from tests.modelserver.server_process import PREDICTION, Caller, ServerThread, running, serving, starting


@pytest.fixture(scope="module")
def server(models: pathlib.Path) -> Iterator[tuple[ServerThread, Caller]]:
    with serving(
        "--model_name=m", f"--model_base_path={models}/half_plus_two", "--enable_grpc_healthcheck_service"
    ) as pair:
        yield pair


def test_it_listens_on_this_machine_alone_and_on_a_free_port(server: tuple[ServerThread, Caller]) -> None:
    host, _, port = server[0].address.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


def test_it_listens_elsewhere_when_told(models: pathlib.Path) -> None:
    with serving("--host=0.0.0.0", f"--model_base_path={models}/half_plus_two") as (elsewhere, _):
        assert elsewhere.address.startswith("0.0.0.0:")


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_calls_on_examples_say_that_this_is_the_stand_in(server: tuple[ServerThread, Caller], method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        server[1].raw(f"{PREDICTION}/{method}", b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "local stand-in for TensorFlow Serving" in caught.value.details()


def test_a_tensor_that_only_repetition_could_fill_is_refused(server: tuple[ServerThread, Caller]) -> None:
    huge = {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": str(2**40)}]}, "float_val": [1.0]}
    reply = server[1].predict("m", x=huge)
    assert (reply.code, reply.message) == ("INVALID_ARGUMENT", "tensor parsing error: x")


def test_of_the_metrics_only_the_models_read_are_counted(
    server: tuple[ServerThread, Caller], models: pathlib.Path
) -> None:
    request = model_management_pb2.ReloadConfigRequest(metric_names=["/tensorflow/serving/request_count"])
    request.config.model_config_list.config.add(
        name="m", base_path=str(models / "half_plus_two"), model_platform="tensorflow"
    )
    answer = server[1].raw("/tensorflow.serving.ModelService/HandleReloadConfigRequest", request.SerializeToString())
    (metric,) = model_management_pb2.ReloadConfigResponse.FromString(answer).metric
    assert (metric.name, metric.int64_value_increase) == ("/tensorflow/serving/request_count", 0)


def test_a_flag_that_would_be_missed_keeps_the_program_from_starting(models: pathlib.Path) -> None:
    with running("--port=0", f"--model_base_path={models}/half_plus_two", "--enable_batching") as server:
        assert server.wait_exit() == 255
        assert "INVALID_ARGUMENT: --enable_batching is not supported" in server.find("Failed to start server. Error: ")


def test_base_paths_are_local() -> None:
    with starting("--model_base_path=gs://bucket/model") as server:
        server.wait_log("Could not find base path gs://bucket/model")
        assert server.running
