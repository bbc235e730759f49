"""The model servers, asked and told over TensorFlow Serving's own API."""

import ipaddress
import pathlib
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from dermserve.models.lifecycle.errors import NoServerError, ServerError
from dermserve.models.lifecycle.server_config import ServerConfig
from dermserve.tfserving.v1 import management_pb2, serving_pb2

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
_RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]
_AVAILABLE = serving_pb2.ModelVersionStatus.STATE_AVAILABLE
_END = serving_pb2.ModelVersionStatus.STATE_END
_PAUSE = 0.1
_SETTLE = 5.0
"""Seconds for which a version may still show the failure of an earlier try."""
_GONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS of the connections to model servers."""

    ca: pathlib.Path
    """PEM file of the authorities that their certificates must come from."""
    certificate: pathlib.Path | None = None
    """PEM file of our own, where they ask for one."""
    key: pathlib.Path | None = None
    """PEM file of its private key."""
    name: str | None = None
    """To expect in their certificates, when not the host of the address."""


class Server:
    """One model server.

    Args:
        address: HOST:PORT.
        host: the name that the address was found by, which its certificate is verified against.
        tls: None for plain text.
        timeout: seconds for a call.

    Raises:
        OSError: a file of the TLS can't be read.
    """

    def __init__(self, address: str, *, host: str = "", tls: Tls | None = None, timeout: float = 30.0) -> None:
        self.address = address
        self._timeout = timeout
        if tls is None:
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
            return
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes()) if tls.key and tls.certificate else (None, None)
        credentials = grpc.ssl_channel_credentials(tls.ca.read_bytes(), *pair)
        named = [*_OPTIONS, ("grpc.ssl_target_name_override", tls.name or host)]
        self._channel = grpc.secure_channel(address, credentials, options=named)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def states(self, model: str) -> list[serving_pb2.ModelVersionStatus]:
        """Return every version the server has known, newest first; none of a model it does not serve."""
        request = serving_pb2.GetModelStatusRequest(model_spec=serving_pb2.ModelSpec(name=model))
        try:
            answer = self._call(_STATUS, request, serving_pb2.GetModelStatusResponse)
        except _NotFoundError:
            return []
        return sorted(answer.model_version_status, key=lambda state: state.version, reverse=True)

    def available(self, model: str) -> set[int]:
        """Return the versions that can answer."""
        return {state.version for state in self.states(model) if state.state == _AVAILABLE}

    def label(self, model: str, label: str) -> int | None:
        """Return the version a label leads to; None when the label is not known or its version can't answer."""
        spec = serving_pb2.ModelSpec(name=model, version_label=label)
        request = serving_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        try:
            answer = self._call(_METADATA, request, serving_pb2.GetModelMetadataResponse)
        except _NotFoundError:
            return None
        return int(answer.model_spec.version.value)

    def reload(self, config: ServerConfig) -> None:
        """Tell the server what to serve from now on.

        Raises:
            ServerError: it refuses, and serves on as before.
        """
        request = management_pb2.ReloadConfigRequest(config=config.message())
        status = self._call(_RELOAD, request, management_pb2.ReloadConfigResponse).status
        if status.error_code:
            raise ServerError(f"{self.address} refused the list of models: {status.error_message}")

    def predict(self, request: serving_pb2.PredictRequest) -> serving_pb2.PredictResponse:
        """Ask for a prediction.

        Raises:
            ServerError: it failed.
        """
        answer: serving_pb2.PredictResponse = self._call(_PREDICT, request, serving_pb2.PredictResponse)
        return answer

    def wait_available(self, model: str, versions: set[int], *, timeout: float) -> None:
        """Wait until versions can answer.

        Raises:
            ServerError: one failed to load, or `timeout` seconds went by.
        """
        started = time.monotonic()
        while True:
            states = {state.version: state for state in self.states(model)}
            lacking = sorted(v for v in versions if v not in states or states[v].state != _AVAILABLE)
            if not lacking:
                return
            waited = time.monotonic() - started
            failed = [states[v] for v in lacking if v in states and _failed(states[v])]
            if failed and waited > _SETTLE:
                raise ServerError(
                    f"{self.address} can't load version {failed[0].version} of {model}:"
                    f" {failed[0].status.error_message}"
                )
            if waited > timeout:
                said = state_name(states[lacking[0]].state) if lacking[0] in states else "not seen by it"
                raise ServerError(
                    f"{self.address} has not loaded version {lacking[0]} of {model} in {timeout:g} s ({said}); does it"
                    " see the store's files under the base_path in models.config?"
                )
            time.sleep(_PAUSE)

    def wait_labels(self, model: str, labels: Mapping[str, int | None], *, timeout: float) -> None:
        """Wait until labels lead where they should, or, with None, nowhere.

        Raises:
            ServerError: `timeout` seconds went by.
        """
        until = time.monotonic() + timeout
        while wrong := {label: seen for label in labels if (seen := self.label(model, label)) != labels[label]}:
            if time.monotonic() > until:
                raise ServerError(
                    f"{self.address} still has the labels {wrong} of {model} after {timeout:g} s, not {dict(labels)};"
                    " does it read models.config again (--model_config_file_poll_wait_seconds)?"
                )
            time.sleep(_PAUSE)

    def wait_only(self, model: str, versions: set[int], *, timeout: float) -> bool:
        """Wait until no other versions are loaded; tell whether that came true in `timeout` seconds."""
        until = time.monotonic() + timeout
        while not all(state.version in versions or state.state == _END for state in self.states(model)):
            if time.monotonic() > until:
                return False
            time.sleep(_PAUSE)
        return True

    def _call(self, path: str, request: Message, answer: Any) -> Any:
        method: Any = self._channel.unary_unary(
            path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise _translated(self.address, error) from error


class _NotFoundError(ServerError):
    """No such model, version or label."""


class Servers:
    """All the model servers that serve a store; closed at the end of the block.

    Args:
        names: HOST:PORT; a name with several addresses stands for a server at each.
        tls: None for plain text.
        timeout: seconds for a call.
    """

    def __init__(self, names: Sequence[str], *, tls: Tls | None = None, timeout: float = 30.0) -> None:
        self._hosts = {address: name.rpartition(":")[0] for name in names for address in every_address(name)}
        self.addresses = tuple(self._hosts)
        self._tls = tls
        self._timeout = timeout
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        for address, host in self._hosts.items():
            self._servers.append(Server(address, host=host, tls=self._tls, timeout=self._timeout))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers)

    def available(self, model: str) -> dict[str, set[int]]:
        """Return, by address, the versions that can answer; asks every server, so a dead one is noticed here.

        Raises:
            NoServerError: one does not answer.
        """
        return {server.address: server.available(model) for server in self}


