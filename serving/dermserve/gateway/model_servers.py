"""The model servers: every address of every configured name, its calls in flight and its health.

gRPC's round robin over the addresses of a name would lose requests to one that hangs. So names are resolved here, every
few seconds and after a failure, and each address has its own channel, slots and health. A call goes to the least busy
model server that answers, and is retried on another when that one hangs or refuses: Predict changes nothing on the
server, so sending it twice is safe. A model server that failed is ejected until it answers a poll of the catalog.

Calls wait in one queue, cheap ones first: a call is ordered by its arrival plus `_AGEING` times the seconds that it is
expected to take. That bounds for how long others can overtake it, whatever they cost.
"""

import asyncio
import functools
import heapq
import itertools
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.calls import Batch, Costs
from dermserve.gateway.errors import (
    BudgetSpentError,
    GatewayError,
    ModelServerBusyError,
    ModelServerUnreachableError,
)
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, Target, TfServing
from dermserve.imaging import make_views
from dermserve.tfserving.v1 import serving_pb2

_LEAST_TIMEOUT = 1.0
"""Least seconds of a call before it is retried on another server."""
_SLOW = 5.0
"""Multiple of a call's expected seconds after which its server counts as hanging."""
_BACK_OFF = 0.02
"""Seconds to wait, doubled and jittered each time, when a server is full."""
_NEARLY_DONE = 0.02
"""Seconds before its end at which a call counts as nearly done: long enough to decode a photo."""
_NEARLY_DONE_SHARE = 0.4
"""Share of its expected seconds after which a call counts as nearly done: a call may take less than expected."""
_CLOSE_GRACE = 60.0
"""Seconds for calls in flight to finish at a server whose address is gone."""
_AGEING = 4.0
"""Seconds that a call may be overtaken, for each second that it is expected to take."""

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
    nearly_done: list[float] = field(default_factory=list)
    """When each call in flight will be near its end, by the clock."""
    last_used: int = 0
    """Number of the newest call it was chosen for."""
    ejections: int = 0
    """Times it was ejected."""
    calls: int = 0
    """Predict calls that it answered."""
    views: int = 0
    """Views in those calls."""
    retried: int = 0
    """Requests that it failed and that were retried on another."""
    certificate_expiry: float | None = None
    """When the certificate that it shows expires, in seconds since 1970."""


