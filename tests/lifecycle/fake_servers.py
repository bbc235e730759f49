"""Model servers in memory, with TensorFlow Serving's rules for labels, and stores that fail at a chosen step."""

import contextlib
import pathlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import Int64Value

from dermserve.models.lifecycle.errors import NoServerError, ServerError
from dermserve.models.lifecycle.server_config import Desk, ServerConfig
from dermserve.models.lifecycle.stores import LocalStore
from dermserve.tfserving.v1 import management_pb2, serving_pb2
from tests.lifecycle.versions_at_hand import CONFIG


class KilledError(BaseException):
    """The process was killed: nothing that it does from now on has an effect."""


@dataclass
class Steps:
    """Counts the steps that change something outside the process, and ends it before one of them."""

    last: int | None = None
    taken: list[str] = field(default_factory=list)
    refuse: Callable[[str], bool] = lambda name: False

    def take(self, name: str) -> None:
        if self.last is not None and len(self.taken) >= self.last:
            raise KilledError(name)
        self.taken.append(name)


class FakeServer:
    """One model server."""

    def __init__(self, address: str, store: LocalStore, *, broken: set[int]) -> None:
        self.address = address
        self.labels: dict[str, int] = {}
        self.loaded: set[int] = set()
        self.steps, self.gone = Steps(), False
        self.answers: dict[str, serving_pb2.PredictResponse] = {}
        self._store, self._broken = store, broken

    def available(self, model: str) -> set[int]:
        if self.gone:
            raise NoServerError(f"{self.address} does not answer")
        return set(self.loaded)

    def label(self, model: str, label: str) -> int | None:
        version = self.labels.get(label)
        return version if version in self.loaded else None

    def reload(self, told: management_pb2.ModelServerConfig) -> None:
        config = ServerConfig(told.model_config_list.config)
        self.steps.take(f"reload {self.address}")
        if self.steps.refuse(f"reload {self.address}"):
            raise ServerError(f"{self.address} refused the list of models")
        labels, pins = config.labels("m"), config.pins("m")
        # Checked against what is loaded now, before anything of the new list is.
        if absent := set(labels.values()) - self.loaded:
            raise ServerError(f"{self.address} refused a label on version {absent}")
        self.labels = labels
        wanted = set(pins or self._store.versions("m")[-1:])
        loaded = wanted - self._broken
        self.loaded = loaded if loaded or pins else self.loaded

    def states(self, model: str) -> list[serving_pb2.ModelVersionStatus]:
        available = serving_pb2.ModelVersionStatus.STATE_AVAILABLE
        return [serving_pb2.ModelVersionStatus(version=version, state=available) for version in self.loaded]

    def predict(self, request: serving_pb2.PredictRequest) -> serving_pb2.PredictResponse:
        version = request.model_spec.version.value
        assert version in self.loaded
        answer = serving_pb2.PredictResponse()
        answer.CopyFrom(self.answers[request.model_spec.signature_name])
        answer.model_spec.version.value = version
        return answer

    def wait_available(self, model: str, versions: set[int], *, timeout: float) -> None:
        if not versions <= self.loaded:
            raise ServerError(f"{self.address} can't load {versions - self.loaded}")

    def wait_only(self, model: str, versions: set[int], *, timeout: float) -> None:
        assert self.loaded <= versions


class GrpcHandler(grpc.GenericRpcHandler):
    """A fake server behind gRPC, which starts with version 1."""

    def __init__(self) -> None:
        self._server = FakeServer("", LocalStore(pathlib.Path("none")), broken=set())
        self._server.loaded = {1}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        asked = {
            "GetModelStatus": (self._status, serving_pb2.GetModelStatusRequest),
            "GetModelMetadata": (self._label, serving_pb2.GetModelMetadataRequest),
            "HandleReloadConfigRequest": (self._reload, management_pb2.ReloadConfigRequest),
        }
        answer, request = asked[details.method.rpartition("/")[2]]
        return grpc.unary_unary_rpc_method_handler(
            answer, request_deserializer=request.FromString, response_serializer=lambda one: one.SerializeToString()
        )

    def _status(self, request: object, context: object) -> serving_pb2.GetModelStatusResponse:
        return serving_pb2.GetModelStatusResponse(model_version_status=self._server.states("m"))

    def _label(self, request: Any, context: grpc.ServicerContext) -> serving_pb2.GetModelMetadataResponse:
        version = self._server.label("m", request.model_spec.version_label)
        if version is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Unrecognized servable version label: x")
        spec = serving_pb2.ModelSpec(version=Int64Value(value=version))
        return serving_pb2.GetModelMetadataResponse(model_spec=spec)

    def _reload(self, request: Any, context: object) -> management_pb2.ReloadConfigResponse:
        self._server.reload(request.config)
        return management_pb2.ReloadConfigResponse()


class SteppedStore(LocalStore):
    """A store whose writes are steps."""

    steps = Steps()

    def write_text(self, name: str, text: str) -> None:
        self.steps.take(f"write {name}")
        if self.steps.refuse(f"write {name}"):
            raise OSError(28, "No space left on device")
        super().write_text(name, text)

    def remove_text(self, name: str) -> None:
        self.steps.take(f"remove {name}")
        if self.steps.refuse(f"remove {name}"):
            raise OSError(28, "No space left on device")
        super().remove_text(name)

    def append_audit(self, line: str) -> None:
        self.steps.take("audit")
        super().append_audit(line)


def fake_desk(store: LocalStore, *, broken: Collection[int] = (), **how: Any) -> Desk:
    """Two servers that follow the newest version of a store, whose models.config this writes."""
    store.write_text("models.config", CONFIG)
    servers = [FakeServer(name, store, broken=set(broken)) for name in ("first", "second")]
    return Desk(store=store, servers=servers, **how)


@dataclass
class Fleet:
    """Two servers and their store, which starts with version 1 as the stable one and version 2 waiting."""

    desk: Desk
    store: SteppedStore
    servers: list[FakeServer]
    said: list[str]

    @contextlib.contextmanager
    def stepping(self, steps: Steps) -> Iterator[Steps]:
        """Count the steps of a block, which may end it."""
        self._set(steps)
        try:
            yield steps
        finally:
            self._set(Steps())

    def _set(self, steps: Steps) -> None:
        self.store.steps = steps
        for server in self.servers:
            server.steps = steps

    def state(self) -> list[Any]:
        """What each server serves, what models.config says, and the share."""
        config, shares = self.desk.read_config(), self.store.folder / "canary.toml"
        return [
            *((server.labels, server.loaded) for server in self.servers),
            (config.labels("m"), config.pins("m")),
            "0." in shares.read_text() if shares.exists() else False,
        ]
