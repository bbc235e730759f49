"""Model servers in a thread or a process of their own, and calls to whatever server listens at an address."""

import collections
import contextlib
import logging
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from dermserve.modelserver import server
from dermserve.modelserver.errors import ServingError
from dermserve.modelserver.flags import parse_flags
from tests.modelserver import protos

PREDICTION = "/tensorflow.serving.PredictionService"
MODEL = "/tensorflow.serving.ModelService"
_ANSWERS = {
    "Predict": (protos.predict_pb2.PredictRequest, protos.predict_pb2.PredictResponse),
    "GetModelMetadata": (
        protos.get_model_metadata_pb2.GetModelMetadataRequest,
        protos.get_model_metadata_pb2.GetModelMetadataResponse,
    ),
    "GetModelStatus": (
        protos.get_model_status_pb2.GetModelStatusRequest,
        protos.get_model_status_pb2.GetModelStatusResponse,
    ),
    "HandleReloadConfigRequest": (
        protos.model_management_pb2.ReloadConfigRequest,
        protos.model_management_pb2.ReloadConfigResponse,
    ),
}
_LOGGER = logging.getLogger("dermserve.modelserver")
POLL_S = 0.1
"""Stands for each second between two looks at the file system, of a server in a thread."""
Reply = collections.namedtuple("Reply", "code message response")


class Caller:
    """Calls a server with requests given as proto-JSON."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(
            address, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        )

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, rpc: str, request: dict[str, Any], *, deadline_s: float = 200) -> Reply:
        kind, answer = _ANSWERS[rpc.rpartition("/")[2]]
        message = json_format.ParseDict(request, kind())
        try:
            response = self.raw(rpc, message.SerializeToString(), deadline_s=deadline_s)
        except grpc.RpcError as error:
            return Reply(error.code().name, error.details(), None)
        return Reply("OK", "", to_json(answer.FromString(response)))

    def raw(self, rpc: str, request: bytes, *, deadline_s: float = 200) -> bytes:
        method = self._channel.unary_unary(rpc, request_serializer=None, response_deserializer=None)
        return method(request, timeout=deadline_s)

    def predict(
        self, model: str, *, deadline_s: float = 200, spec: dict[str, Any] | None = None, **inputs: Any
    ) -> Reply:
        request = {"model_spec": {"name": model, **(spec or {})}, "inputs": inputs}
        return self.call(f"{PREDICTION}/Predict", request, deadline_s=deadline_s)

    def states(self, model: str) -> dict[int, str]:
        """The state of each version; empty when there is none."""
        reply = self.call(f"{MODEL}/GetModelStatus", {"model_spec": {"name": model}})
        versions = (reply.response or {}).get("model_version_status", [])
        return {int(one["version"]): one["state"] for one in versions}

    def reload(self, *models: dict[str, Any], deadline_s: float = 200) -> Reply:
        request = {"config": {"model_config_list": {"config": list(models)}}}
        return self.call(f"{MODEL}/HandleReloadConfigRequest", request, deadline_s=deadline_s)


def to_json(message: Any) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def floats(*values: float) -> dict[str, Any]:
    return {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": len(values)}]}, "float_val": values}


def wait_until(condition: Callable[[], bool], *, within_s: float = 200) -> None:
    """Poll until something holds; fail loudly when it never does."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


