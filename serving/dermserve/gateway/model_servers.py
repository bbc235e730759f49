"""The model servers: every address of every configured name, its calls in flight and its health.

gRPC's round robin over the addresses of a name loses requests to one that hangs. So names are resolved here, every few
seconds and after a failure, and each address has its own channel, slots and health. A model server that failed is
ejected until it answers a poll of the catalog. `dermserve.gateway.batching` sends the requests.
"""

import asyncio
import functools
import socket
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from dermserve.gateway import errors
from dermserve.gateway.background import Background
from dermserve.gateway.certificates import TlsFiles, read_peer_expiry
from dermserve.gateway.tfserving import Target, TfServing
from dermserve.v1 import card_pb2, classifier_pb2

_CLOSE_GRACE = 60.0  # seconds for calls in flight to finish at a server whose address is gone
_LOOKUP_SECONDS = 2.0  # seconds to resolve a name; after that it counts as not resolved
_CONNECT_SECONDS = 5.0  # seconds for a new channel to be connected
# A server that answered before counts as gone after more failed polls in a row than these: a late one is no outage
_TOLERATED_FAILURES = 2
# Seconds for which a server that was late for a call stays ejected although it answers polls: at first, and at most;
# doubled each time until it answers a call
_SHUNNED, _MOST_SHUNNED = 2.0, 60.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version, as of the last poll."""

    number: int
    state: classifier_pb2.VersionState
    card: card_pb2.Card | None = None  # None until it is read, or if it is not valid
    fault: str = ""  # why an available version has no card
    invalid: bool = False  # its card was read and is not valid

    @property
    def available(self) -> bool:
        """Whether the version is AVAILABLE on a model server."""
        return self.state == classifier_pb2.VERSION_STATE_AVAILABLE

    @property
    def ready(self) -> bool:
        """Whether the gateway can answer with it, too: it has a valid card."""
        return self.available and self.card is not None


@dataclass(frozen=True)
class KnownModel:
    """A model, as of the last poll, as one model server has it, or all together."""

    name: str
    versions: tuple[KnownVersion, ...] = ()  # newest first
    # `stable` and `canary`, where they exist, and the versions they point to; callers may ask for others
    labels: Mapping[str, int] = field(default_factory=dict)
    reachable: bool = False  # whether a model server answered one of the last polls

    @functools.cached_property
    def available(self) -> tuple[KnownVersion, ...]:
        """The AVAILABLE versions, newest first."""
        return tuple(version for version in self.versions if version.available)

    @property
    def ready(self) -> bool:
        """Whether the gateway can answer with some version."""
        return any(version.ready for version in self.versions)

    @property
    def unusable(self) -> Mapping[int, str]:
        """What is wrong with the card of each version, where that prevents answers until there is another version."""
        gone = classifier_pb2.VERSION_STATE_UNLOADING, classifier_pb2.VERSION_STATE_END
        alive = [version for version in self.versions if version.state not in gone]
        return {version.number: version.fault for version in alive} if all(each.invalid for each in alive) else {}

    def find(self, number: int) -> KnownVersion | None:
        """Return a version, if the last poll saw it."""
        return next((version for version in self.versions if version.number == number), None)

    def absent(self, target: Target) -> errors.GatewayError:
        """Make the error for a version or label of this model that does not exist on any model server."""
        name, known = errors.shown(self.name), errors.listed(version.number for version in self.available)
        if target.version is not None and target.version not in [version.number for version in self.available]:
            text = f"version {target.version} of {name} is not available: there is {known}"
            return errors.GatewayError("VERSION_NOT_FOUND", text)
        if target.label is not None and target.label not in self.labels:
            label, known = errors.shown(target.label), errors.listed(sorted(self.labels))
            text = f"label {label} of {name} does not exist: there is {known}"
            return errors.GatewayError("LABEL_NOT_FOUND", text)
        text = f"no version of {name} is available at the moment: try again, or another model"
        return errors.GatewayError("MODEL_NOT_AVAILABLE", text)


@dataclass(eq=False, slots=True)
class ModelServer:
    """A model server: one address."""

    address: str  # HOST:PORT with the IP address, or `unix:PATH`
    name: str  # the configured name that it was found by
    wire: TfServing
    alive: bool = True  # whether it answered when last asked
    in_flight: int = 0  # Predict calls in flight to it
    models: Mapping[str, KnownModel] = field(default_factory=dict)  # what it has, as of its last answer
    look: "asyncio.Task[None] | None" = None  # the newest poll
    fault: Exception | None = None  # what that ended in
    failures: int = 0  # of polls in a row
    late: int = 0  # how often it was ejected for a late call, since it answered one
    shunned_until: float = 0.0  # by the loop's clock: before, polls don't end its ejection
    last_used: int = 0  # number of the newest call it was chosen for
    ejections: int = 0  # times it was ejected
    calls: int = 0  # Predict calls that it answered
    views: int = 0  # views in those calls
    retried: int = 0  # calls that it failed and that were retried on another
    certificate_expiry: float | None = None  # when the certificate that it shows expires, in seconds since 1970

    def has(self, model: str) -> bool:
        """Whether it had an available version of a model when last asked."""
        return model in self.models and bool(self.models[model].available)


async def look_up(host: str, port: int) -> Sequence[str]:
    """Resolve a host. If it has IPv4 and IPv6 addresses, return the IPv4 ones, so that each pod counts once.

    Raises:
        OSError: it has no address, or can't be resolved.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ipv4 = {str(address[0]) for family, *_, address in found if family == socket.AF_INET}
    return sorted(ipv4 or {str(address[0]) for *_, address in found})


