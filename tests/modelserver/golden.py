"""The cases recorded from a real TensorFlow Serving: reading them, and comparing an answer with one."""

import base64
import json
import math
import pathlib
import re
import time
from typing import Any

from tests.modelserver.server_process import POLL_S, Caller, Reply

# Written by gRPC's core, whose version differs.
_CORE_MESSAGES = {"Deadline Exceeded", ""}


class Recording:
    """One file of recorded cases; `/models` and `/live` in it stand for other directories here."""

    def __init__(self, path: pathlib.Path, **directories: pathlib.Path) -> None:
        text = path.read_text()
        for name, directory in directories.items():
            text = text.replace(f"/{name}/", f"{directory}/")
        content = json.loads(text)
        self.meta: dict[str, Any] = content["meta"]
        self.cases: list[dict[str, Any]] = content["cases"]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return next(case for case in self.cases if case["case"] == name)


def replay(caller: Caller, case: dict[str, Any]) -> None:
    """Send a case's request and compare the answer with the recorded one."""
    request = fill(case["request"])
    reply = caller.call(case["rpc"], request, deadline_s=case.get("client_deadline_s", 200))
    assert_answer(reply, case)


def assert_answer(reply: Reply, case: dict[str, Any]) -> None:
    assert reply.code == case["code"], f"{case['case']}: {reply}"
    if case["code"] == "OK":
        for response in (reply.response, case["response"]):
            response.get("metric", []).sort(key=lambda one: one["name"])  # Unordered in TF Serving.
        assert_same(reply.response, case["response"], where=case["case"])
    elif case["message"] not in _CORE_MESSAGES:
        assert plain(reply.message) == plain(case["message"]), case["case"]


def plain(message: str) -> str:
    """A message without what differs from run to run.

    The serial numbers of functions depend on the TensorFlow that wrote the model; and of two operations that both fail,
    chance says which one is first.
    """
    message = re.sub(r"(__inference_\w+?)_\d+", r"\1", message)
    message = re.sub(r"\{\{node (Fill(_\d)?|(add|mul)/ReadVariableOp|add|sub)\}\}", "{{node ?}}", message)
    return re.sub(r"variable [ab]\.|localhost/[ab]\)", "?", message)


def assert_same(actual: Any, expected: Any, *, where: str) -> None:
    """Equal but for the order of maps and the last bits of floats."""
    if isinstance(expected, dict):
        assert isinstance(actual, dict), where
        assert actual.keys() == expected.keys(), where
        for key, value in expected.items():
            assert_same(actual[key], value, where=f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), where
        for index, value in enumerate(expected):
            assert_same(actual[index], value, where=f"{where}[{index}]")
    elif isinstance(expected, float):
        assert math.isclose(actual, expected, rel_tol=2e-6, abs_tol=2e-6), f"{where}: {actual} is not {expected}"
    elif isinstance(expected, str):
        assert plain(actual) == plain(expected), where
    else:
        assert actual == expected, where


def fill(request: dict[str, Any]) -> dict[str, Any]:
    """Complete the large contents, which were cut off in the recording."""
    filled = json.loads(json.dumps(request))
    for tensor in filled.get("inputs", {}).values():
        if "chars)" in tensor.get("tensor_content", ""):
            tensor["tensor_content"] = base64.b64encode(_content(tensor)).decode()
    return filled


def _content(tensor: dict[str, Any]) -> bytes:
    """Pictures: the first is black, the others are white."""
    sizes = [int(dim["size"]) for dim in tensor["tensor_shape"]["dim"]]
    element = {"DT_UINT8": 1, "DT_FLOAT": 4}[tensor["dtype"]]
    row = math.prod(sizes[1:]) * element
    rows = sizes[0] if len(sizes) == 4 else 1
    one = row if len(sizes) == 4 else math.prod(sizes) * element
    return bytes(one) + b"\xff" * (one * (rows - 1))


def replay_until(caller: Caller, case: dict[str, Any], *, within_s: float = 200) -> None:
    """Replay a case until the answer is the recorded one: it follows a change that takes a moment."""
    end = time.monotonic() + within_s
    while True:
        try:
            return replay(caller, case)
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def observe(caller: Caller, model: str, *, until: dict[int, str], within_s: float = 200) -> list[dict[int, str]]:
    """Poll a model's states until they are these; give every distinct picture on the way."""
    seen: list[dict[int, str]] = []
    end = time.monotonic() + within_s
    while not seen or seen[-1] != until:
        states = caller.states(model)
        if not seen or states != seen[-1]:
            seen.append(states)
        assert time.monotonic() < end, seen
        time.sleep(0.005)
    return seen


def last_states(case: dict[str, Any]) -> dict[int, str]:
    """The states at the end of a recorded observation."""
    return {int(one["version"]): one["state"] for one in case["transitions"][-1]["status"]["model_version_status"]}


def stays(caller: Caller, model: str, states: dict[int, str], *, for_s: float = 5 * POLL_S) -> None:
    """Watch that nothing changes while the file system is looked at several times."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        assert caller.states(model) == states
        time.sleep(0.05)


def status_of(case: dict[str, Any]) -> dict[int, str]:
    """The states a recorded GetModelStatus gave."""
    return {int(one["version"]): one["state"] for one in case["response"]["model_version_status"]}