class ServerProcess:
    """`python -m dermserve.modelserver` with its log."""

    def __init__(self, *flags: str) -> None:
        self.log: list[str] = []
        self.address = ""
        self._grew = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dermserve.modelserver", *flags], stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_log(self, pattern: str, *, within_s: float = 200) -> str:
        """Wait for a line that matches; fail with the log when the process ends or time is up."""
        with self._grew:
            assert self._grew.wait_for(lambda: self.find(pattern) or not self._reader.is_alive(), within_s), self.text
            found = self.find(pattern)
            assert found, self.text
            return found

    def find(self, pattern: str) -> str | None:
        return next((line for line in self.log if re.search(pattern, line)), None)

    def wait_serving(self) -> str:
        line = self.wait_log(r"Running gRPC ModelServer at \S+ \.\.\.")
        self.address = re.search(r"at (\S+) \.\.\.", line).group(1)
        return self.address

    def wait_exit(self, *, within_s: float = 200) -> int:
        code = self.process.wait(within_s)
        self._reader.join()
        return code

    @property
    def text(self) -> str:
        return "".join(self.log)

    def _read(self) -> None:
        for line in self.process.stderr:
            with self._grew:
                self.log.append(line)
                self._grew.notify_all()
        with self._grew:
            self._grew.notify_all()

    def close(self) -> None:
        """Ask it to stop, and see it gone in any case; fail with its log when it had to be killed."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(200)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not stop within 200 s of SIGTERM:\n{self.text}")
        finally:
            self.process.kill()  # Does nothing to one that has ended.
            self.process.wait()
            self._reader.join()
            self.process.stderr.close()


class ServerThread(ServerProcess):
    """The same server in a thread of the test, with its log: it starts in a tenth of a second."""

    def __init__(self, *flags: str) -> None:
        self.log: list[str] = []
        self.address = ""
        self._grew = threading.Condition()
        self._stop = threading.Event()
        self._code = 0
        self._handler = _Lines(self._add)
        _LOGGER.setLevel(logging.INFO)
        _LOGGER.addHandler(self._handler)
        self._reader = threading.Thread(target=self._serve, args=(flags,), daemon=True)
        self._reader.start()

    @property
    def running(self) -> bool:
        return self._reader.is_alive()

    def wait_exit(self, *, within_s: float = 200) -> int:
        self._reader.join(within_s)
        assert not self.running, self.text
        return self._code

    def close(self) -> None:
        self._stop.set()
        try:
            self.wait_exit()
        finally:
            _LOGGER.removeHandler(self._handler)

    def _serve(self, flags: tuple[str, ...]) -> None:
        try:
            parsed = parse_flags(flags)
            for name in ("file_system_poll_wait_seconds", "model_config_file_poll_wait_seconds"):
                setattr(parsed, name, getattr(parsed, name) * POLL_S)
            server.serve(parsed, stop=self._stop)
        except ServingError as error:
            self._code = 255
            self._add(f"Failed to start server. Error: {error}\n")
        with self._grew:
            self._grew.notify_all()

    def _add(self, line: str) -> None:
        with self._grew:
            self.log.append(line)
            self._grew.notify_all()


class _Lines(logging.Handler):
    def __init__(self, add: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._add = add

    def emit(self, record: logging.LogRecord) -> None:
        self._add(f"{record.levelname[0]} {record.name}] {record.getMessage()}\n")


@contextlib.contextmanager
def running(*flags: str) -> Iterator[ServerProcess]:
    """A process that may or may not come to serve; terminated at the end."""
    started = ServerProcess(*flags)
    try:
        yield started
    finally:
        started.close()


@contextlib.contextmanager
def starting(*flags: str) -> Iterator[ServerThread]:
    """A thread that may or may not come to serve; stopped at the end."""
    started = ServerThread("--port=0", *flags)
    try:
        yield started
    finally:
        started.close()


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[tuple[ServerThread, Caller]]:
    """A thread that serves, on a free port."""
    with starting(*flags) as started, Caller(started.wait_serving()) as caller:
        yield started, caller


@contextlib.contextmanager
def serving_process(*flags: str) -> Iterator[tuple[ServerProcess, Caller]]:
    """A process that serves, on a free port."""
    with running("--port=0", *flags) as started, Caller(started.wait_serving()) as caller:
        yield started, caller


def write_config(path: pathlib.Path, *models: str) -> str:
    """Write a models.config from the text of its `config { ... }` entries; give the flag for it."""
    path.write_text("model_config_list {\n" + "\n".join(f"config {{ {model} }}" for model in models) + "\n}\n")
    return f"--model_config_file={path}"


def publish(source: pathlib.Path, target: pathlib.Path) -> None:
    """Put a version in place whole: copied beside its model's directory, then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.parent.parent / f"staging-{target.parent.name}-{target.name}"
    shutil.copytree(source, staging)
    staging.rename(target)