class ModelServers:
    """All model servers behind one interface, for Predict and for the catalog."""

    def __init__(self, names: Sequence[str], *, connect: Callable[[str, str], TfServing], slots: int) -> None:
        """Make it without model servers; `resolve` finds them.

        Args:
            names: HOST:PORT of each, where a host may have many addresses, or `unix:PATH`.
            connect: opens the channel to a gRPC target; the second argument is the host to expect in its certificate.
            slots: Predict calls at each address at once.
        """
        self.on_change: Callable[[], None] = lambda: None  # called when model servers come, go, fail or answer again
        self._names = tuple(dict.fromkeys(names))  # a name that is given twice counts once
        self._connect = connect
        self._slots = slots
        self._servers: dict[str, ModelServer] = {}
        self._unresolved: set[str] = set()
        self._lookups: dict[str, asyncio.Task[Sequence[str]]] = {}
        self._background = Background()

    @property
    def all(self) -> list[ModelServer]:
        """All model servers."""
        return list(self._servers.values())

    @property
    def slots(self) -> int:
        """How many calls may be in flight to all model servers that answer; if none does, to all."""
        return self._slots * ([server.alive for server in self._servers.values()].count(True) or len(self._servers))

    async def resolve(self) -> None:
        """Resolve every name: connect to new addresses, and remove those that are gone."""
        found = dict[str, str]()
        for name, addresses in zip(self._names, await asyncio.gather(*map(self._addresses, self._names)), strict=True):
            found |= dict.fromkeys(addresses, name)
        first = not self._servers
        for address, name in found.items():
            if address not in self._servers:
                wire = self._connect(*_target(address, name))
                self._servers[address] = ModelServer(address, name, wire, alive=first)
                if not first:
                    _log.info("model_server_found", address=address, name=name)
        gone = [self._servers.pop(address) for address in set(self._servers) - set(found)]
        self.on_change()
        for server in gone:
            _log.info("model_server_gone", address=server.address, name=server.name)
            self._background.start(server.wire.close(_CLOSE_GRACE))

    async def _addresses(self, name: str) -> list[str]:
        """Find each address of a name; the last known ones after a failure."""
        if name.startswith("unix:"):
            return [name]
        host, port = _host(name), name.rpartition(":")[2]
        # A lookup that hangs keeps a thread: start no other one for the name until it ends.
        lookup = self._lookups[name] = self._lookups.get(name) or self._background.start(look_up(host, int(port)))
        await asyncio.wait({lookup}, timeout=_LOOKUP_SECONDS)
        try:
            if not lookup.done():
                raise TimeoutError("the resolver does not answer")
            self._lookups.pop(name, None)
            found = lookup.result()
        except (OSError, UnicodeError) as error:  # UnicodeError: an impossible name
            if name not in self._unresolved:
                _log.warning("model_server_name_not_resolved", name=name, fault=str(error))
            self._unresolved.add(name)
            return [server.address for server in self.all if server.name == name]
        self._unresolved.discard(name)
        return [f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in found]

    async def renew_channels(self, tls: TlsFiles) -> None:
        """Read the TLS files again, and move model servers whose channels have former ones to new channels."""
        tls.renew()
        await asyncio.gather(*[self._renew_channel(each) for each in self.all if each.wire.pems is not tls.loaded])

    async def _renew_channel(self, server: ModelServer) -> None:
        """Move it once the new channel is connected. Calls in flight may finish on the old one."""
        wire = self._connect(*_target(server.address, server.name))
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await wire.connected()
        except Exception as error:
            _log.warning("model_server_not_reconnected", address=server.address, fault=repr(error))
        else:
            if server in self.all:
                server.wire, wire = wire, server.wire
                _log.info("model_server_reconnected", address=server.address)
        self._background.start(wire.close(_CLOSE_GRACE))

    async def look_at_certificates(self) -> None:
        """Read when the certificates expire that model servers show: these may be older than the files."""
        servers = self.all
        looks = [asyncio.to_thread(read_peer_expiry, server.address) for server in servers]
        for server, seen in zip(servers, await asyncio.gather(*looks, return_exceptions=True), strict=True):
            if isinstance(seen, float):  # else keep what was seen last
                server.certificate_expiry = seen

    async def close(self) -> None:
        """Close every channel."""
        await self._background.close()
        for server in self.all:
            await server.wire.close(None)

    def look(self, look: Callable[[ModelServer], Coroutine[Any, Any, None]]) -> list["asyncio.Task[None]"]:
        """Poll every model server, unless its last poll still runs; return the polls."""
        for server in self.all:
            if server.look is None or server.look.done():
                server.look = self._background.start(look(server))
        return [server.look for server in self.all if server.look]

    def note_look(self, server: ModelServer, fault: Exception | None) -> None:
        """Note whether a server answered a poll. What it has is forgotten when it is late again and again.

        One that is late is not ejected before that if no other one answers.
        """
        server.fault, server.failures = fault, server.failures + 1 if fault else 0
        if fault:  # the name may still have had the address when the server failed
            self._background.start(self.resolve())
        if is_gone := server.failures > _TOLERATED_FAILURES:
            server.models = {}
        others = [other for other in self.all if other.alive and other is not server]
        if others or is_gone or not isinstance(fault, errors.BudgetSpentError):
            self.mark(server, alive=fault is None)

    def shun(self, server: ModelServer) -> None:
        """Eject a server that was late for a call that another one answered, whatever it says to polls."""
        if server.alive:
            seconds = min(_MOST_SHUNNED, _SHUNNED * 2**server.late)
            server.late, server.shunned_until = server.late + 1, asyncio.get_running_loop().time() + seconds
            self.mark(server, alive=False)

    def mark(self, server: ModelServer, *, alive: bool) -> None:
        """Eject a server that did not answer, or use one again that does."""
        if alive == server.alive or (alive and asyncio.get_running_loop().time() < server.shunned_until):
            return
        server.alive = alive
        server.ejections += not alive
        _log.warning("model_server_back" if alive else "model_server_ejected", address=server.address)
        if not alive:
            self._background.start(self.resolve())
        self.on_change()

    def untried(self, failed: Collection[ModelServer]) -> list[ModelServer]:
        """Return the model servers that have not failed a request."""
        return [server for server in self._servers.values() if server not in failed] if failed else self.all

    def pick(self, model: str, failed: Collection[ModelServer]) -> ModelServer | None:
        """Choose the least busy server with a free slot that has not failed; prefer those that answer."""
        candidates = self.untried(failed)
        candidates = [server for server in candidates if server.alive] or candidates
        free = [server for server in candidates if server.in_flight < self._slots]
        if len(free) < 2:
            return free[0] if free else None
        return min(free, key=lambda each: (not each.has(model), each.in_flight, each.last_used))


def _target(address: str, name: str) -> tuple[str, str]:
    """Return an address in gRPC's form, and the host to expect in its certificate."""
    if address.startswith("unix:"):
        return address, "localhost"
    return f"{'ipv6' if address.startswith('[') else 'ipv4'}:{address}", _host(name)


def _host(name: str) -> str:
    return name.removeprefix("dns:///").rpartition(":")[0].strip("[]")