def every_address(address: str, *, resolve: Callable[..., Any] = socket.getaddrinfo) -> list[str]:
    """Give all the servers a HOST:PORT stands for: a DNS name, such as a headless Service's, may have many.

    A name that leads to this machine alone, or that can't be resolved, stays as it is.
    """
    host, _, port = address.rpartition(":")
    try:
        found = resolve(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [address]
    hosts = list(dict.fromkeys(ipaddress.ip_address(one[4][0]) for one in found))
    if len(hosts) < 2 or all(one.is_loopback for one in hosts):
        return [address]
    return [f"[{one}]:{port}" if one.version == 6 else f"{one}:{port}" for one in hosts]


def _translated(address: str, error: grpc.RpcError) -> ServerError:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND or details.startswith("Unrecognized servable version label"):
        return _NotFoundError(f"{address}: {details}")
    if code in _GONE:
        how = f"{code.name}: {details}" if "handshake" in details.lower() else code.name
        return NoServerError(
            f"the model server {address} does not answer ({how}): is it running there (--tfs), with this TLS or none"
            " (--tfs-tls-ca)?"
        )
    return ServerError(f"the model server {address} answered {code.name}: {details}")


def _failed(state: serving_pb2.ModelVersionStatus) -> bool:
    return state.state == _END and state.status.error_code != 0


def state_name(state: int) -> str:
    """Name a state as TensorFlow Serving does: AVAILABLE and so on."""
    return serving_pb2.ModelVersionStatus.State.Name(state).removeprefix("STATE_")
