"""More gateways before one model server, to see what their number brings."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from dermserve.loadtest.errors import ServerError
from dermserve.loadtest.local import Server
from dermserve.local import StackError
from dermserve.local.child import Child, wait_serving

_READY = re.compile(r'(?=.*"event": ?"listening").*"address": ?"([^"]+)"')
_TIMEOUT = 180.0
_GRACE = 15.0


@contextlib.contextmanager
def more_gateways(
    server: Server, *, models: Sequence[str], most: int, say: Callable[[str], None]
) -> Iterator[dict[int, Server]]:
    """Run more gateways while the block lasts.

    Args:
        server: with one gateway.
        models: to serve.
        most: gateways in all.
        say: takes a line of progress.

    Returns:
        Servers by their number of gateways, 1 to `most`; callers take turns with the gateways of one.

    Raises:
        ServerError: a gateway does not come up.
    """
    servers = {1: server}
    with contextlib.ExitStack() as undo:
        for count in range(2, most + 1):
            try:
                child, address = _start(server.tfs_address, models, undo)
            except StackError as error:
                raise ServerError(str(error)) from error
            say(f"gateway {count} ready at {address}")
            before = servers[count - 1]
            servers[count] = replace(
                before,
                target=f"ipv4:{before.target.removeprefix('ipv4:')},{address}",
                pids={**before.pids, f"gateway {count}": child.pid},
            )
        yield servers


def _start(tfs_address: str, models: Sequence[str], undo: contextlib.ExitStack) -> tuple[Child, str]:
    chosen = [f"--model={model}" for model in dict.fromkeys(models)]
    command = [sys.executable, "-m", "dermserve.gateway", "--listen", "127.0.0.1:0", "--tfs", tfs_address, *chosen]
    child = Child(command, name="gateway", log=lambda line: None, ready=_READY)
    undo.callback(child.stop, grace=_GRACE)
    address = child.wait_ready(timeout=_TIMEOUT)[1]
    wait_serving(address, timeout=_TIMEOUT, children=[child])
    return child, address
