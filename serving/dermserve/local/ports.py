"""Check ports before anything starts: gRPC reports a port in use late, or never (SO_REUSEPORT).

Also the variables that keep children's connections to the loopback off a proxy.
"""

import os
import socket
from collections.abc import Mapping

from dermserve.local.child import StackError

HOST = "127.0.0.1"


def free_port() -> int:
    """Choose a free loopback port, for a server whose port must be known before it starts."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_free(port: int, *, option: str) -> None:
    """Check that nothing listens on a loopback port; 0 always passes. The message names the option that chooses it.

    Raises StackError: something listens there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore connections in TIME_WAIT
        try:
            probe.bind((HOST, port))
        except OSError as error:
            what = f"port {port} is in use: stop what listens there"
            raise StackError(f"{what}, or choose another with {option} (0: any free)") from error


def no_proxy(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return `no_proxy` and `NO_PROXY` for a child: this process's own, and the loopback."""
    loopback = "127.0.0.1,localhost,::1"
    return {
        name: ",".join(filter(None, (environment.get("no_proxy") or environment.get("NO_PROXY"), loopback)))
        for name in ("no_proxy", "NO_PROXY")
    }
