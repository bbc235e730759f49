"""Requests are batched, padded, split and refused as on a real TensorFlow Serving 2.20.

The parameters of each group of cases are in their names; the files themselves were not recorded.
"""

import pathlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.modelserver.golden import Recording, replay
from tests.modelserver.server_process import Caller, Reply, floats, publish, running, serving

pytestmark = pytest.mark.shared_data

FILES = ("11_batching.json", "11b_batching_extra.json")
ALONE, TOGETHER = 50_000, 1_500_000  # Microseconds a batch waits: long enough for two requests on a busy machine.
MERGING = "max_batch_size { value: 8 } num_batch_threads { value: 2 } "
SPLITTING = (
    "max_batch_size { value: 16 } num_batch_threads { value: 1 } "
    "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }"
)
Cases = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def cases(recordings: pathlib.Path) -> Cases:
    return {case["case"]: case for name in reversed(FILES) for case in Recording(recordings / name).cases}


def batching(
    models: pathlib.Path, folder: pathlib.Path, parameters: str | None, *, wait: int = 0, model: str = "probe"
) -> Any:
    if parameters is not None:
        parameters += f" batch_timeout_micros {{ value: {wait} }}"
    flags = [f"--model_name={model}", f"--model_base_path={models}/{model}", "--enable_batching"]
    return serving(*flags, *_file(folder, parameters), "--grpc_max_threads=32")


def _file(folder: pathlib.Path, parameters: str | None) -> list[str]:
    if parameters is None:
        return []
    (folder / "batching.config").write_text(parameters)
    return [f"--batching_parameters_file={folder}/batching.config"]


def tensor(given: dict[str, Any]) -> dict[str, Any]:
    """A recorded request of a concurrent case, as a tensor. Of pictures the shape was recorded: they are black."""
    field, kind = {1: ("float_val", "DT_FLOAT"), 2: ("double_val", "DT_DOUBLE"), 4: ("int_val", "DT_UINT8")}[
        given["dtype"]
    ]
    return {"dtype": kind, "tensor_shape": {"dim": [{"size": n} for n in given["shape"]]}, field: given["values"]}


def together(caller: Caller, case: dict[str, Any], *, signatures: tuple[str, ...] = (), **request: Any) -> list[Reply]:
    """Send a case's requests at once, one shortly after the other so that the first comes first."""
    asked = case["concurrent_requests"]
    model = "image" if "image" in asked[0]["request"] else "probe"
    with ThreadPoolExecutor(len(asked)) as pool:
        futures = []
        for index, one in enumerate(asked):
            spec = {"signature_name": signatures[index]} if signatures else {}
            inputs = {name: tensor(value) for name, value in one["request"].items()}
            futures.append(pool.submit(_ask, caller, model, spec, inputs, request))
            time.sleep(0.05)  # The order in which they reach the server is part of the case.
        return [future.result() for future in futures]


def _ask(caller: Caller, model: str, spec: Any, inputs: Any, request: Any) -> Reply:
    body = {"model_spec": {"name": model, **spec}, "inputs": inputs, **request}
    return caller.call("/tensorflow.serving.PredictionService/Predict", body)


def assert_as_recorded(replies: list[Reply], case: dict[str, Any]) -> None:
    for reply, expected in zip(replies, case["concurrent_requests"], strict=True):
        assert reply.code == expected["code"], reply
        assert reply.message == expected.get("message", "")
        for name, values in expected.get("outputs", {}).items():
            output = reply.response["outputs"][name]
            actual = next((output[field] for field in ("float_val", "int_val", "int64_val") if field in output), [])
            assert [float(value) for value in actual] == pytest.approx(_flat(values)), name


def _flat(values: Any) -> list[float]:
    return [leaf for value in values for leaf in _flat(value)] if isinstance(values, list) else [float(values)]


