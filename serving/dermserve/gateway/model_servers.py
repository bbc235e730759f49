"""The model servers: every address of every configured name, its calls in flight and its health.

gRPC's round robin over the addresses of a name would lose requests to one that hangs. So names are resolved here, every
few seconds and after a failure, and each address has its own channel, slots and health. A model server that failed is
ejected until it answers a poll of the catalog. `dermserve.gateway.batching` chooses what is sent to which.
"""

import asyncio
import functools
import itertools
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from dermserve.gateway.budget import Budget
from dermserve.gateway.errors import GatewayError, ModelServerBusyError, ModelServerUnreachableError
from dermserve.gateway.tfserving import ServableNotFoundError, TfServing
from dermserve.tfserving.v1 import serving_pb2

_CLOSE_GRACE = 60.0
"""Seconds for calls in flight to finish at a server whose address is gone."""

_LOOKUP_SECONDS = 2.0
"""Seconds for a name to be resolved, before it counts as one that can't be."""
_CALLS = itertools.count(1)

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""Finds the IP addresses of a host and port."""


@dataclass(eq=False, slots=True)
class ModelServer:
    """One address."""

    address: str
    """HOST:PORT with the IP address, or `unix:PATH`."""
    name: str
    """The configured name that it was found by."""
    connect: Callable[[], TfServing]
    """Opens a channel to it."""
    wire: TfServing
    slots: int
    """Predict calls at once."""
    alive: bool = True
    """Whether it answered when last asked."""
    in_flight: int = 0
    """Predict calls at it."""
    models: dict[str, bool] = field(default_factory=dict)
    """Whether it had an available version of a model when last asked."""
    last_used: int = 0
    """Number of the newest call it was chosen for."""
    ejections: int = 0
    """Times it was ejected."""
    calls: int = 0
    """Predict calls that it answered."""
    views: int = 0
    """Views in those calls."""
    retried: int = 0
    """Calls that it failed and that were retried on another."""
    certificate_expiry: float | None = None
    """When the certificate that it shows expires, in seconds since 1970."""

    def take(self) -> None:
        """Take a slot for a call."""
        self.in_flight += 1
        self.last_used = next(_CALLS)


async def look_up(host: str, port: int) -> Sequence[str]:
    """Resolve a host; of one with both kinds of addresses the IPv4 ones, or each pod would count twice.

    Raises:
        OSError: it has none, or it can't be resolved.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = {family for family, *_ in found}
    wanted = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return sorted({str(address[0]) for family, *_, address in found if family == wanted})


