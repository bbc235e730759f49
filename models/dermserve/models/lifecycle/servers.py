"""Calls to the model servers, over TensorFlow Serving's own API."""

import contextlib
import ipaddress
import json
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from dermserve.models.lifecycle.errors import NoServerError, ServerError
from dermserve.tfserving.v1 import management_pb2, serving_pb2

# TensorFlow Serving refuses any call while as many are in flight as it has threads for (--grpc_max_threads).
_BUSY = {
    "maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "2s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
}  # fmt: skip
_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _BUSY}]})),
]
_AVAILABLE = serving_pb2.ModelVersionStatus.STATE_AVAILABLE
_END = serving_pb2.ModelVersionStatus.STATE_END
_M = TypeVar("_M", bound=Message)
_SETTLE = 5.0  # seconds for which a version may still show the error of an earlier attempt


def tls_credentials(ca: Path, certificate: Path | None, key: Path | None) -> grpc.ChannelCredentials:
    """Read PEM files for TLS; a ValueError for those of which gRPC would only report that no server answers."""
    named, context, pair = str(ca), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), list[bytes]()
    try:
        context.load_verify_locations(ca)
        if certificate and key:
            named = f"{certificate} with the key {key}"
            context.load_cert_chain(certificate, key, password="")
            pair = [key.read_bytes(), certificate.read_bytes()]
        return grpc.ssl_channel_credentials(ca.read_bytes(), *pair)
    except (OSError, ValueError) as error:
        raise ValueError(f"{named} can't be used for TLS: {error}") from error


