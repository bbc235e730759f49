import pathlib

import pytest

from dermserve.modelserver._protos import file_system_storage_path_source_pb2, model_server_config_pb2
from dermserve.modelserver.errors import ServingError
from dermserve.modelserver.source import aspired_versions, index_versions, poll

Policy = file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy
VERSIONS = {1: "1", 2: "2", 9: "9", 10: "10"}


@pytest.mark.parametrize(
    ("children", "versions"),
    [
        (["1", "2", "10"], {1: "1", 2: "2", 10: "10"}),
        (["tmp-export", "notanumber", "README", "2.5", "", "1_0", "+1", "0x1", "\N{ARABIC-INDIC DIGIT ONE}"], {}),
        (["-3", " 4 "], {-3: "-3", 4: " 4 "}),
        (["00000008"], {8: "00000008"}),
        (["8", "00000008"], {8: "8"}),
        ([str(2**63 - 1), str(2**63)], {2**63 - 1: str(2**63 - 1)}),
    ],
)
def test_a_version_is_a_child_whose_name_is_a_whole_number(children: list[str], versions: dict[int, str]) -> None:
    assert index_versions(children) == versions


@pytest.mark.parametrize(
    ("policy", "aspired"),
    [
        (Policy(), [10]),
        (Policy(latest=Policy.Latest()), [10]),
        (Policy(latest=Policy.Latest(num_versions=2)), [10, 9]),
        (Policy(latest=Policy.Latest(num_versions=99)), [10, 9, 2, 1]),
        (Policy(all=Policy.All()), [1, 2, 9, 10]),
        (Policy(specific=Policy.Specific(versions=[2, 7])), [2]),
        (Policy(specific=Policy.Specific()), []),
    ],
)
def test_the_policy_chooses_among_the_versions(policy: object, aspired: list[int]) -> None:
    assert aspired_versions(VERSIONS, policy=policy) == {version: VERSIONS[version] for version in aspired}
    assert aspired_versions({}, policy=policy) == {}


def test_a_poll_gives_the_path_of_each_aspired_version(tmp_path: pathlib.Path) -> None:
    for name in ("1", "007", "draft"):
        (tmp_path / name).mkdir()
    model = model_server_config_pb2.ModelConfig(name="m", base_path=str(tmp_path))
    assert poll(model) == {7: tmp_path / "007"}


def test_an_unreadable_base_path_is_an_error_and_not_an_empty_one(tmp_path: pathlib.Path) -> None:
    model = model_server_config_pb2.ModelConfig(name="m", base_path=str(tmp_path / "gone"))
    with pytest.raises(ServingError, match=r"Could not find base path .*gone for servable m with error NOT_FOUND: "):
        poll(model)
