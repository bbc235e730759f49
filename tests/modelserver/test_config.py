import pathlib

import pytest

from dermserve.modelserver.config import check_models, check_platforms, check_transition, read_models
from dermserve.modelserver.errors import ServingError
from dermserve.modelserver.protos import model_server_config_pb2

Model = model_server_config_pb2.ModelConfig


def models(*entries: object) -> object:
    return model_server_config_pb2.ModelConfigList(config=entries)


def model(name: str = "a", base_path: str = "/a", model_platform: str = "tensorflow", **more: object) -> object:
    return Model(name=name, base_path=base_path, model_platform=model_platform, **more)


def test_a_text_file_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "models.config"
    path.write_text('model_config_list { config { name: "a" base_path: "/a" version_labels { key: "k" value: 3 } } }')
    config = read_models(path).config[0]
    assert (config.name, dict(config.version_labels)) == ("a", {"k": 3})


def test_a_file_that_is_missing_or_no_config_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ServingError, match=r"NOT_FOUND|missing"):
        read_models(tmp_path / "missing")
    (tmp_path / "bad").write_text("model_config_list { config { name: } }")
    with pytest.raises(ServingError, match=r"Invalid protobuf file: '.*bad'$"):
        read_models(tmp_path / "bad")
    (tmp_path / "custom").write_text("custom_model_config { }")
    with pytest.raises(ServingError, match="custom_model_config is not served by this stand-in"):
        read_models(tmp_path / "custom")


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


def test_the_platform_is_given_and_is_tensorflow() -> None:
    check_platforms(models(model(), model(model_platform="", model_type="TENSORFLOW")))
    with pytest.raises(ServingError, match=r"Illegal setting neither .* model name is a"):
        check_platforms(models(model(model_platform="")))
    with pytest.raises(ServingError, match="Model a requests unsupported platform caffe"):
        check_platforms(models(model(model_platform="caffe")))


def test_a_platform_may_not_change() -> None:
    check_transition(models(model()), new=models(model(base_path="/b"), model(name="new", model_platform="caffe")))
    with pytest.raises(ServingError, match="platform was tensorflow and new platform requested is caffe"):
        check_transition(models(model()), new=models(model(model_platform="caffe")))
