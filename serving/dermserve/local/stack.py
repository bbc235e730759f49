"""Start and stop the model server and the gateway in order, as child processes."""

import contextlib
import importlib.util
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dermserve.local.child import HOST, PAUSE, Child, InOrder, StackError, check_free, child_log, no_proxy
from dermserve.local.store import ensure_models, owned, write_config
from dermserve.models.lifecycle.server_config import CANARY_FILE
from dermserve.modelserver.flags import usable_cores

DEFAULT_MODELS = ("resnet50", "mobilenet_v3_small")
DEFAULT_STORE = pathlib.Path(".dermserve/store")
DEFAULT_PORT = 50051
DEFAULT_TFS_PORT = 8500
DRAWN = pathlib.Path(__file__).with_name("drawn")  # eight made-up lesions, 600×450 JPEGs of tests/drawing.py

_PROGRAMS = {"modelserver": ["dermserve.modelserver"], "gateway": ["dermserve.cli", "gateway"]}
_TFS_READY = re.compile(r"Running gRPC ModelServer at (\S+:\d+)")
GATEWAY_READY = re.compile(r'{.*"event": ?"(?:health_changed|model_unusable)".*}')  # ready, or will never be
# The gateway gives requests in flight 10 s to finish; then none is left in the model server.
_GRACE = 15.0
_TLS = ("DERMSERVE_TLS_", "DERMSERVE_TFS_TLS_")  # variables with the gateway's files


