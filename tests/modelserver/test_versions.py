import contextlib
import pathlib

import pytest

from dermserve.modelserver.errors import ServingError
from dermserve.modelserver.versions import (
    Version,
    aspired_versions,
    check_labels,
    find_versions,
    index_versions,
    next_change,
    settled,
)
from dermserve.tfserving.v1 import management_pb2
from dermserve.tfserving.v1.serving_pb2 import ModelVersionStatus as Status

Policy = management_pb2.ServableVersionPolicy
VERSIONS = {1: "1", 2: "2", 9: "9", 10: "10"}


@pytest.mark.parametrize(
    ("children", "versions"),
    [
        (["1", "2", "10"], {1: "1", 2: "2", 10: "10"}),
        (["tmp-export", "notanumber", "README", "2.5", "", "1_0", "+1", "0x1", "\N{ARABIC-INDIC DIGIT ONE}"], {}),
        (["-3", " 4 "], {-3: "-3", 4: " 4 "}),
        (["00000008", "00000001"], {8: "00000008", 1: "00000001"}),
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


def test_looking_gives_the_path_of_each_aspired_version(tmp_path: pathlib.Path) -> None:
    for name in ("1", "007", "draft"):
        (tmp_path / name).mkdir()
    model = management_pb2.ModelConfig(name="m", base_path=str(tmp_path))
    assert find_versions(model) == {7: tmp_path / "007"}


@pytest.mark.parametrize("name", ["gone", "no\0path"])  # as a letter that the locale lacks is none
def test_an_unreadable_base_path_is_an_error_and_not_an_empty_one(tmp_path: pathlib.Path, name: str) -> None:
    model = management_pb2.ModelConfig(name="m", base_path=str(tmp_path / name))
    with pytest.raises(ServingError, match=rf"Could not find base path .*{name} for servable m with error "):
        find_versions(model)


START, LOADING, AVAILABLE = Status.STATE_START, Status.STATE_LOADING, Status.STATE_AVAILABLE
UNLOADING, END = Status.STATE_UNLOADING, Status.STATE_END
WANTED, SURPLUS = True, False


def version(number: int, state: int, aspired: bool = WANTED) -> Version:
    return Version("m", number, pathlib.Path("/m"), state=state, aspired=aspired, failures=state == END)


@pytest.mark.parametrize(
    ("versions", "change"),
    [
        ([], None),
        ([(1, START, WANTED), (2, START, WANTED)], 2),
        ([(1, START, WANTED), (2, LOADING, WANTED)], 1),
        ([(1, AVAILABLE, WANTED)], None),
        ([(1, AVAILABLE, SURPLUS), (2, START, WANTED)], 2),
        ([(1, AVAILABLE, SURPLUS), (2, LOADING, WANTED)], None),
        ([(1, AVAILABLE, SURPLUS), (2, AVAILABLE, WANTED)], 1),
        ([(1, AVAILABLE, SURPLUS), (2, END, WANTED)], None),
        ([(1, AVAILABLE, SURPLUS), (2, AVAILABLE, SURPLUS), (3, START, WANTED)], 1),
        ([(1, AVAILABLE, SURPLUS)], 1),
        ([(1, UNLOADING, SURPLUS), (2, START, WANTED)], 2),
        ([(1, START, SURPLUS), (2, END, SURPLUS)], None),
    ],
)
def test_a_model_is_never_left_without_a_version_while_there_is_one(
    versions: list[tuple[int, int, bool]], change: int | None
) -> None:
    found = next_change([version(*one) for one in versions])
    assert (found and found.number) == change


@pytest.mark.parametrize(
    ("versions", "decides"),
    [
        ([], None),
        ([(1, LOADING, WANTED)], None),
        ([(1, AVAILABLE, WANTED)], 1),
        ([(1, END, WANTED), (2, END, WANTED)], 2),
        ([(1, START, WANTED), (2, END, WANTED)], None),
        ([(1, AVAILABLE, WANTED), (2, END, WANTED)], 1),
        ([(1, END, SURPLUS)], None),
        ([(1, AVAILABLE, SURPLUS), (2, LOADING, WANTED)], None),
        ([(1, AVAILABLE, WANTED), (2, LOADING, WANTED)], None),
        ([(1, LOADING, WANTED), (2, AVAILABLE, WANTED)], 2),
    ],
)
def test_a_model_has_settled_when_it_has_a_version_or_all_have_failed(
    versions: list[tuple[int, int, bool]], decides: int | None
) -> None:
    found = settled(version(*one) for one in versions)
    assert (found and found.number) == decides


def test_a_version_that_is_retried_does_not_hold_up_the_start() -> None:
    retried = version(2, LOADING)
    retried.failures = 1
    assert settled([retried]) is None
    good = version(1, AVAILABLE)
    assert settled([retried, good]) is good


@pytest.mark.parametrize(
    ("labels", "current", "allow", "forbidden"),
    [
        ({"stable": 1}, {}, False, None),
        ({"stable": 2}, {}, False, 2),
        ({"stable": 2}, {"stable": 2}, False, 2),
        ({"stable": 2}, {}, True, None),
        ({"stable": 2}, {"stable": 2}, True, None),
        ({"stable": 2}, {"stable": 1}, True, 2),
        ({"stable": 1}, {"stable": 2}, True, None),
        ({"a": 1, "b": 1}, {}, False, None),
        ({"a": 1, "b": 9}, {}, False, 9),
    ],
)
def test_a_label_points_to_an_available_version_or_is_new_where_that_is_allowed(
    labels: dict[str, int], current: dict[str, int], allow: bool, forbidden: int | None
) -> None:
    model = management_pb2.ModelConfig(name="m", version_labels=labels)
    refused = f"label to version {forbidden} of model m, which is not currently available"
    with pytest.raises(ServingError, match=refused) if forbidden else contextlib.nullcontext():
        check_labels(model, current=current, available={1}, allow_unavailable=allow)
