"""Versions, states and labels of the model servers, by polling; each version's card is read once.

TensorFlow Serving has no call that lists its models, so the configured ones are polled by name. Its health service
is static, so GetModelStatus is what shows which versions can answer.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import structlog

from dermserve.contract import CardError, parse_card
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import (
    BudgetSpentError,
    GatewayError,
    InvalidCardError,
    InvalidModelOutputError,
    ModelServerBusyError,
    ModelServerFailedError,
    UnknownModelError,
)
from dermserve.gateway.model_servers import ModelServers
from dermserve.gateway.tfserving import ServableNotFoundError
from dermserve.imaging import STANDARD_VIEWS
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import card_pb2, classifier_pb2

_log = structlog.get_logger(__name__)

_TOLERATED_FAILURES = 2
"""Polls in a row that may fail before a model counts as unreachable: one that is late is no outage."""
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
        """Whether a model server can answer with it."""
        return self.state == classifier_pb2.VERSION_STATE_AVAILABLE

    @property
    def ready(self) -> bool:
        """Whether we can, too."""
        return self.available and self.card is not None


@dataclass(frozen=True)
class KnownModel:
    """A model as last seen."""

    name: str
    versions: tuple[KnownVersion, ...] = ()
    """Newest first."""
    labels: Mapping[str, int] = field(default_factory=dict)
    """Configured labels that exist, and the versions they point at."""
    failures: int = _TOLERATED_FAILURES + 1
    """Polls in a row that went unanswered; a model never seen counts as unreachable."""

    @property
    def reachable(self) -> bool:
        """Whether a model server answers, or did a moment ago."""
        return self.failures <= _TOLERATED_FAILURES

    @functools.cached_property
    def available(self) -> tuple[KnownVersion, ...]:
        """Versions a model server can answer with, newest first."""
        return tuple(version for version in self.versions if version.available)

    @property
    def ready(self) -> bool:
        """Whether some version can answer here."""
        return any(version.ready for version in self.versions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often and how long the catalog asks, in seconds."""

    steady: float
    """Between polls while every model is ready."""
    waiting: float
    """Between polls while none is."""
    timeout: float
    """Of one call."""


