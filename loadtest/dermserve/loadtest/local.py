"""The local stack with its metrics on, for tests that bring their own server."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dermserve.loadtest.errors import ServerError
from dermserve.local import Stack, StackError

_METRICS = "DERMSERVE_METRICS_LISTEN"


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """A server under test."""

    target: str
    """gRPC target of the gateway."""
    metrics_url: str = ""
    """Of its metrics; "" when there are none."""
    pids: Mapping[str, int]
    """Its processes on this machine, by name."""
    tfs_address: str = ""
    """HOST:PORT of the model server, where it is known."""


@contextlib.contextmanager
def local_server(*, store: pathlib.Path, models: Sequence[str], say: Callable[[str], None]) -> Iterator[Server]:
    """Run a model server and a gateway on free ports while the block lasts.

    Raises:
        ServerError: they don't come up.
    """
    port = _free_port()
    with contextlib.ExitStack() as undo:
        try:
            with _environment(**{_METRICS: f"127.0.0.1:{port}"}):
                stack = undo.enter_context(Stack(store=store, models=models, port=0, tfs_port=0, say=say))
        except StackError as error:
            raise ServerError(str(error)) from error
        yield Server(
            target=stack.gateway_address,
            metrics_url=f"http://127.0.0.1:{port}/metrics",
            pids=dict(stack.pids),
            tfs_address=stack.tfs_address,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables that child processes take over."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
