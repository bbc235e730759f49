"""HandleReloadConfigRequest changes what is served as it did on a real TensorFlow Serving 2.20."""

import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.modelserver.golden import Recording, replay, replay_until, status_of, stays
from tests.modelserver.server_process import Caller, publish, serving

FLAGS = ("--max_num_load_retries=0", "--file_system_poll_wait_seconds=1")
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
# These say that nothing changes, so they must still hold when two polls have gone by.
UNCHANGED = {"status_after_label_and_version_same_reload", "status_policy_specific_empty"}
# Answered by a version that is about to be unloaded, if the call comes before that.
RACES = {"predict_k_immediately_after_remove"}


def h(live: pathlib.Path, **changes: str) -> dict[str, str]:
    return {"name": "h", "base_path": f"{live}/h", "model_platform": "tensorflow", **changes}


# The reloads that came before these groups of cases are known from the names of the groups alone.
NOT_RECORDED: dict[str, Callable[[pathlib.Path], list[dict[str, str]]]] = {
    "config_not_set": lambda live: [],
    "missing_name": lambda live: [{"base_path": f"{live}/h", "model_platform": "tensorflow"}],
    "nonexistent_base_path_new_model": lambda live: [h(live), h(live, name="gone", base_path=f"{live}/gone")],
    "empty_base_path_dir_new_model": lambda live: [h(live), h(live, name="emp", base_path=f"{live}/emp")],
    "base_path_changed_same_name": lambda live: [h(live, base_path=f"{live}/k")],
}


@pytest.fixture
def live(golden_models: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The directories of the recording: h with three versions, k with one, cor with a corrupt one, emp with none."""
    source = golden_models / "half_plus_two"
    for version in ("1", "2", "3"):
        publish(source / version, tmp_path / "h" / version)
    publish(source / "1", tmp_path / "k" / "1")
    publish(source / "1", tmp_path / "cor" / "1")
    (tmp_path / "cor" / "1" / "saved_model.pb").write_bytes(b"garbage")
    (tmp_path / "emp").mkdir()
    return tmp_path


def start(live: pathlib.Path) -> Any:
    config = live / "d.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "h" base_path: "{live}/h" model_platform: "tensorflow" }} }}'
    )
    return serving(f"--model_config_file={config}", *FLAGS)


def test_a_series_of_reloads(recordings: pathlib.Path, live: pathlib.Path, subtests: pytest.Subtests) -> None:
    recording = Recording(recordings / "08_reload_config.json", live=live)
    with start(live) as (_, caller):
        for case in recording.cases:
            with subtests.test(case["case"]):
                try:
                    replay_step(caller, case, within_s=1 if case["case"] in RACES else 200)
                except AssertionError:
                    if case["case"] not in RACES or caller.states("k") != {1: "END"}:
                        raise
                if case["case"] in UNCHANGED:
                    stays(caller, "h", status_of(case))


def test_bad_reloads_one_fresh_server_each(
    recordings: pathlib.Path, live: pathlib.Path, subtests: pytest.Subtests
) -> None:
    recording = Recording(recordings / "08b_reload_bad_configs.json", live=live)
    groups = itertools.groupby(recording.cases, key=lambda case: case["case"].removeprefix("reload_").partition("/")[0])
    for name, cases in groups:
        steps = list(cases)
        with start(live) as (_, caller):
            if name in NOT_RECORDED:
                first = {"config": {"model_config_list": {"config": NOT_RECORDED[name](live)}}}
                caller.call(RELOAD, first if name != "config_not_set" else {"config": {}}, deadline_s=1)
            for case in steps:
                with subtests.test(case["case"]):
                    if case["case"] == "missing_name/predict_h_after_good":
                        assert caller.reload(h(live)).code == "OK"
                    replay_step(caller, case)


def replay_step(caller: Caller, case: dict[str, Any], *, within_s: float = 200) -> None:
    if case["code"] == "DEADLINE_EXCEEDED":
        case = {**case, "client_deadline_s": 0.3}  # It would wait for ever.
    if "Reload" in case["rpc"]:
        replay(caller, case)
    else:
        replay_until(caller, case, within_s=within_s)  # The change a reload asks for takes a moment.
