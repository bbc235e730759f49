import pathlib

import pytest

from dermserve.modelserver.errors import ServingError
from dermserve.modelserver.versions import check_models, check_platforms, list_models, read_models
from dermserve.tfserving.v1 import management_pb2


def test_a_file_that_is_missing_or_has_no_list_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ServingError, match=r"NOT_FOUND|missing"):
        read_models(tmp_path / "missing")
    (tmp_path / "custom").write_text("custom_model_config { }")
    with pytest.raises(ServingError, match="custom_model_config is not served by this stand-in"):
        read_models(tmp_path / "custom")


@pytest.mark.parametrize("path", ["a/b", ""])
def test_a_base_path_is_absolute_or_a_uri(path: str) -> None:
    check_models(list_models(a="gs://bucket/a"), before=list_models())
    with pytest.raises(
        ServingError, match=rf"Expected model a to have an absolute path or URI; got base_path\(\)={path}$"
    ):
        check_models(list_models(a=path), before=list_models())


def test_the_older_way_to_name_the_platform_is_known() -> None:
    model = management_pb2.ModelConfig(name="a", base_path="/a", model_type="TENSORFLOW")
    check_platforms(management_pb2.ModelConfigList(config=[model]))
