"""The model servers: every address of every configured name, its calls in flight and its health.

gRPC's round robin over the addresses of a name loses requests to one that hangs. So names are resolved here, every few
seconds and after a failure, and each address has its own channel, slots and health. A model server that failed is
ejected until it answers a poll of the catalog. `dermserve.gateway.batching` sends the requests.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import structlog

from dermserve.gateway.errors import GatewayError, ModelServerBusyError, ModelServerUnreachableError
from dermserve.gateway.tfserving import ServableNotFoundError, TfServing
from dermserve.tfserving.v1 import serving_pb2

AVAILABLE = serving_pb2.ModelVersionStatus.STATE_AVAILABLE
_CLOSE_GRACE = 60.0  # seconds for calls in flight to finish at a server whose address is gone
_LOOKUP_SECONDS = 2.0  # seconds to resolve a name; after that it counts as not resolved
_PATIENCE = 0.2  # seconds to wait for all model servers in a poll; later answers count in the next poll

_T = TypeVar("_T")
State: TypeAlias = "serving_pb2.ModelVersionStatus.State"
_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class ModelServer:
    """A model server: one address."""

    address: str  # HOST:PORT with the IP address, or `unix:PATH`
    name: str  # the configured name that it was found by
    wire: TfServing
    alive: bool = True  # whether it answered when last asked
    in_flight: int = 0  # Predict calls in flight to it
    # State of each version by model, as of its last answer; without the models about which it gave an error
    seen: dict[str, dict[int, State]] = field(default_factory=dict)
    # the newest poll of each model
    looks: dict[str, "asyncio.Task[GatewayError | None]"] = field(default_factory=dict)
    last_used: int = 0  # number of the newest call it was chosen for
    ejections: int = 0  # times it was ejected
    calls: int = 0  # Predict calls that it answered
    views: int = 0  # views in those calls
    retried: int = 0  # calls that it failed and that were retried on another
    certificate_expiry: float | None = None  # when the certificate that it shows expires, in seconds since 1970

    def has(self, model: str) -> bool:
        """Whether it had an available version of a model when last asked."""
        return AVAILABLE in self.seen.get(model, {}).values()

    def is_late(self, model: str) -> bool:
        """Whether a poll of a model is still unanswered."""
        return model in self.looks and not self.looks[model].done()


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
        self._failed = asyncio.Event()
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def all(self) -> list[ModelServer]:
        """All model servers."""
        return list(self._servers.values())

    @property
    def slots(self) -> int:
        """How many calls may be in flight to all model servers that answer."""
        return self._slots * [server.alive for server in self._servers.values()].count(True)

    async def follow(self, every: float) -> None:
        """Resolve the names until cancelled: every so many seconds, and a second after a failure."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every):  # wait_for of Python 3.11 may swallow a cancellation
                    await self._failed.wait()
                await asyncio.sleep(min(1.0, every))
            self._failed.clear()
            try:
                await self.resolve()
            except Exception:
                _log.exception("model_server_names_failed")

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
            self._spawn(server.wire.close(_CLOSE_GRACE))

    async def _addresses(self, name: str) -> list[str]:
        """Find each address of a name; the last known ones after a failure."""
        if name.startswith("unix:"):
            return [name]
        host, port = _host(name), name.rpartition(":")[2]
        # A lookup that hangs keeps a thread: start no other one for the name until it ends.
        lookup = self._lookups[name] = self._lookups.get(name) or self._spawn(look_up(host, int(port)))
        await asyncio.wait({lookup}, timeout=_LOOKUP_SECONDS)
        try:
            if not lookup.done():
                raise TimeoutError("the resolver does not answer")
            found = self._lookups.pop(name).result()
        except (OSError, UnicodeError) as error:  # UnicodeError: an impossible name
            if name not in self._unresolved:
                _log.warning("model_server_name_not_resolved", name=name, fault=str(error))
            self._unresolved.add(name)
            return [server.address for server in self.all if server.name == name]
        self._unresolved.discard(name)
        return [f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in found]

    async def reconnect(self, server: ModelServer, *, seconds: float) -> bool:
        """Move a model server to a new channel if that is connected within so many seconds.

        Returns:
            Whether it was moved, or is gone.
        """
        wire = self._connect(*_target(server.address, server.name))
        try:
            async with asyncio.timeout(seconds):
                await wire.connected()
        except Exception as error:
            self._spawn(wire.close(None))
            _log.warning("model_server_not_reconnected", address=server.address, fault=repr(error))
            return server not in self.all
        if server in self.all:
            server.wire, wire = wire, server.wire
            _log.info("model_server_reconnected", address=server.address)
        self._spawn(wire.close(_CLOSE_GRACE))
        return True

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run something in the background, until `close` at the latest."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def close(self) -> None:
        """Close every channel."""
        for task in self._running:
            task.cancel()
        for server in self.all:
            await server.wire.close(None)

    async def versions(self, model: str, *, seconds: float) -> dict[int, State]:
        """Return the state of each version of a model, newest first. One that is available on any server is available.

        Once a server has answered, late ones are not waited for: their last answer counts.

        Raises:
            GatewayError: no server answers.
        """
        looks = []
        for server in self.all:
            if not server.is_late(model):
                server.looks[model] = self._spawn(self._look(server, model, seconds))
            looks.append(server.looks[model])
        if looks:
            await asyncio.wait(looks, timeout=_PATIENCE)
        while True:
            faults = [look.result() for look in looks if look.done()]
            answers = [server.seen[model] for server in self.all if model in server.seen]
            if (answers and faults) or len(faults) == len(looks):
                break  # earlier answers count in addition to a new one, not instead of one
            await asyncio.wait([look for look in looks if not look.done()], return_when=asyncio.FIRST_COMPLETED)
        if not answers:
            raise next(filter(None, faults), ModelServerUnreachableError())
        merged: dict[int, State] = {}
        said = [item for answer in answers for item in answer.items()]
        for version, state in sorted(said, key=lambda item: (-item[0], item[1] != AVAILABLE)):
            merged.setdefault(version, state)
        return merged

    async def _look(self, server: ModelServer, model: str, seconds: float) -> GatewayError | None:
        """Poll one server for its versions and mark whether it answers; return its error, if any."""
        fault = None
        try:
            statuses = await server.wire.versions(model, seconds=seconds)
            server.seen[model] = {status.version: status.state for status in statuses}
        except ServableNotFoundError:
            server.seen[model] = {}
        except ModelServerBusyError as error:
            fault = error  # a full server is not gone: its last answer counts
        except GatewayError as error:
            server.seen.pop(model, None)
            self.mark(server, alive=False)
            return error
        self.mark(server, alive=True)
        return fault

    def mark(self, server: ModelServer, *, alive: bool) -> None:
        """Eject a server that did not answer, or use one again that does."""
        if alive == server.alive:
            return
        server.alive = alive
        server.ejections += not alive
        _log.warning("model_server_back" if alive else "model_server_ejected", address=server.address)
        if not alive:
            self._failed.set()
        self.on_change()

    async def describe(self, model: str, *, version: int, seconds: float) -> bytes:
        """Read a card from a server that has the version."""
        return await self._first(model, lambda wire, left: wire.describe(model, version=version, seconds=left), seconds)

    async def labelled(self, model: str, *, label: str, seconds: float) -> int:
        """Return the version that a label points to, from the first server that knows it."""
        return await self._first(model, lambda wire, left: wire.labelled(model, label=label, seconds=left), seconds)

    async def _first(self, model: str, ask: Callable[[TfServing, float], Awaitable[_T]], seconds: float) -> _T:
        """Return the first answer. Without one, prefer the error that it does not exist to other errors."""
        failures: list[GatewayError | ServableNotFoundError] = []
        order = sorted(self.all, key=lambda server: (not server.alive, server.is_late(model)))
        ends = time.monotonic() + seconds
        for place, server in enumerate(order):
            try:  # a server that hangs must leave time for the next
                return await ask(server.wire, (ends - time.monotonic()) / (len(order) - place))
            except (GatewayError, ServableNotFoundError) as error:
                failures.append(error)
        absent = (error for error in failures if isinstance(error, ServableNotFoundError))
        raise next(absent, failures[0] if failures else ModelServerUnreachableError())

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

    def has_other(self, server: ModelServer, failed: Collection[ModelServer]) -> bool:
        """Whether to wait less for a server: another one answers, or this one did not answer before."""
        others = [other for other in self.untried(failed) if other is not server]
        return bool(others) and (not server.alive or any(other.alive for other in others))


def _target(address: str, name: str) -> tuple[str, str]:
    """Return an address in gRPC's form, and the host to expect in its certificate."""
    if address.startswith("unix:"):
        return address, "localhost"
    return f"{'ipv6' if address.startswith('[') else 'ipv4'}:{address}", _host(name)


def _host(name: str) -> str:
    return name.removeprefix("dns:///").rpartition(":")[0].strip("[]")