class Catalog:
    """The configured models as last seen. Replaces whole values, so that a reader never meets half an update."""

    def __init__(
        self, servers: ModelServers, *, models: Sequence[str], labels: Sequence[str], pace: Pace, clock: Clock
    ) -> None:
        self.models: Mapping[str, KnownModel] = {name: KnownModel(name) for name in models}
        self.failed_polls = 0
        """Polls of a model that ended in an unexpected error."""
        self._servers = servers
        self._labels = labels
        self._pace = pace
        self._clock = clock
        self._cards: dict[tuple[str, int], card_pb2.Card | CardError] = {}
        self._reading: dict[tuple[str, int], asyncio.Task[card_pb2.Card]] = {}
        self._polling: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether every configured model can answer."""
        return all(model.ready for model in self.models.values())

    def find(self, name: str) -> KnownModel:
        """Return a configured model.

        Raises:
            UnknownModelError: there is none of that name.
        """
        if (known := self.models.get(name)) is None:
            raise UnknownModelError(name, self.models)
        return known

    def lacks(self, model: str, label: str | None) -> bool:
        """Whether a label is one that is polled, and did not exist at the last poll."""
        return label in self._labels and label not in self.find(model).labels

    async def follow(self, report: Callable[[bool], Awaitable[None]]) -> None:
        """Poll for ever, whatever fails; report after each poll whether every model is ready."""
        while True:
            try:
                await self.poll()
                await report(self.ready)
            except Exception:
                self.failed_polls += 1
                _log.exception("catalog_poll_failed")
            await asyncio.sleep(self._pause())

    async def poll(self) -> None:
        """Poll every model once; a call during a poll waits for that poll."""
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        await asyncio.shield(self._polling)

    async def card(self, model: str, version: int, *, budget: Budget) -> card_pb2.Card:
        """Return a card, read now unless it is known.

        Raises:
            InvalidCardError: the version's card can't be trusted.
            ServableNotFoundError: there is no such version.
            GatewayError: no model server can be asked.
        """
        known = self._cards.get((model, version))
        if isinstance(known, CardError):
            raise InvalidCardError(model, version, str(known))
        return known if known is not None else await self._read_once(model, version, budget=budget)

    def card_fault(self, model: str, version: int) -> CardError | None:
        """Return what is wrong with a card, as far as is known."""
        known = self._cards.get((model, version))
        return known if isinstance(known, CardError) else None

    def _pause(self) -> float:
        if self.ready and all(model.failures == 0 for model in self.models.values()):
            return self._pace.steady
        some = any(model.ready for model in self.models.values())
        return min(self._pace.steady, self._pace.waiting * (5 if some else 1))

    async def _poll(self) -> None:
        seen = await asyncio.gather(*(self._look_safely(model) for model in self.models.values()))
        for before, after in zip(self.models.values(), seen, strict=True):
            _log_change(before, after)
        self.models = {model.name: model for model in seen}

    async def _look_safely(self, model: KnownModel) -> KnownModel:
        """Poll a model; an unexpected error counts as a poll without an answer."""
        try:
            return await self._look(model)
        except Exception:
            self.failed_polls += 1
            _log.exception("catalog_poll_failed", model=model.name)
            return self._unanswered(model)

    async def _look(self, model: KnownModel) -> KnownModel:
        try:
            statuses = await self._servers.versions(model.name, budget=self._budget())
        except ServableNotFoundError:
            statuses = ()
        except ModelServerBusyError:
            return model  # full is not gone
        except GatewayError:
            return self._unanswered(model)
        versions = [KnownVersion(status.version, _state(status)) for status in statuses]
        self._keep_cards(model.name, {version.number for version in versions if version.available})
        known = tuple([await self._with_card(model.name, version) for version in versions])
        labels = await self._resolve_labels(model) if any(version.available for version in known) else {}
        return KnownModel(model.name, known, labels, failures=0)

    def _unanswered(self, model: KnownModel) -> KnownModel:
        failures = model.failures + 1
        if failures <= _TOLERATED_FAILURES:
            return replace(model, failures=failures)
        self._keep_cards(model.name, ())
        unknown = classifier_pb2.VERSION_STATE_UNSPECIFIED
        return KnownModel(model.name, tuple(KnownVersion(v.number, unknown) for v in model.versions), {}, failures)

    async def _with_card(self, model: str, version: KnownVersion) -> KnownVersion:
        """Read a card unless it is known; a card that was not valid is read again, as the fault may be gone."""
        if not version.available:
            return version
        known = self._cards.get((model, version.number))
        if isinstance(known, card_pb2.Card):
            return replace(version, card=known)
        try:
            return replace(version, card=await self._read_once(model, version.number, budget=self._budget()))
        except (GatewayError, ServableNotFoundError) as error:
            if known is None:
                _log.warning("card_not_read", model=model, version=version.number, fault=str(error))
            return version

    async def _read_once(self, model: str, version: int, *, budget: Budget) -> card_pb2.Card:
        """Read a card; concurrent calls for the same card share one read."""
        key = (model, version)
        if (task := self._reading.get(key)) is None:
            task = self._reading[key] = asyncio.create_task(self._read(model, version))
            task.add_done_callback(lambda done: self._finish_reading(key, done))
        try:
            async with asyncio.timeout(budget.require("reading the card")):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise BudgetSpentError("reading the card") from error

    async def _read(self, model: str, version: int) -> card_pb2.Card:
        try:
            card = parse_card(await self._servers.describe(model, version=version, budget=self._budget()))
            _require_usable(card)
        except CardError as error:
            fault = error
        except (InvalidModelOutputError, ModelServerFailedError):
            fault = CardError("its `describe` signature does not return one")
        else:
            self._cards[model, version] = card
            return card
        self._cards[model, version] = fault
        raise InvalidCardError(model, version, str(fault)) from fault

    def _finish_reading(self, key: tuple[str, int], task: asyncio.Task[card_pb2.Card]) -> None:
        del self._reading[key]
        if not task.cancelled():
            task.exception()  # retrieved, even if every caller has been cancelled

    def _keep_cards(self, model: str, versions: Collection[int]) -> None:
        """Drop the cards of a model's other versions: a number that comes back may be another model."""
        for key in [key for key in self._cards if key[0] == model and key[1] not in versions]:
            del self._cards[key]

    def _budget(self) -> Budget:
        return Budget(self._clock() + self._pace.timeout, self._clock)

    async def _resolve_labels(self, model: KnownModel) -> dict[str, int]:
        found = {label: await self._labelled(model, label) for label in self._labels}
        return {label: version for label, version in found.items() if version is not None}

    async def _labelled(self, model: KnownModel, label: str) -> int | None:
        try:
            return await self._servers.labelled(model.name, label=label, budget=self._budget())
        except ServableNotFoundError:
            return None
        except GatewayError:
            return model.labels.get(label)


def _require_usable(card: card_pb2.Card) -> None:
    """Refuse a valid card of a model whose views this gateway can't make."""
    if card.input.height != card.input.width:
        raise CardError(f"input is {card.input.height}×{card.input.width}; views need a square")
    if unknown := set(card.views) - set(STANDARD_VIEWS):
        raise CardError(f"views {sorted(unknown)} are not standard ones")


def _state(status: serving_pb2.ModelVersionStatus) -> classifier_pb2.VersionState:
    return _STATES.get(status.state, classifier_pb2.VERSION_STATE_UNSPECIFIED)


def _log_change(before: KnownModel, after: KnownModel) -> None:
    if (before.versions, before.labels, before.reachable) == (after.versions, after.labels, after.reachable):
        return
    states = {version.number: classifier_pb2.VersionState.Name(version.state) for version in after.versions}
    ready = [version.number for version in after.versions if version.ready]
    facts = {"reachable": after.reachable, "states": states, "ready": ready, "labels": dict(after.labels)}
    _log.info("model_state_changed", model=after.name, **facts)
