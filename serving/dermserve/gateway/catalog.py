"""What the model server has: versions, states and labels by polling, each version's card read once.

TensorFlow Serving has no call that lists its models, so the configured ones are asked for by name; its health service
is static, so GetModelStatus says what can answer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from dermserve.contract import CardError
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.cards import Cards
from dermserve.gateway.errors import GatewayError, ModelServerBusyError
from dermserve.gateway.tfserving import ServableNotFoundError
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import card_pb2, classifier_pb2

_log = structlog.get_logger(__name__)

_FORGIVEN = 2
"""Polls in a row that may fail before the model server counts as gone: one that is late is no outage."""
_AVAILABLE = classifier_pb2.VERSION_STATE_AVAILABLE
_STATES = {
    serving_pb2.ModelVersionStatus.STATE_START: classifier_pb2.VERSION_STATE_START,
    serving_pb2.ModelVersionStatus.STATE_LOADING: classifier_pb2.VERSION_STATE_LOADING,
    serving_pb2.ModelVersionStatus.STATE_AVAILABLE: classifier_pb2.VERSION_STATE_AVAILABLE,
    serving_pb2.ModelVersionStatus.STATE_UNLOADING: classifier_pb2.VERSION_STATE_UNLOADING,
    serving_pb2.ModelVersionStatus.STATE_END: classifier_pb2.VERSION_STATE_END,
}


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version as last seen."""

    number: int
    state: classifier_pb2.VersionState
    card: card_pb2.Card | None = None
    """None while it is not read, or when it is not valid."""

    @property
    def available(self) -> bool:
        """Whether the model server can answer with it."""
        return self.state == _AVAILABLE

    @property
    def ready(self) -> bool:
        """Whether we can, too."""
        return self.available and self.card is not None


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model as last seen."""

    name: str
    versions: tuple[KnownVersion, ...] = ()
    """Newest first."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Configured labels that exist, and the versions they point at."""
    failures: int = _FORGIVEN + 1
    """Polls in a row that went unanswered; a model never seen counts as gone."""

    @property
    def reachable(self) -> bool:
        """Whether the model server answers, or did a moment ago."""
        return self.failures <= _FORGIVEN

    @property
    def available(self) -> tuple[KnownVersion, ...]:
        """Versions the model server can answer with, newest first."""
        return tuple(version for version in self.versions if version.available)

    @property
    def ready(self) -> bool:
        """Whether some version can answer here."""
        return any(version.ready for version in self.versions)


class ModelServer(Protocol):
    """What the catalog asks of the model server; see TfServing."""

    async def versions(self, model: str, *, budget: Budget) -> Sequence[serving_pb2.ModelVersionStatus]:
        """List a model's versions, newest first."""
        ...

    async def labelled(self, model: str, *, label: str, budget: Budget) -> int:
        """Return the version a label points at."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often and how long the catalog asks, in seconds."""

    steady: float
    """Between polls while every model is ready."""
    waiting: float
    """Between polls while none is."""
    patience: float
    """For one call."""


class Catalog:
    """The configured models as last seen. Replaces whole values, so that a reader never meets half an update."""

    def __init__(
        self,
        server: ModelServer,
        cards: Cards,
        *,
        models: Sequence[str],
        labels: Sequence[str],
        pace: Pace,
        clock: Clock,
    ) -> None:
        self.models: Mapping[str, KnownModel] = {name: KnownModel(name) for name in models}
        self.cards = cards
        self._server = server
        self._labels = labels
        self._pace = pace
        self._clock = clock

    @property
    def ready(self) -> bool:
        """Whether every configured model can answer."""
        return all(model.ready for model in self.models.values())

    async def follow(self, report: Callable[[bool], Awaitable[None]]) -> None:
        """Poll for ever; report after each poll whether every model is ready."""
        while True:
            await self.poll()
            await report(self.ready)
            await asyncio.sleep(self._pause())

    async def poll(self) -> None:
        """Look at every model once. A model that can't be looked at does not keep the others from it."""
        seen = await asyncio.gather(*(self._look(model) for model in self.models.values()))
        for before, after in zip(self.models.values(), seen, strict=True):
            _log_change(before, after)
        self.models = {model.name: model for model in seen}

    def _pause(self) -> float:
        if self.ready and all(model.failures == 0 for model in self.models.values()):
            return self._pace.steady
        some = any(model.ready for model in self.models.values())
        return min(self._pace.steady, self._pace.waiting * (5 if some else 1))

    async def _look(self, model: KnownModel) -> KnownModel:
        try:
            statuses = await self._server.versions(model.name, budget=self._budget())
        except ServableNotFoundError:
            statuses = ()
        except ModelServerBusyError:
            return model  # full is not gone
        except GatewayError:
            return self._unanswered(model)
        self.cards.keep(model.name, {status.version for status in statuses if _state(status) == _AVAILABLE})
        versions = tuple([await self._version(model.name, status) for status in statuses])
        labels = await self._resolve(model) if any(version.available for version in versions) else {}
        return KnownModel(model.name, versions, labels, failures=0)

    def _unanswered(self, model: KnownModel) -> KnownModel:
        failures = model.failures + 1
        if failures <= _FORGIVEN:
            return KnownModel(model.name, model.versions, model.labels, failures)
        self.cards.keep(model.name, ())
        unknown = classifier_pb2.VERSION_STATE_UNSPECIFIED
        return KnownModel(model.name, tuple(KnownVersion(v.number, unknown) for v in model.versions), {}, failures)

    async def _version(self, model: str, status: serving_pb2.ModelVersionStatus) -> KnownVersion:
        state = _state(status)
        card = await self._card(model, status.version) if state == _AVAILABLE else None
        return KnownVersion(status.version, state, card)

    async def _card(self, model: str, version: int) -> card_pb2.Card | None:
        """Read a card unless it is known; one that was not valid is read again, should the fault have been passing."""
        known = self.cards.peek(model, version)
        if known is not None and not isinstance(known, CardError):
            return known
        try:
            return await self.cards.read(model, version, budget=self._budget())
        except (GatewayError, ServableNotFoundError) as error:
            if known is None:
                _log.warning("card not read", model=model, version=version, fault=str(error))
            return None

    def _budget(self) -> Budget:
        return Budget(self._clock() + self._pace.patience, self._clock)

    async def _resolve(self, model: KnownModel) -> dict[str, int]:
        found = {label: await self._labelled(model, label) for label in self._labels}
        return {label: version for label, version in found.items() if version is not None}

    async def _labelled(self, model: KnownModel, label: str) -> int | None:
        try:
            return await self._server.labelled(model.name, label=label, budget=self._budget())
        except ServableNotFoundError:
            return None
        except GatewayError:
            return model.labels.get(label)


def _state(status: serving_pb2.ModelVersionStatus) -> classifier_pb2.VersionState:
    return _STATES.get(status.state, classifier_pb2.VERSION_STATE_UNSPECIFIED)


def _log_change(before: KnownModel, after: KnownModel) -> None:
    if (before.versions, before.labels, before.reachable) == (after.versions, after.labels, after.reachable):
        return
    states = {version.number: classifier_pb2.VersionState.Name(version.state) for version in after.versions}
    ready = [version.number for version in after.versions if version.ready]
    _log.info(
        "model seen", model=after.name, reachable=after.reachable, states=states, ready=ready, labels=dict(after.labels)
    )