def test_requests_merge_up_to_the_largest_batch(
    cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path, subtests: pytest.Subtests
) -> None:
    with batching(golden_models, tmp_path, MERGING, wait=ALONE) as (_, caller):
        for name in (
            "single_request_2rows_waits_batch_timeout_200ms",
            "full_batch_8rows_no_wait",
            "request_9_rows_larger_than_max_batch_size",
            "request_scalar",
            "output_filter_subset_with_batching",
            "missing_input_with_batching",
            "wrong_dtype_alone_fresh_server",
            "rank2_alone",
        ):
            with subtests.test(name):
                replay(caller, cases[name])
    with batching(golden_models, tmp_path, MERGING, wait=TOGETHER) as (_, caller):
        for name in (
            "two_requests_2_and_3_rows_merge",
            "three_requests_4_4_4_rows",
            "two_requests_5_and_5_rows_do_not_fit_8",
            "one_good_one_wrong_dtype_in_same_window",
            "one_good_one_2d_in_same_window",
            "two_2d_different_inner_shape",
        ):
            with subtests.test(name):
                assert_as_recorded(together(caller, cases[name]), cases[name])
        with subtests.test("two_requests_output_filter_subset_do_they_merge"):
            case = cases["two_requests_output_filter_subset_do_they_merge"]
            assert_as_recorded(together(caller, case, output_filter=["batch"]), case)
        with subtests.test("deadline_50ms_while_waiting_in_queue_200ms"):
            replay(caller, cases["deadline_50ms_while_waiting_in_queue_200ms"])


