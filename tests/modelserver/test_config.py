import pathlib

import pytest

from dermserve.modelserver._protos import model_server_config_pb2
from dermserve.modelserver.batching_parameters import read_parameters
from dermserve.modelserver.config import check_models, check_platforms, check_transition, platform_of, read_config
from dermserve.modelserver.errors import ServingError

Model = model_server_config_pb2.ModelConfig


def models(*entries: object) -> object:
    return model_server_config_pb2.ModelConfigList(config=entries)


def model(name: str = "a", base_path: str = "/a", model_platform: str = "tensorflow", **more: object) -> object:
    return Model(name=name, base_path=base_path, model_platform=model_platform, **more)


def test_a_text_file_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "models.config"
    path.write_text('model_config_list { config { name: "a" base_path: "/a" version_labels { key: "k" value: 3 } } }')
    config = read_config(path).model_config_list.config[0]
    assert (config.name, dict(config.version_labels)) == ("a", {"k": 3})


def test_a_file_that_is_missing_or_no_config_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ServingError, match=r"NOT_FOUND|missing"):
        read_config(tmp_path / "missing")
    (tmp_path / "bad").write_text("model_config_list { config { name: } }")
    with pytest.raises(ServingError, match=r"Invalid protobuf file: '.*bad'$"):
        read_config(tmp_path / "bad")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([model(), model()], "Illegal to list model a multiple times in config list"),
        ([model(base_path="a/b")], r"Expected model a to have an absolute path or URI; got base_path\(\)=a/b"),
        ([model(base_path="")], r"got base_path\(\)=$"),
    ],
)
def test_a_list_that_breaks_a_rule_is_refused(entries: list[object], message: str) -> None:
    with pytest.raises(ServingError, match=message):
        check_models(models(*entries))


def test_a_base_path_may_be_a_uri() -> None:
    check_models(models(model(base_path="gs://bucket/a")))


def test_the_platform_is_given_once_and_is_tensorflow() -> None:
    assert platform_of(model()) == "tensorflow"
    assert platform_of(model(model_platform="", model_type="TENSORFLOW")) == "tensorflow"
    with pytest.raises(ServingError, match=r"Illegal setting neither .* model name is a"):
        platform_of(model(model_platform=""))
    with pytest.raises(ServingError, match="Illegal setting both"):
        platform_of(model(model_type="TENSORFLOW"))
    with pytest.raises(ServingError, match="Model a requests unsupported platform caffe"):
        check_platforms(models(model(model_platform="caffe")))


def test_a_platform_may_not_change() -> None:
    check_transition(models(model()), new=models(model(base_path="/b"), model(name="new", model_platform="caffe")))
    with pytest.raises(ServingError, match="platform was tensorflow and new platform requested is caffe"):
        check_transition(models(model()), new=models(model(model_platform="caffe")))


def test_batching_parameters_are_read_from_tensorflow_servings_text_format(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "batching.config"
    path.write_text(
        """max_batch_size { value: 8 } batch_timeout_micros { value: 1500 } num_batch_threads { value: 3 }
        thread_pool_name { value: "x" } allowed_batch_sizes: 4 allowed_batch_sizes: 8
        pad_variable_length_inputs: true"""
    )
    parameters = read_parameters(path)
    assert (parameters.max_batch_size, parameters.batch_timeout_s, parameters.num_batch_threads) == (8, 0.0015, 3)
    assert (parameters.allowed_batch_sizes, parameters.pad_variable_length_inputs) == ((4, 8), True)
    assert parameters.max_enqueued_batches == 10
    parameters.check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4]",
            "must match max_batch_size; last entry was 4; expected 8",
        ),
        (
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } allowed_batch_sizes: [4, 2, 8]",
            "must be monotonically increasing",
        ),
        (
            "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } "
            "max_execution_batch_size { value: 4 } allowed_batch_sizes: [2, 8]",
            "must be equal to max_execution_batch_size; last entry was 8; expected 4",
        ),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("max_batch_size: 8", "Invalid protobuf file"),
    ],
)
def test_batching_parameters_that_contradict_themselves_are_refused(
    tmp_path: pathlib.Path, text: str, message: str
) -> None:
    (tmp_path / "batching.config").write_text(text)
    with pytest.raises(ServingError, match=message):
        read_parameters(tmp_path / "batching.config").check()