class Server:
    """One model server, at HOST:PORT."""

    def __init__(self, address: str, channel: grpc.Channel) -> None:
        self.address = address
        self._channel = channel

    def states(self, model: str) -> list[serving_pb2.ModelVersionStatus]:
        """Return every version that the server has known, newest first; none for a model that it does not serve."""
        request = serving_pb2.GetModelStatusRequest(model_spec=serving_pb2.ModelSpec(name=model))
        try:
            answer = self._call("ModelService/GetModelStatus", request, serving_pb2.GetModelStatusResponse)
        except _NotFoundError:
            return []
        return sorted(answer.model_version_status, key=lambda state: state.version, reverse=True)

    def available(self, model: str) -> set[int]:
        """Return the versions that can answer."""
        return {state.version for state in self.states(model) if state.state == _AVAILABLE}

    def label(self, model: str, label: str) -> int | None:
        """Return the version that a label points to; None if the label is unknown or its version can't answer."""
        spec = serving_pb2.ModelSpec(name=model, version_label=label)
        request = serving_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        try:
            answer = self._call("PredictionService/GetModelMetadata", request, serving_pb2.GetModelMetadataResponse)
        except _NotFoundError:
            return None
        return int(answer.model_spec.version.value)

    def reload(self, config: management_pb2.ModelServerConfig) -> None:
        """Send the server a new list of models. Raises ServerError: it refuses, and serves as before."""
        request = management_pb2.ReloadConfigRequest(config=config)
        answer = self._call("ModelService/HandleReloadConfigRequest", request, management_pb2.ReloadConfigResponse)
        if answer.status.error_code:
            raise ServerError(f"{self.address} refused the list of models: {answer.status.error_message}")

    def predict(self, request: serving_pb2.PredictRequest) -> serving_pb2.PredictResponse:
        """Call Predict; raises ServerError if it fails."""
        return self._call("PredictionService/Predict", request, serving_pb2.PredictResponse)

    def wait_available(self, model: str, versions: set[int], *, timeout: float) -> None:
        """Wait until versions can answer. Raises ServerError: one failed to load, or `timeout` seconds passed."""
        for waited in looks(timeout):
            states = {state.version: state for state in self.states(model)}
            lacking = sorted(v for v in versions if v not in states or states[v].state != _AVAILABLE)
            if not lacking:
                return
            for version in lacking if waited > _SETTLE else ():
                if version in states and states[version].state == _END and states[version].status.error_code:
                    why = states[version].status.error_message
                    raise ServerError(f"{self.address} can't load version {version} of {model}: {why}")
        said = state_name(states[lacking[0]].state) if lacking[0] in states else "not seen by it"
        what = f"{self.address} has not loaded version {lacking[0]} of {model} in {timeout:g} s ({said})"
        raise ServerError(f"{what}; does it see the store's files under the base_path in models.config?")

    def wait_labels(self, model: str, labels: Mapping[str, int | None], *, timeout: float) -> None:
        """Wait until labels point to their versions, or, with None, to none; a ServerError after `timeout` seconds."""
        for _ in looks(timeout):
            if not (wrong := {label: seen for label in labels if (seen := self.label(model, label)) != labels[label]}):
                return
        what = f"{self.address} still has the labels {wrong} of {model} after {timeout:g} s, not {dict(labels)}"
        raise ServerError(f"{what}; does it read models.config again (--model_config_file_poll_wait_seconds)?")

    def wait_only(self, model: str, versions: set[int], *, timeout: float) -> None:
        """Wait until no other versions are loaded, at most `timeout` seconds."""
        for _ in looks(timeout):
            if all(state.version in versions or state.state == _END for state in self.states(model)):
                return

    def _call(self, method: str, request: Message, answer: type[_M]) -> _M:
        call: Any = self._channel.unary_unary(
            f"/tensorflow.serving.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        try:
            return cast(_M, call(request, timeout=30))
        except grpc.RpcError as error:
            code, details, this = error.code(), error.details() or "", f"the model server {self.address}"
            if code is grpc.StatusCode.NOT_FOUND or details.startswith("Unrecognized servable version label"):
                raise _NotFoundError(f"{self.address}: {details}") from error
            if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                how = f"{code.name}: {details}" if "handshake" in details.lower() else code.name
                ask = "is it running there (--tfs), with this TLS or none (--tfs-tls-ca)?"
                raise NoServerError(f"{this} does not answer ({how}): {ask}") from error
            raise ServerError(f"{this} answered {code.name}: {details}") from error


class _NotFoundError(ServerError):
    """No such model, version or label."""


@contextlib.contextmanager
def connected(
    names: Iterable[str], *, tls: grpc.ChannelCredentials | None = None, tls_name: str | None = None
) -> Iterator[list[Server]]:
    """Connect to model servers for a block, to each address of a name; `tls_name` replaces a name's host in TLS."""
    with contextlib.ExitStack() as opened:
        servers = []
        plain = [name.removeprefix("dns:///") for name in names]  # the gateway's setting may have it
        hosts = {address: name.rpartition(":")[0] for name in plain for address in every_address(name)}
        for address, host in hosts.items():
            if tls:
                named = [*_OPTIONS, ("grpc.ssl_target_name_override", tls_name or host)]
                channel = grpc.secure_channel(address, tls, options=named)
            else:
                channel = grpc.insecure_channel(address, options=_OPTIONS)
            servers.append(Server(address, opened.enter_context(channel)))
        yield servers


def every_address(address: str) -> list[str]:
    """Return all addresses of a HOST:PORT's DNS name; one of this machine, or one that is unknown, as it is."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return [address]
    hosts = list(dict.fromkeys(ipaddress.ip_address(one[4][0]) for one in found))
    if len(hosts) < 2 or all(one.is_loopback for one in hosts):
        return [address]
    return [f"[{one}]:{port}" if one.version == 6 else f"{one}:{port}" for one in hosts]


def looks(timeout: float, *, pause: float = 0.1) -> Iterator[float]:
    """Give the seconds that went by, again and again with a pause between, until `timeout` is over."""
    started, waited = time.monotonic(), 0.0
    while waited <= timeout:
        yield waited
        time.sleep(pause)
        waited = time.monotonic() - started


def state_name(state: int) -> str:
    """Name a state as TensorFlow Serving does: AVAILABLE and so on."""
    return serving_pb2.ModelVersionStatus.State.Name(state).removeprefix("STATE_")
