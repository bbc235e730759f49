"""Wait until the gateway's health service reports SERVING."""

import contextlib
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dermserve.local.child import Child
from dermserve.local.errors import NotReadyInTimeError


def wait_serving(address: str, *, timeout: float, children: Sequence[Child]) -> None:
    """Wait until a gateway reports SERVING, by health.Watch, without polling.

    Args:
        address: HOST:PORT.
        timeout: seconds.
        children: the wait ends if one of them ends; the log of the first goes into a timeout's message.

    Raises:
        ChildDiedError: one of them ended.
        NotReadyInTimeError: `timeout` seconds went by.
    """
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=timeout)
        for child in children:
            child.on_exit(call.cancel)
        with contextlib.suppress(grpc.RpcError):
            for update in call:
                if update.status == health_pb2.HealthCheckResponse.SERVING:
                    call.cancel()
                    return
    for child in children:
        if died := child.died():
            raise died
    raise NotReadyInTimeError(children[0].name, timeout, children[0].last_lines)