class ModelServers:
    """All model servers behind one interface, for Predict and for the catalog."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        connect: Callable[[str, str], TfServing],
        slots: int,
        lookup: Lookup | None = None,
    ) -> None:
        """Make them; `resolve` finds the first.

        Args:
            names: HOST:PORT of each, where a host may have many addresses, or `unix:PATH`.
            connect: opens the channel to a target of gRPC's, whose certificate is verified against a host.
            slots: Predict calls at each address at once.
            lookup: resolves a host; by the system's resolver when None.
        """
        self.on_change: Callable[[], None] = lambda: None
        """Called when model servers come, go, fail or answer again."""
        self._names = names
        self._connect = connect
        self._slots = slots
        self._lookup = lookup or look_up
        self._servers: dict[str, ModelServer] = {}
        self._unresolved: set[str] = set()
        self._lookups: dict[str, asyncio.Future[Sequence[str]]] = {}
        """Those that took too long, by name."""
        self._failed = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def all(self) -> list[ModelServer]:
        """Every model server there is."""
        return list(self._servers.values())

    @property
    def slots(self) -> int:
        """How many calls may be in flight at those that answer."""
        return sum(server.slots for server in self._servers.values() if server.alive)

    async def follow(self, every: float) -> None:
        """Resolve the names for ever: every so many seconds, and a second after a failure."""
        while True:
            try:
                async with asyncio.timeout(every):
                    await self._failed.wait()
                await asyncio.sleep(min(1.0, every))
            except TimeoutError:
                pass
            self._failed.clear()
            try:
                await self.resolve()
            except Exception:
                _log.exception("model_server_names_failed")

    async def resolve(self) -> None:
        """Resolve every name: connect to new addresses, and remove those that are gone."""
        first, found = not self._servers, dict[str, tuple[str, str, str]]()
        for name, addresses in zip(self._names, await asyncio.gather(*map(self._addresses, self._names)), strict=True):
            for address, target, host in addresses:
                found.setdefault(address, (target, host, name))
        for address, (target, host, name) in found.items():
            if address not in self._servers:
                connect = functools.partial(self._connect, target, host)
                server = ModelServer(address, name, connect, connect(), self._slots, alive=first)
                self._servers[address] = server
                if not first:
                    _log.info("model_server_found", address=address, name=name)
        gone = [self._servers.pop(address) for address in set(self._servers) - set(found)]
        self.on_change()
        for server in gone:
            _log.info("model_server_gone", address=server.address, name=server.name)
            self._close(server.wire, _CLOSE_GRACE)

    async def reconnect(self, server: ModelServer, *, seconds: float) -> bool:
        """Move a model server to a new channel if that is connected within so many seconds.

        Returns:
            Whether it is moved, or gone.
        """
        wire = server.connect()
        try:
            async with asyncio.timeout(seconds):
                await wire.connected()
        except TimeoutError:
            self._close(wire, None)
            _log.warning("model_server_not_reconnected", address=server.address)
            return server not in self.all
        if server in self.all:
            server.wire, wire = wire, server.wire
            _log.info("model_server_reconnected", address=server.address)
        self._close(wire, _CLOSE_GRACE)
        return True

    def _close(self, wire: TfServing, grace: float | None) -> None:
        closing = asyncio.create_task(wire.close(grace))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every channel."""
        for closing in list(self._closing):
            closing.cancel()
        for lookup in self._lookups.values():
            lookup.cancel()
        for server in self._servers.values():
            await server.wire.close(None)

    async def _addresses(self, name: str) -> list[tuple[str, str, str]]:
        """Find each address of a name, its target for gRPC and its host; the last known ones after a failure."""
        if name.startswith("unix:"):
            return [(name, name, "localhost")]
        host, _, port = name.removeprefix("dns:///").rpartition(":")
        host = host.strip("[]")
        try:
            found = await self._resolved(name, host, int(port))
        except (OSError, UnicodeError) as error:  # the latter of a name that can't be one
            if name not in self._unresolved:
                _log.warning("model_server_name_not_resolved", name=name, fault=str(error))
            self._unresolved.add(name)
            known = [server.address for server in self._servers.values() if server.name == name]
            return [(address, _target(address), host) for address in known]
        self._unresolved.discard(name)
        addresses = [f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in found]
        return [(address, _target(address), host) for address in addresses]

    async def _resolved(self, name: str, host: str, port: int) -> Sequence[str]:
        """Resolve a host. One lookup that hangs keeps a thread: no other is begun for the name until it ends."""
        lookup = self._lookups.pop(name, None) or asyncio.ensure_future(self._lookup(host, port))
        await asyncio.wait({lookup}, timeout=_LOOKUP_SECONDS)
        if not lookup.done():
            self._lookups[name] = lookup
            raise TimeoutError("the resolver does not answer")
        return lookup.result()

    async def describe(self, model: str, *, version: int, budget: Budget) -> bytes:
        """Read a card from whichever has the version."""
        return await self._first(lambda wire, left: wire.describe(model, version=version, seconds=left), budget)

    async def labelled(self, model: str, *, label: str, budget: Budget) -> int:
        """Return the version a label points at, as the first that knows it says."""
        return await self._first(lambda wire, left: wire.labelled(model, label=label, seconds=left), budget)

    async def versions(self, model: str, *, budget: Budget) -> Sequence[serving_pb2.ModelVersionStatus]:
        """List the versions of a model on any server, newest first; one available anywhere is available."""
        answers = await asyncio.gather(*(self._look(server, model, budget) for server in self._servers.values()))
        good = [answer for answer in answers if not isinstance(answer, Exception)]
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        if not good:
            told = (ServableNotFoundError, ModelServerBusyError)
            raise max(failures, key=lambda error: isinstance(error, told), default=ModelServerUnreachableError())
        merged: dict[int, serving_pb2.ModelVersionStatus] = {}
        for status in itertools.chain.from_iterable(good):
            if status.version not in merged or status.state == serving_pb2.ModelVersionStatus.STATE_AVAILABLE:
                merged[status.version] = status
        return [merged[number] for number in sorted(merged, reverse=True)]

    async def _look(
        self, server: ModelServer, model: str, budget: Budget
    ) -> Sequence[serving_pb2.ModelVersionStatus] | GatewayError | ServableNotFoundError:
        """Ask one server for its versions, and learn whether it is alive."""
        try:
            answer = await server.wire.versions(model, seconds=budget.require("asking for versions"))
        except (GatewayError, ServableNotFoundError) as error:
            server.models[model] = False
            self._mark(server, alive=isinstance(error, ServableNotFoundError | ModelServerBusyError))
            return error
        available = serving_pb2.ModelVersionStatus.STATE_AVAILABLE
        server.models[model] = any(status.state == available for status in answer)
        self._mark(server, alive=True)
        return answer

    def _mark(self, server: ModelServer, *, alive: bool) -> None:
        if alive == server.alive:
            return
        server.alive = alive
        server.ejections += not alive
        _log.warning("model_server_back" if alive else "model_server_ejected", address=server.address)
        if not alive:
            self._failed.set()
        self.on_change()

    async def _first(self, ask: Callable[[TfServing, float], Awaitable[_T]], budget: Budget) -> _T:
        """Return the first answer; without one, raise that it does not exist rather than another server's failure."""
        failures: list[GatewayError | ServableNotFoundError] = []
        order = sorted(self._servers.values(), key=lambda server: not server.alive)
        for still, server in zip(range(len(order), 0, -1), order, strict=True):
            try:  # one that hangs leaves time for the next
                return await ask(server.wire, budget.require("asking for a card") / still)
            except (GatewayError, ServableNotFoundError) as error:
                failures.append(error)
        raise max(
            failures, key=lambda error: isinstance(error, ServableNotFoundError), default=ModelServerUnreachableError()
        )

    def all_in(self, failed: Collection[ModelServer]) -> bool:
        """Whether every model server is among those; so it is when there is none."""
        return all(server in failed for server in self._servers.values())

    def pick(self, model: str, failed: Collection[ModelServer]) -> ModelServer | None:
        """Choose the least busy server with a free slot that has not failed; of those that answer, if there are any."""
        candidates = [server for server in self._servers.values() if server not in failed]
        candidates = [server for server in candidates if server.alive] or candidates
        free = [server for server in candidates if server.in_flight < server.slots]
        if len(free) < 2:
            return free[0] if free else None
        return min(free, key=lambda server: (not server.models.get(model, True), server.in_flight, server.last_used))

    def has_other(self, server: ModelServer, failed: Collection[ModelServer]) -> bool:
        """Whether to stop waiting for a server: another answers, or this one did not answer before, either."""
        others = [other for other in self._servers.values() if other is not server and other not in failed]
        return any(other.alive for other in others) or bool(others and not server.alive)

    def fail(self, server: ModelServer, *, retried: bool) -> None:
        """Eject a server that did not answer a call, which is retried on another or not."""
        server.retried += retried
        self._mark(server, alive=False)


def _target(address: str) -> str:
    return f"ipv6:{address}" if address.startswith("[") else f"ipv4:{address}"


def gravest(failures: Iterable[Exception]) -> Exception:
    """Choose the error when every server failed: that one has no such version does not mean that others have none."""
    return min(
        failures, key=lambda failure: isinstance(failure, ServableNotFoundError), default=ModelServerUnreachableError()
    )