@dataclass(order=True, slots=True)
class _Waiting:
    """A call that waits for a slot."""

    turn: float
    number: int
    model: str = field(compare=False)
    failed: Mapping[ModelServer, Exception] = field(compare=False)
    slot: "asyncio.Future[ModelServer]" = field(compare=False)


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
        clock: Clock,
        lookup: Lookup | None = None,
    ) -> None:
        """Make them; `resolve` finds the first.

        Args:
            names: HOST:PORT of each, where a host may have many addresses, or `unix:PATH`.
            connect: opens the channel to a target of gRPC's, whose certificate is verified against a host.
            slots: Predict calls at each address at once.
            clock: monotonic seconds.
            lookup: resolves a host; by the system's resolver when None.
        """
        self.costs = Costs()
        self.used: Counter[str] = Counter()
        """Slots in use, by model."""
        self._names = names
        self._connect = connect
        self._slots = slots
        self._clock = clock
        self._lookup = lookup or look_up
        self._servers: dict[str, ModelServer] = {}
        self._unresolved: set[str] = set()
        self._queue: list[_Waiting] = []
        self._numbers = itertools.count(1)
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

    @property
    def waiting(self) -> int:
        """How many calls wait for a slot."""
        return sum(not waiting.slot.done() for waiting in list(self._queue))

    def nearly_done(self) -> int:
        """Count the calls in flight that are near their end."""
        now = self._clock()
        return sum(ends <= now for server in self._servers.values() if server.alive for ends in server.nearly_done)

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
        for name in self._names:
            for address, target, host in await self._addresses(name):
                found.setdefault(address, (target, host, name))
        for address, (target, host, name) in found.items():
            if address not in self._servers:
                connect = functools.partial(self._connect, target, host)
                server = ModelServer(address, name, connect, connect(), self._slots, alive=first)
                self._servers[address] = server
                if not first:
                    _log.info("model_server_found", address=address, name=name)
        gone = [self._servers.pop(address) for address in set(self._servers) - set(found)]
        self._dispatch()
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
        for server in self._servers.values():
            await server.wire.close(None)

    async def _addresses(self, name: str) -> list[tuple[str, str, str]]:
        """Find each address of a name, its target for gRPC and its host; the last known ones after a failure."""
        if name.startswith("unix:"):
            return [(name, name, "localhost")]
        host, _, port = name.removeprefix("dns:///").rpartition(":")
        host = host.strip("[]")
        try:
            found = await self._lookup(host, int(port))
        except OSError as error:
            if name not in self._unresolved:
                _log.warning("model_server_name_not_resolved", name=name, fault=str(error))
            self._unresolved.add(name)
            known = [server.address for server in self._servers.values() if server.name == name]
            return [(address, _target(address), host) for address in known]
        self._unresolved.discard(name)
        addresses = [f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in found]
        return [(address, _target(address), host) for address in addresses]

    async def predict(self, target: Target, batch: Batch) -> Scores:
        """Predict a batch, closed when it has a slot: as many of its views as there is time for.

        Raises:
            ServableNotFoundError: no model server has such a model, version or label.
            GatewayError: none can be reached, or is full, failed, is late, or answered nonsense.
        """
        failed: dict[ModelServer, Exception] = {}
        for attempt in itertools.count():
            server = await self._acquire(target.model, batch, failed)
            try:
                return await self._call(server, target, batch, alone=not self._has_other(server, failed))
            except ModelServerBusyError:
                pass
            except (ModelServerUnreachableError, ServableNotFoundError) as error:
                failed[server] = error
                server.retried += any(other not in failed for other in self._servers.values())
            finally:
                self._release(server, target.model)
            if server not in failed:
                await _back_off(attempt, batch.budget)
        raise AssertionError("the loop ends by return or raise")

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
        self._dispatch()

    async def _first(self, ask: Callable[[TfServing, float], Awaitable[_T]], budget: Budget) -> _T:
        """Return the first answer; without one, raise that it does not exist rather than another server's failure."""
        failures: list[Exception] = []
        order = sorted(self._servers.values(), key=lambda server: not server.alive)
        for still, server in zip(range(len(order), 0, -1), order, strict=True):
            try:  # one that hangs leaves time for the next
                return await ask(server.wire, budget.require("asking for a card") / still)
            except (GatewayError, ServableNotFoundError) as error:
                failures.append(error)
        raise max(
            failures, key=lambda error: isinstance(error, ServableNotFoundError), default=ModelServerUnreachableError()
        )

    async def _acquire(self, model: str, batch: Batch, failed: Mapping[ModelServer, Exception]) -> ModelServer:
        """Take a slot of the least busy server that has not failed this call, after a wait if need be."""
        if all(server in failed for server in self._servers.values()):
            raise _gravest(failed.values())
        if (server := self._pick(model, failed)) is None:
            slot: asyncio.Future[ModelServer] = asyncio.get_running_loop().create_future()
            turn = self._clock() + _AGEING * self.costs.expect(model, len(batch))
            heapq.heappush(self._queue, _Waiting(turn, next(self._numbers), model, failed, slot))
            try:
                return await slot
            except asyncio.CancelledError:
                if slot.done() and not slot.cancelled() and not slot.exception():
                    self._release(slot.result(), model)  # granted at the moment of the cancellation
                raise
        self._take(server, model)
        return server

    def _pick(self, model: str, failed: Mapping[ModelServer, Exception]) -> ModelServer | None:
        candidates = [server for server in self._servers.values() if server not in failed]
        candidates = [server for server in candidates if server.alive] or candidates
        free = [server for server in candidates if server.in_flight < server.slots]
        if len(free) < 2:
            return free[0] if free else None
        return min(free, key=lambda server: (not server.models.get(model, True), server.in_flight, server.last_used))

    def _take(self, server: ModelServer, model: str) -> None:
        server.in_flight += 1
        server.last_used = next(self._numbers)
        self.used[model] += 1

    def _release(self, server: ModelServer, model: str) -> None:
        server.in_flight -= 1
        self.used[model] -= 1
        self._dispatch()

    def _dispatch(self) -> None:
        """Give free slots to waiting calls, in their order."""
        kept = []
        while self._queue:
            waiting = heapq.heappop(self._queue)
            if waiting.slot.done():
                continue
            if all(server in waiting.failed for server in self._servers.values()):
                waiting.slot.set_exception(_gravest(waiting.failed.values()))
            elif server := self._pick(waiting.model, waiting.failed):
                self._take(server, waiting.model)
                waiting.slot.set_result(server)
            else:
                kept.append(waiting)
                if not waiting.failed:  # no slot is free anywhere
                    break
        for waiting in kept:
            heapq.heappush(self._queue, waiting)

    def _has_other(self, server: ModelServer, failed: Mapping[ModelServer, Exception]) -> bool:
        """Whether to stop waiting for a server: another answers, or this one did not answer before, either."""
        others = [other for other in self._servers.values() if other is not server and other not in failed]
        return any(other.alive for other in others) or bool(others and not server.alive)

    async def _call(self, server: ModelServer, target: Target, batch: Batch, *, alone: bool) -> Scores:
        images, views, tta = self._fit(target.model, batch)
        start, left = self._clock(), batch.budget.require("before asking the model server")
        expected = self.costs.expect(target.model, views)
        timeout = left if alone else min(left, max(_LEAST_TIMEOUT, expected * _SLOW))
        ends = start + expected - max(_NEARLY_DONE, expected * _NEARLY_DONE_SHARE)
        server.nearly_done.append(ends)
        try:
            scores = await server.wire.predict(target, images, tta=tta, seconds=timeout)
        except BudgetSpentError as error:
            if timeout >= left:
                self.costs.note(target.model, views, self._clock() - start, late=True)
                raise
            self._mark(server, alive=False)  # it hangs, and the request has time left
            raise ModelServerUnreachableError from error
        except ModelServerUnreachableError:
            self._mark(server, alive=False)
            raise
        finally:
            server.nearly_done.remove(ends)
        self.costs.note(target.model, views, self._clock() - start)
        server.calls += 1
        server.views += views
        return scores

    def _fit(self, model: str, batch: Batch) -> tuple[NDArray[np.uint8], int, bool]:
        """Close a batch; return the images of as many views as there is time for, their number, and whether by `tta`.

        Raises:
            BudgetSpentError: there is no time for any.
        """
        images, tta = batch.close(), bool(batch.tta_views)
        views = len(batch.tta_views) or len(images)  # parts that left a closed batch stay in the call
        count = self.costs.fit(model, views, left=batch.budget.left())
        if not count:
            raise BudgetSpentError("too little is left for the model")
        if count == views:
            return images, views, tta
        return (make_views(images[0], batch.tta_views[:count]) if tta else images[:count]), count, False


def _target(address: str) -> str:
    return f"ipv6:{address}" if address.startswith("[") else f"ipv4:{address}"


def _gravest(failures: Iterable[Exception]) -> Exception:
    """Choose the error when every server failed: that one has no such version does not mean that others have none."""
    return min(
        failures, key=lambda failure: isinstance(failure, ServableNotFoundError), default=ModelServerUnreachableError()
    )


async def _back_off(attempt: int, budget: Budget) -> None:
    """Wait for a full server.

    Raises:
        ModelServerBusyError: there is no time for that.
    """
    delay = _BACK_OFF * 2 ** min(attempt, 5) * random.uniform(0.5, 1.5)  # noqa: S311
    if delay >= budget.left():
        raise ModelServerBusyError
    await asyncio.sleep(delay)
