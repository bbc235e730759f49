"""The server under test: one that runs already, or the local stack with its metrics on."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dermserve.loadtest.errors import ScenarioError, ServerError
from dermserve.loadtest.scenario import Part
from dermserve.local import Stack, StackError
from dermserve.local.ports import HOST, free_port


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
def server_under_test(
    address: str | None,
    *,
    local: bool,
    store: pathlib.Path,
    metrics: str,
    parts: Sequence[Part],
    say: Callable[[str], None],
) -> Iterator[Server]:
    """Give the gateway at an address, or run a model server and a gateway on free ports while the block lasts.

    Args:
        address: a gRPC target; None for a server of our own.
        local: whether to run a server of our own.
        store: of a server of our own.
        metrics: URL of the metrics of the gateway at the address; "" for none.
        parts: whose models a server of our own serves.
        say: takes a line of progress.

    Raises:
        ScenarioError: neither an address nor `local`, or both.
        ServerError: our own servers don't come up.
    """
    if local == (address is not None):
        raise ScenarioError("name the gateway with --server HOST:PORT, or start one here with --local")
    if address is not None:
        yield Server(target=address, metrics_url=metrics, pids={})
        return
    listen = f"{HOST}:{free_port()}"
    models = list(dict.fromkeys(part.model for part in parts))
    flags = ("--metrics-listen", listen)
    stack = Stack(store=store, models=models, port=0, tfs_port=0, gateway_flags=flags, say=say)
    with contextlib.ExitStack() as undo:
        try:
            undo.enter_context(stack)
        except StackError as error:
            raise ServerError(str(error)) from error
        yield Server(
            target=stack.gateway_address,
            metrics_url=f"http://{listen}/metrics",
            pids=dict(stack.pids),
            tfs_address=stack.tfs_address,
        )