def test_a_request_of_no_rows_waits_for_company(
    cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with batching(golden_models, tmp_path, MERGING, wait=ALONE) as (_, caller), ThreadPoolExecutor(1) as pool:
        replay(caller, {**cases["zero_rows_alone_5s"], "client_deadline_s": 1})
        empty = cases["zero_rows_alone_5s"]["request"]
        waiting = pool.submit(caller.call, "/tensorflow.serving.PredictionService/Predict", empty)
        time.sleep(0.2)
        replay(caller, cases["2_rows_while_zero_row_request_pends"])
        reply = waiting.result()
        assert reply.code == "OK"
        assert reply.response == cases["pending_zero_row_request_after_that"]["response"]


@pytest.mark.parametrize(
    ("allowed", "prefix"), [((2, 4, 8), "allowed_2_4_8_request"), ((4, 2, 8), "allowed_4_2_8_unsorted")]
)
def test_batches_are_filled_up_to_an_allowed_size(
    cases: Cases,
    golden_models: pathlib.Path,
    tmp_path: pathlib.Path,
    allowed: tuple[int, ...],
    prefix: str,
    subtests: pytest.Subtests,
) -> None:
    sizes = " ".join(f"allowed_batch_sizes: {size}" for size in allowed)
    wanted = [name for name in cases if name.startswith(prefix)]
    assert len(wanted) > 4
    with batching(golden_models, tmp_path, MERGING + sizes, wait=ALONE) as (_, caller):
        for name in wanted:
            with subtests.test(name):
                replay(caller, cases[name])


def test_requests_merge_before_the_batch_is_filled_up(
    cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    sizes = "allowed_batch_sizes: [2, 4, 8]"
    with batching(golden_models, tmp_path, MERGING + sizes, wait=TOGETHER) as (_, caller):
        case = cases["allowed_2_4_8_two_requests_1_and_2_rows"]
        assert_as_recorded(together(caller, case), case)


def test_large_requests_are_split(
    cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path, subtests: pytest.Subtests
) -> None:
    with batching(golden_models, tmp_path, SPLITTING, wait=TOGETHER) as (_, caller):
        for name in [name for name in cases if name.startswith("split_exec4_max16_request")]:
            with subtests.test(name):
                replay(caller, cases[name])
        case = cases["split_exec4_two_requests_3_and_3"]
        assert_as_recorded(together(caller, case), case)


def test_defaults_without_a_file_and_parameters_beside_a_version(
    cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with batching(golden_models, tmp_path, None) as (_, caller):
        replay(caller, cases["default_params_no_file_2_rows"])
        rows = floats(*[float(row) for row in range(1001)])
        reply = caller.predict("probe", x=rows)
        recorded = cases["default_params_no_file_1001_rows"]
        assert (reply.code, reply.message) == (recorded["code"], recorded["message"])
    publish(golden_models / "probe" / "1", tmp_path / "probe" / "1")
    own = "max_batch_size { value: 4 } batch_timeout_micros { value: 100000 }"
    (tmp_path / "probe" / "1" / "batching_params.pbtxt").write_text(own)
    flags = ("--model_name=probe", f"--model_base_path={tmp_path}/probe", "--enable_batching")
    with serving(*flags, "--enable_per_model_batching_parameters") as (_, caller):
        replay(caller, cases["per_model_params_max4_5_rows"])
        replay(caller, cases["per_model_params_2_rows_timeout_100ms"])


@pytest.mark.parametrize("limit", [1, 2])
def test_a_full_queue_refuses(cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path, limit: int) -> None:
    parameters = (
        f"max_batch_size {{ value: 2 }} num_batch_threads {{ value: 1 }} max_enqueued_batches {{ value: {limit} }}"
    )
    recorded = cases[f"overflow_max_enqueued_batches_{limit}_12_concurrent_2row_requests"]
    with batching(golden_models, tmp_path, parameters, model="slow") as (_, caller), ThreadPoolExecutor(12) as pool:
        caller.predict("slow", x=floats(1.0))
        replies = list(pool.map(lambda _: caller.predict("slow", x=floats(1.0, 1.0)), range(12)))
        failed = {f"{reply.code}: {reply.message}" for reply in replies if reply.code != "OK"}
        assert failed == {key for key in recorded["summary"] if not key.startswith("OK")}
        assert sum(reply.code == "OK" for reply in replies) >= limit
        recovered = cases[f"after_overflow_recovers_{limit}"]["concurrent_requests"][0]
        assert caller.predict("slow", x=tensor(recovered["request"]["x"])).code == recovered["code"]


def test_the_deadline_counts_in_the_queue(cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path) -> None:
    parameters = "max_batch_size { value: 2 } num_batch_threads { value: 1 }"
    with batching(golden_models, tmp_path, parameters, model="slow") as (_, caller), ThreadPoolExecutor(8) as pool:
        caller.predict("slow", x=floats(1.0))
        replies = list(pool.map(lambda _: caller.predict("slow", deadline_s=0.3, x=floats(1.0, 1.0)), range(8)))
        assert {reply.code for reply in replies} <= {"OK", "DEADLINE_EXCEEDED"}
        assert "DEADLINE_EXCEEDED" in {reply.code for reply in replies}
        assert caller.predict("slow", x=floats(1.0)).code == "OK"


def test_outputs_and_inputs_that_have_no_rows_to_share(
    cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path, subtests: pytest.Subtests
) -> None:
    with batching(golden_models, tmp_path, MERGING, wait=ALONE, model="half_plus_two") as (_, caller):
        for name in (
            "output_without_batch_dim_signature_two",
            "output_without_batch_dim_filtered_out",
            "inputs_with_different_batch_sizes",
        ):
            with subtests.test(name):
                replay(caller, cases[name])


def test_pictures(cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path, subtests: pytest.Subtests) -> None:
    with batching(golden_models, tmp_path, MERGING, wait=TOGETHER, model="image") as (_, caller):
        with subtests.test("image_two_different_heights_same_window"):
            case = cases["image_two_different_heights_same_window"]
            assert_as_recorded(together(caller, case), case)
        with subtests.test("image_different_signatures_same_window"):
            case = cases["image_different_signatures_same_window"]
            assert_as_recorded(together(caller, case, signatures=("", "embed")), case)
    padding = MERGING + "pad_variable_length_inputs: true"
    with batching(golden_models, tmp_path, padding, wait=TOGETHER, model="image") as (_, caller):
        case = cases["pad_variable_length_inputs_two_heights_same_window"]
        assert_as_recorded(together(caller, case), case)


@pytest.mark.parametrize(
    ("case", "parameters"),
    [
        ("startup_allowed_batch_sizes_last_not_max", "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4]"),
        ("startup_allowed_batch_sizes_not_sorted", "max_batch_size { value: 8 } allowed_batch_sizes: [4, 2, 8]"),
        ("startup_num_batch_threads_0", "num_batch_threads { value: 0 }"),
        ("startup_max_batch_size_minus1", "max_batch_size { value: -1 }"),
        ("startup_max_enqueued_batches_0", "max_enqueued_batches { value: 0 }"),
    ],
)
def test_starting_with_odd_parameters(
    cases: Cases, golden_models: pathlib.Path, tmp_path: pathlib.Path, case: str, parameters: str
) -> None:
    recorded = cases[case]
    flags = ["--port=0", "--model_name=probe", f"--model_base_path={golden_models}/probe", "--max_num_load_retries=0"]
    with running(*flags, "--enable_batching", *_file(tmp_path, parameters)) as server:
        if recorded["exit_code"] is None:
            server.wait_serving()
        else:
            assert server.wait_exit() == recorded["exit_code"]
            assert server.find("Failed to start").strip() == recorded["log"][-1]