@dataclass(kw_only=True)
class Stack(InOrder):
    """A model server and a gateway in front of it, on the loopback, while the block lasts.

    On entry it exports the models that the store lacks, starts the model server and waits until it has loaded them,
    then starts the gateway and waits until it reports SERVING. On exit they stop in reverse order. On Linux the kernel
    kills the children when this process is killed. Enter it in a thread that lives as long as the stack should.

    Raises StackError on entry: a port is taken, another process serves the store, or something can't start.
    """

    store: pathlib.Path = DEFAULT_STORE  # folder of the versioned store
    models: Sequence[str] = DEFAULT_MODELS
    port: int = DEFAULT_PORT  # the gateway's; 0 takes a free one
    tfs_port: int = DEFAULT_TFS_PORT  # the model server's; 0 takes a free one
    ready_timeout: float = 180.0  # seconds for the model server to load, and again for the gateway to be ready
    say: Callable[[str], None] = lambda line: None  # takes a line of progress
    program: Callable[[str], Sequence[str]] = lambda name: (sys.executable, "-P", "-m", *_PROGRAMS[name])
    """Gives the command line of "modelserver" and "gateway", to which their flags are added."""
    model_server_flags: Sequence[str] = ()
    gateway_flags: Sequence[str] = ()
    owner: bool = False
    """Whether it is the one that serves the store: it writes models.config there, for `dermserve model`, and a second
    one is refused. Otherwise the store stays as it is."""
    tell_after: float = 15.0  # seconds after which `say` gets the last log line of a server that isn't ready
    gateways: int = 1  # processes; the first one has `port` and the flags, the others have free ports
    gateway_addresses: list[str] = field(default_factory=list, init=False)  # HOST:PORT of each, once entered
    tfs_address: str = field(default="", init=False)  # HOST:PORT of the model server, once entered
    _children: dict[str, Child] = field(default_factory=dict, init=False)

    @property
    def pids(self) -> Mapping[str, int]:
        """Process ids by name: "modelserver", "gateway", "gateway 2" and so on."""
        return {name: child.pid for name, child in self._children.items()}

    @property
    def gateway_address(self) -> str:
        """HOST:PORT of the first gateway, once entered."""
        return self.gateway_addresses[0]

    def _start(self, parts: contextlib.ExitStack) -> None:
        if importlib.util.find_spec("tensorflow") is None:
            raise StackError("the models need TensorFlow: pip install '.[local]' in a clone")
        check_free(self.port, option="--port")
        check_free(self.tfs_port, option="--tfs-port")
        if self.owner:
            parts.enter_context(owned(self.store))
        ensure_models(self.store, self.models, say=self.say)
        self._start_model_server(parts)
        self._start_gateway(parts, "gateway", self.port, self.gateway_flags)
        for number in range(2, self.gateways + 1):
            self._start_gateway(parts, f"gateway {number}", 0, ())

    def wait(self, *others: Child) -> None:
        """Wait without a timeout until a child, or one of the others, ends by itself. Raises StackError: one did."""
        while True:
            self.check(*others)
            time.sleep(PAUSE)

    def check(self, *others: Child) -> None:
        """Raise StackError if a child, or one of the others, has ended by itself."""
        if died := next(filter(None, (child.died() for child in (*self._children.values(), *others))), None):
            raise died

    def _start_model_server(self, parts: contextlib.ExitStack) -> None:
        scratch = None if self.owner else pathlib.Path(parts.enter_context(tempfile.TemporaryDirectory()))
        config = write_config(self.store, self.models, into=scratch)
        arguments = (
            f"--port={self.tfs_port}",
            f"--model_config_file={config}",
            "--file_system_poll_wait_seconds=1",
            # A load that failed is retried for seconds, not for five minutes, as a version may still be copied.
            "--load_retry_interval_micros=1000000",
            # When a server starts, the versions with labels are not loaded yet.
            "--allow_version_labels_for_unavailable_models=true",
            # Run requests in parallel, instead of one request on all cores (docs/performance.md).
            "--tensorflow_intra_op_parallelism=1",
            f"--tensorflow_inter_op_parallelism={usable_cores()}",
            *self.model_server_flags,
        )
        self.say(f"starting the model server ({', '.join(self.models)})")
        # One malloc arena: frozen graphs otherwise cost twice the memory (docs/performance.md).
        self.tfs_address = self._start_child("modelserver", arguments, parts, _TFS_READY, MALLOC_ARENA_MAX="1")[1]
        self.say(f"model server ready at {self.tfs_address}")

    def _start_gateway(self, parts: contextlib.ExitStack, name: str, port: int, flags: Sequence[str]) -> None:
        models = [f"--model={model}" for model in self.models]
        arguments = ("--listen", f"{HOST}:{port}", "--tfs", self.tfs_address, *models, *flags)
        # On the loopback all speak plain text; the environment may have the TLS of another gateway, or of its commands.
        env: dict[str, str | None] = {name: None for name in os.environ if name.startswith(_TLS)}
        if "DERMSERVE_CANARY_FILE" not in os.environ:
            env["DERMSERVE_CANARY_FILE"] = str(self.store.resolve() / CANARY_FILE)
        told = json.loads(self._start_child(name, arguments, parts, GATEWAY_READY, **env)[0])
        if told["event"] == "model_unusable":
            faults = "; ".join(f"version {version}: {fault}" for version, fault in told["faults"].items())
            remedy = f"delete {self.store / told['model']}, or publish another version (docs/versions.md)"
            raise StackError(f"{told['model']} can't be served: {faults}; {remedy}")
        self.gateway_addresses.append(told["address"])
        self.say(f"{name} ready at {told['address']}")

    def _start_child(
        self, name: str, arguments: Sequence[str], parts: contextlib.ExitStack, ready: re.Pattern[str],
        **env: str | None,
    ) -> re.Match[str]:  # fmt: skip
        """Start a child, and wait for its ready line; return the match."""
        log = parts.enter_context(child_log(self.store.resolve().parent / f"logs/{name}.log", say=self.say))
        env = {**env, **no_proxy(), "PYTHONUNBUFFERED": "1"}
        command = [*self.program(name.split(maxsplit=1)[0]), *arguments]
        child = Child(command, name=name, log=log, ready=ready, env=env)
        parts.callback(child.stop, grace=_GRACE)
        parts.callback(self.say, f"stopping the {name}")
        needed = [*self._children.values()]
        self._children[name] = child
        return child.wait_ready(*needed, timeout=self.ready_timeout, tell=self.say, tell_after=self.tell_after)
