"""Versions that appear, fail, vanish and come back are handled as a real TensorFlow Serving 2.20 handled them."""

import pathlib
import shutil

import pytest

from tests.modelserver.golden import Recording, last_states, observe, replay, replay_until, status_of, stays
from tests.modelserver.server_process import floats, publish, serving, wait_until

QUICK = ("--file_system_poll_wait_seconds=1", "--max_num_load_retries=0")
ORDER = ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"]


def assert_in_order(pictures: list[dict[int, str]]) -> None:
    """No version ever goes back in its life."""
    for version in pictures[-1]:
        states = [picture[version] for picture in pictures if version in picture]
        assert sorted(states, key=ORDER.index) == states, pictures


def test_a_life_of_versions(
    recordings: pathlib.Path, golden_models: pathlib.Path, tmp_path: pathlib.Path, subtests: pytest.Subtests
) -> None:
    recording = Recording(recordings / "05_lifecycle_versions.json", live=tmp_path)
    base, source = tmp_path / "m", golden_models / "half_plus_two"
    publish(source / "1", base / "1")

    def check(*names: str) -> None:
        for name in names:
            with subtests.test(name):
                replay_until(caller, recording[name])

    def change(name: str, until: dict[int, str]) -> None:
        with subtests.test(name):
            pictures = observe(caller, "m", until=until)
            assert_in_order(pictures)
            final = last_states(recording[name])
            assert final.items() <= pictures[-1].items()

    with serving("--model_name=m", f"--model_base_path={base}", *QUICK) as (server, caller):
        check("status_v1_only")
        for name in ("tmp-export", "notanumber", "-3", "2.5"):
            (base / name).mkdir()
        (base / "README").touch()
        check("status_after_non_numeric_dirs(tmp-export,notanumber,README,-3,2.5)")

        publish(source / "2", base / "2")
        change("hot_load_v2_default_latest_policy", {2: "AVAILABLE", 1: "END"})
        check("predict_after_swap_latest", "predict_unloaded_v1", "status_unloaded_v1", "metadata_unloaded_v1")

        publish(_garbage(tmp_path), base / "3")
        change("corrupt_v3_garbage_saved_model_pb", {3: "END", 2: "AVAILABLE", 1: "END"})
        check("status_v3_after_failure", "status_all_after_v3_failure", "predict_latest_while_v3_failed")
        check("predict_v2_while_v3_failed", "predict_v3_failed")

        (base / "4").mkdir()
        change("incomplete_v4_empty_dir", {4: "END", 3: "END", 2: "AVAILABLE", 1: "END"})
        check("predict_latest_while_v4_failed")
        shutil.copytree(source / "1", base / "4", dirs_exist_ok=True)

        (tmp_path / "bare").mkdir()
        shutil.copy(source / "1" / "saved_model.pb", tmp_path / "bare")
        publish(tmp_path / "bare", base / "5")
        change("incomplete_v5_no_variables", {5: "AVAILABLE", 4: "END", 3: "END", 2: "END", 1: "END"})
        # By now the completed version 4 has been polled again, and stays as it was.
        check("status_v4_after_files_completed_in_place")

        publish(source / "1", base / "6")
        check("status_v6_good")
        publish(_truncated(source / "1", tmp_path), base / "7")
        change("corrupt_v7_truncated_variables", {**status_of(recording["status_v6_good"]), 7: "END"})
        publish(source / "3", base / "00000008")
        check("status_v8_dir_00000008", "predict_v8_leading_zero_dir")

        shutil.rmtree(base / "00000008")
        # The highest version left is 7, which fails once more, so 8 goes on serving.
        wait_until(lambda: sum("version: 7} cannot be loaded" in line for line in server.log) > 1)
        check("status_after_delete_v8", "predict_after_delete_v8")
        for version in (-3, *range(1, 8)):  # a look at the file system may come between any two
            shutil.rmtree(base / str(version))
        check("status_after_delete_all_versions", "predict_after_delete_all_versions")
        shutil.rmtree(base)
        server.wait_log("Could not find base path")
        check("status_after_delete_base_path")
        publish(source / "1", base / "20")
        check("predict_after_readd_v20")


def _garbage(folder: pathlib.Path) -> pathlib.Path:
    broken = folder / "garbage"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"this is not a saved model at all, really not; " * 20)
    return broken


def _truncated(source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    broken = folder / "truncated"
    shutil.copytree(source, broken)
    with (broken / "variables" / "variables.data-00000-of-00001").open("r+b") as file:
        file.truncate(10)
    return broken


def test_a_version_without_its_variables_replaces_the_good_one_and_fails_every_call(
    recordings: pathlib.Path, golden_models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recording = Recording(recordings / "05b_no_variables.json", live=tmp_path)
    base, source = tmp_path / "nv", golden_models / "half_plus_two"
    publish(source / "1", base / "1")
    with serving("--model_name=nv", f"--model_base_path={base}", *QUICK) as (_, caller):
        (tmp_path / "bare").mkdir()
        shutil.copy(source / "1" / "saved_model.pb", tmp_path / "bare")
        publish(tmp_path / "bare", base / "2")
        observe(caller, "nv", until=last_states(recording["v2_saved_model_pb_without_variables_dir"]))
        replay(caller, recording["predict_on_version_without_variables"])
        replay(caller, recording["status"])


def test_a_version_that_is_retried_holds_up_a_newer_good_one(
    recordings: pathlib.Path, golden_models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recording = Recording(recordings / "06_corrupt_default_retries.json", live=tmp_path)
    base, source = tmp_path / "md", golden_models / "half_plus_two"
    publish(source / "1", base / "1")
    with serving("--model_name=md", f"--model_base_path={base}", "--file_system_poll_wait_seconds=1") as (
        server,
        caller,
    ):
        publish(_truncated(source / "1", tmp_path), base / "2")
        stuck = last_states(recording["corrupt_v2_default_max_num_load_retries(5)_interval(60s)_first_10s"])
        observe(caller, "md", until=stuck)
        server.wait_log(r"Loading servable: .* version: 2} failed")
        replay(caller, recording["predict_latest_while_v2_retrying"])
        shutil.rmtree(base / "2")
        publish(source / "3", base / "3")
        assert last_states(recording["good_v3_added_after"]) == stuck
        stays(caller, "md", stuck)


def test_retries_end_after_the_number_given(
    recordings: pathlib.Path, golden_models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recording = Recording(recordings / "06b_corrupt_retries3_500ms.json", live=tmp_path)
    case = recording["corrupt_v2_retries3_interval500ms"]
    base, source = tmp_path / "mq", golden_models / "half_plus_two"
    publish(source / "1", base / "1")
    flags = [flag for flag in recording.meta["flags"] if "port" not in flag and "model" not in flag]
    with serving("--model_name=mq", f"--model_base_path={base}", *flags) as (server, caller):
        publish(_truncated(source / "1", tmp_path), base / "2")
        observe(caller, "mq", until=last_states(case))
        assert sum("Loading servable" in line and "failed" in line for line in server.log) == 4
        assert caller.predict("mq", x=floats(1.0)).code == "OK"
