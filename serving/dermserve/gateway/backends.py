"""Several TensorFlow Servings as one: the least busy that answers is asked, and another when it fails.

gRPC balances and reconnects within one address (a DNS name may stand for many). What it can't do is done here: calls in
flight are bounded for each address, because TensorFlow Serving refuses what is beyond its threads and slows down well
before; and an address that hangs is left alone until it answers the catalog again. Predict changes nothing on the
server, so asking twice is safe.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from dermserve.gateway.batch import Batch
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import (
    BudgetSpentError,
    GatewayError,
    ModelServerBusyError,
    ModelServerUnreachableError,
)
from dermserve.gateway.gate import Gate
from dermserve.gateway.speeds import Speeds
from dermserve.gateway.target import Target
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, TfServing
from dermserve.tfserving.v1 import serving_pb2

_PATIENCE = 1.0
"""Seconds a call may take at least before another address is asked."""
_SLOW = 5.0
"""Times what a call is expected to take, after which an address counts as hanging."""
_BACK_OFF = 0.02
"""Seconds to wait, doubled and jittered each time, when every address is full."""

_SOON = 0.02
"""Seconds before its end at which a call counts as nearly done: a photo is decoded meanwhile."""
_SOON_SHARE = 0.4
"""Of what it is expected to take, if that is more: a call may take less."""

_T = TypeVar("_T")
_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Backend:
    """One address."""

    address: str
    server: TfServing
    gate: Gate
    """Bounds its calls in flight."""
    alive: bool = True
    """Whether it answered when last asked."""
    ejections: int = 0
    """Times it was found not to answer."""
    calls: int = 0
    """Predict calls that it answered."""
    views: int = 0
    """In these; more than there were calls where requests were asked about together."""
    passed_over: int = 0
    """Requests that it failed and another was asked for."""

    soon: list[float] = field(default_factory=list)
    """When each call in flight will be near its end, by the clock."""

    def spare(self, now: float) -> int:
        """Count the calls that there is a place for, or will be soon, beyond those that wait for one."""
        free = self.gate.places - self.gate.passing
        return free + sum(soon <= now for soon in self.soon) - self.gate.waiting

    @property
    def load(self) -> int:
        """Calls in flight and waiting."""
        return self.gate.passing + self.gate.waiting

    def mark(self, *, alive: bool) -> None:
        """Remember whether it answers."""
        if alive != self.alive:
            _log.warning("model server back" if alive else "model server lost", address=self.address)
            self.ejections += not alive
        self.alive = alive


class Backends:
    """All addresses as one, and what the catalog asks of them together."""

    def __init__(self, backends: Sequence[Backend], *, clock: Clock) -> None:
        self.all = self._backends = list(backends)
        self._clock = clock
        self._speeds = Speeds()
        self._turn = itertools.count()

    def spare(self) -> int:
        """Count the calls that there is a place for, or will be soon, beyond those that wait for one."""
        now = self._clock()
        return sum(backend.spare(now) for backend in self._backends if backend.alive)

    @property
    def places(self) -> int:
        """How many calls may be in flight."""
        return sum(backend.gate.places for backend in self._backends if backend.alive)

    def expect(self, model: str, views: int) -> float:
        """Return the seconds that a call is expected to take; 0 when nothing is known."""
        return self._speeds.expect(model, views)

    async def predict(self, target: Target, batch: Batch) -> Scores:
        """Ask for a batch, which is closed when its turn has come: for as many of its views as there is time for.

        Raises:
            ServableNotFoundError: see Predictor.
            GatewayError: see Predictor.
        """
        failed: dict[Backend, Exception] = {}
        for round_ in itertools.count():
            backend = self._pick(failed)
            try:
                return await self._ask(backend, target, batch)
            except ModelServerBusyError:
                await _back_off(round_, batch.budget)
            except (ModelServerUnreachableError, BudgetSpentError, ServableNotFoundError) as error:
                failed[backend] = error
                if len(failed) == len(self._backends) or batch.budget.left() <= 0:
                    raise _gravest(failed.values()) from error
                backend.passed_over += 1
        raise AssertionError("the loop ends by return or raise")

    async def describe(self, model: str, *, version: int, budget: Budget) -> bytes:
        """Read a card from whichever has the version."""
        return await self._first(lambda server, part: server.describe(model, version=version, budget=part), budget)

    async def labelled(self, model: str, *, label: str, budget: Budget) -> int:
        """Return the version a label points at, as the first that knows it says."""
        return await self._first(lambda server, part: server.labelled(model, label=label, budget=part), budget)

    async def versions(self, model: str, *, budget: Budget) -> Sequence[serving_pb2.ModelVersionStatus]:
        """List the versions of a model on any address, newest first; one available anywhere is available."""
        answers = await asyncio.gather(*(self._look(backend, model, budget) for backend in self._backends))
        good = [answer for answer in answers if not isinstance(answer, Exception)]
        failures = [answer for answer in answers if isinstance(answer, Exception)]
        if not good:
            raise max(failures, key=lambda failure: isinstance(failure, ServableNotFoundError | ModelServerBusyError))
        merged: dict[int, serving_pb2.ModelVersionStatus] = {}
        for status in itertools.chain.from_iterable(good):
            if status.version not in merged or status.state == serving_pb2.ModelVersionStatus.STATE_AVAILABLE:
                merged[status.version] = status
        return [merged[number] for number in sorted(merged, reverse=True)]

    async def _look(
        self, backend: Backend, model: str, budget: Budget
    ) -> Sequence[serving_pb2.ModelVersionStatus] | GatewayError | ServableNotFoundError:
        """Ask one address for its versions, and learn whether it is alive."""
        try:
            answer = await backend.server.versions(model, budget=budget)
        except (GatewayError, ServableNotFoundError) as error:
            backend.mark(alive=isinstance(error, ServableNotFoundError | ModelServerBusyError))
            return error
        backend.mark(alive=True)
        return answer

    async def _ask(self, backend: Backend, target: Target, batch: Batch) -> Scores:
        async with backend.gate.enter(batch.budget):
            if not backend.alive and self._others(backend):
                raise ModelServerUnreachableError  # it died while this request waited for it
            views, budget = batch.close(), batch.budget
            count = self._speeds.fit(target.model, len(views), left=budget.left())
            if not count:
                raise BudgetSpentError("too little is left for the model")
            return await self._timed(backend, target, views=views[:count], budget=budget)

    async def _timed(self, backend: Backend, target: Target, *, views: NDArray[np.uint8], budget: Budget) -> Scores:
        start = self._clock()
        expected = self._speeds.expect(target.model, len(views))
        patience = max(_PATIENCE, expected * _SLOW) if self._others(backend) else budget.left()
        backend.soon.append(soon := start + expected - max(_SOON, expected * _SOON_SHARE))
        try:
            scores = await backend.server.predict(
                target, views=views, budget=Budget(min(budget.ends, start + patience), self._clock)
            )
        except (BudgetSpentError, ModelServerUnreachableError) as error:
            if isinstance(error, BudgetSpentError) and budget.left() <= 0:
                self._speeds.note(target.model, len(views), self._clock() - start, late=True)
            else:
                backend.mark(alive=False)
            raise
        finally:
            backend.soon.remove(soon)
        self._speeds.note(target.model, len(views), self._clock() - start)
        backend.calls += 1
        backend.views += len(views)
        return scores

    def _others(self, backend: Backend) -> bool:
        return any(other.alive for other in self._backends if other is not backend)

    def _pick(self, failed: dict[Backend, Exception]) -> Backend:
        """Choose the least busy that is alive and has not failed this request; in turn where that leaves a choice."""
        turn = next(self._turn) % len(self._backends)
        rotated = [backend for backend in self._backends[turn:] + self._backends[:turn] if backend not in failed]
        return min(rotated, key=lambda backend: (not backend.alive, backend.load))

    async def _first(self, ask: Callable[[TfServing, Budget], Awaitable[_T]], budget: Budget) -> _T:
        """Return the first answer; when nobody has one, raise the absence rather than the failure of another."""
        absent: ServableNotFoundError | None = None
        failure: GatewayError = ModelServerUnreachableError()
        order = sorted(self._backends, key=lambda backend: not backend.alive)
        for still, backend in zip(range(len(order), 0, -1), order, strict=True):
            part = Budget(self._clock() + budget.left() / still, self._clock)  # one that hangs leaves time for the next
            try:
                return await ask(backend.server, part)
            except ServableNotFoundError as error:
                absent = error
            except GatewayError as error:
                failure = error
        raise absent or failure


def _gravest(failures: Iterable[Exception]) -> Exception:
    """Choose what to say when every address failed: one that has no such version says nothing about the others."""
    return min(failures, key=lambda failure: isinstance(failure, ServableNotFoundError))


async def _back_off(round_: int, budget: Budget) -> None:
    """Wait for a full server.

    Raises:
        ModelServerBusyError: there is no time for that.
    """
    delay = _BACK_OFF * 2 ** min(round_, 5) * random.uniform(0.5, 1.5)  # noqa: S311
    if delay >= budget.left():
        raise ModelServerBusyError
    await asyncio.sleep(delay)
