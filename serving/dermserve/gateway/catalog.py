"""Poll the model servers for versions, states and labels, read each version's card, and choose which version answers.

TensorFlow Serving has no call that lists its models, so the configured ones are polled by name. Its health service
always answers the same, so only GetModelStatus shows which versions can answer.

The canary's share of the callers is in a file that is read again and again. Metrics count how requests for both labels
end, and the stable version classifies a sample of the canary's photos.
"""

import asyncio
import functools
import hashlib
import pathlib
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from dermserve.contract import CardError, parse_card
from dermserve.gateway import errors
from dermserve.gateway.batching import Batching, Part
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.config import Config
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.model_servers import AVAILABLE, ModelServers, State
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, Target
from dermserve.imaging import STANDARD_VIEWS
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import card_pb2, classifier_pb2

_log = structlog.get_logger(__name__)

STABLE, CANARY = "stable", "canary"
_MAX_LABEL = 128
_NONE_READY_SECONDS = 0.1  # between polls while no model is ready
# A model counts as unreachable after so many failed polls in a row: a single late one is no outage
_TOLERATED_FAILURES = 2
_COMPARING = 2  # comparisons of canary and stable version at once: they only use free slots
_COMPARING_SECONDS = 10.0  # seconds for a comparison
_UNKNOWN = classifier_pb2.VERSION_STATE_UNSPECIFIED
_STATES: Mapping[int, Any] = {
    state: classifier_pb2.VersionState.Value(f"VERSION_{name}")
    for name, state in serving_pb2.ModelVersionStatus.State.items()
}


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version at the last poll."""

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
    """A model at the last poll."""

    name: str
    versions: tuple[KnownVersion, ...] = ()  # newest first
    # `stable` and `canary`, where they exist, and the versions they point to; callers may ask for others
    labels: Mapping[str, int] = field(default_factory=dict)
    # Failed polls in a row; a model that was never seen counts as unreachable
    failures: int = _TOLERATED_FAILURES + 1

    @property
    def reachable(self) -> bool:
        """Whether a model server answered one of the last polls."""
        return self.failures <= _TOLERATED_FAILURES

    @functools.cached_property
    def available(self) -> tuple[KnownVersion, ...]:
        """The AVAILABLE versions, newest first."""
        return tuple(version for version in self.versions if version.available)

    @property
    def ready(self) -> bool:
        """Whether the gateway can answer with some version."""
        return any(version.ready for version in self.versions)

    def find(self, number: int) -> KnownVersion | None:
        """Return a version, if the last poll saw it."""
        return next((version for version in self.versions if version.number == number), None)

    def lacks(self, label: str | None) -> bool:
        """Whether this is one of the labels that are polled, and did not exist at the last poll."""
        return label in (STABLE, CANARY) and label not in self.labels

    def absent(self, target: Target) -> errors.GatewayError:
        """Make the error for a version or label of this model that does not exist on any model server."""
        name, known = errors.shown(self.name), errors.listed(version.number for version in self.available)
        if target.version is not None:
            text = f"version {target.version} of {name} is not available: there is {known}"
            return errors.GatewayError("VERSION_NOT_FOUND", text)
        if target.label is not None and target.label not in self.labels:
            label, known = errors.shown(target.label), errors.listed(sorted(self.labels))
            text = f"label {label} of {name} does not exist: there is {known}"
            return errors.GatewayError("LABEL_NOT_FOUND", text)
        text = f"no version of {name} is available at the moment: try again, or another model"
        return errors.GatewayError("MODEL_NOT_AVAILABLE", text)


class Choice(NamedTuple):
    """What to request from a model server."""

    target: Target  # without a version for the newest one: the model server chooses it
    version: int  # whose card this is; another version may answer
    card: card_pb2.Card


def check_target(target: Target) -> Target:
    """Check a caller's choice.

    Raises:
        GatewayError: no model, a version below 1, or a label empty or too long.
    """
    if not target.model:
        raise errors.GatewayError("MODEL_REQUIRED", "no model named: set model.name; ListModels says which there are")
    if target.version is not None and target.version < 1:
        text = f"version {target.version} can't exist, versions start at 1: leave it out for the latest"
        raise errors.GatewayError("INVALID_VERSION", text)
    # TensorFlow Serving repeats the label in a header, which would be too large with a longer one.
    if target.label is not None and not 0 < len(target.label) <= _MAX_LABEL:
        text = f'a label has 1 to {_MAX_LABEL} characters, for example "stable": leave it out for the latest version'
        raise errors.GatewayError("INVALID_LABEL", text)
    return target


class Catalog:
    """The configured models at the last poll. Values are replaced as a whole, so a reader never sees half an update."""

    def __init__(self, servers: ModelServers, config: Config) -> None:
        self.models: Mapping[str, KnownModel] = {name: KnownModel(name) for name in config.models}
        self.failed_polls = 0  # polls of a model that ended in an unexpected error
        self._servers = servers
        self._seconds, self._timeout = config.poll_seconds, config.poll_timeout_seconds
        self._polling: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether every configured model can answer."""
        return all(model.ready for model in self.models.values())

    def find(self, name: str) -> KnownModel:
        """Return a configured model.

        Raises:
            GatewayError: no configured model has that name.
        """
        if (known := self.models.get(name)) is None:
            text = f"model {errors.shown(name)} is not served here: there is {errors.listed(self.models)}"
            raise errors.GatewayError("MODEL_NOT_FOUND", text)
        return known

    async def choose(self, target: Target) -> Choice:
        """Choose what to request. For a label or the newest version, the answer shows which version it was.

        Raises:
            ServableNotFoundError: no model server has the version any longer.
            GatewayError: the model, version or label does not exist or can't answer.
        """
        known = self.find(target.model)
        if not known.available:
            raise known.absent(Target(target.model)) if known.reachable else errors.ModelServerUnreachableError()
        number = known.available[0].number
        if target.version is not None:
            number = target.version
        elif target.label is not None:
            number = known.labels.get(target.label, number)
        elif not known.available[0].ready and known.ready:
            # The newest version has no valid card and must not answer: request the newest that has one, by its number.
            number = next(version.number for version in known.available if version.ready)
            target = Target(target.model, version=number)
        return Choice(target, number, await self.card(target.model, number))

    async def card(self, model: str, number: int) -> card_pb2.Card:
        """Return a version's card, after a poll if the last one did not see it.

        Raises:
            ServableNotFoundError: there is no such version.
            GatewayError: the version's card can't be trusted, or no model server can be asked.
        """
        version = None
        for polls in range(2):  # it may be newer than the last poll
            if polls:
                await self.poll()
            version = self.models[model].find(number)
            if version and version.card:
                return version.card
            if version and version.invalid:
                name, fault = errors.shown(model), version.fault
                text = f"version {number} of {name} has no valid card ({fault}): choose another version"
                raise errors.GatewayError("INVALID_CARD", text)
        if version and version.available:
            raise self.models[model].absent(Target(model))
        raise ServableNotFoundError(f"there is no version {number} of {model}")

    async def _read(self, model: str, version: int) -> card_pb2.Card:
        try:
            card = parse_card(await self._servers.describe(model, version=version, seconds=self._timeout))
            if card.input.height != card.input.width:
                raise CardError(f"input is {card.input.height}×{card.input.width}; views need a square")
            if unknown := set(card.views) - set(STANDARD_VIEWS):
                raise CardError(f"views {sorted(unknown)} are not standard ones")
        except (errors.InvalidModelOutputError, errors.ModelServerFailedError) as error:
            raise CardError("its `describe` signature does not return one") from error
        return card

    async def follow(self, report: Callable[[bool], Awaitable[None]]) -> None:
        """Poll until cancelled, whatever fails; report after each poll whether every model is ready."""
        while True:
            try:
                await self.poll()
                await report(self.ready)
            except Exception:
                self.failed_polls += 1
                _log.exception("catalog_poll_failed")
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        models = self.models.values()
        if not any(model.ready for model in models):
            return min(self._seconds, _NONE_READY_SECONDS)
        return self._seconds if self.ready and not any(model.failures for model in models) else min(self._seconds, 0.5)

    async def poll(self) -> None:
        """Poll every model once; a call during a poll waits for that poll."""
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        await asyncio.shield(self._polling)

    async def _poll(self) -> None:
        seen = await asyncio.gather(*map(self._look, self.models.values()))
        for before, after in zip(self.models.values(), seen, strict=True):
            if replace(before, failures=0) != replace(after, failures=0) or before.reachable != after.reachable:
                states = {each.number: classifier_pb2.VersionState.Name(each.state) for each in after.versions}
                ready = [version.number for version in after.versions if version.ready]
                facts = {"reachable": after.reachable, "states": states, "ready": ready, "labels": dict(after.labels)}
                _log.info("model_state_changed", model=after.name, **facts)
        self.models = {model.name: model for model in seen}

    async def _look(self, before: KnownModel) -> KnownModel:
        """Poll a model; an unexpected error counts as a failed poll."""
        try:
            states = await self._servers.versions(before.name, seconds=self._timeout)
            versions = [await self._see(before, number, state) for number, state in states.items()]
            labels = await self._resolve_labels(before) if AVAILABLE in states.values() else {}
            return KnownModel(before.name, tuple(versions), labels, failures=0)
        except errors.GatewayError:
            pass
        except Exception:
            self.failed_polls += 1
            _log.exception("catalog_poll_failed", model=before.name)
        if before.failures < _TOLERATED_FAILURES:
            return replace(before, failures=before.failures + 1)
        return KnownModel(before.name, tuple(KnownVersion(version.number, _UNKNOWN) for version in before.versions))

    async def _see(self, before: KnownModel, number: int, state: State) -> KnownVersion:
        """Describe a version. A card is kept while polls find the version available: later it may be another one."""
        version, known = KnownVersion(number, _STATES.get(state, _UNKNOWN)), before.find(number)
        if not version.available:
            return version
        if known and known.ready:
            return known
        try:
            return replace(version, card=await self._read(before.name, number))
        except (errors.GatewayError, ServableNotFoundError, CardError) as error:
            if not known or known.fault != str(error):
                _log.warning("card_not_read", model=before.name, version=number, fault=str(error))
            return replace(version, fault=str(error), invalid=isinstance(error, CardError))

    async def _resolve_labels(self, before: KnownModel) -> dict[str, int]:
        found = {}
        for label in (STABLE, CANARY):
            try:
                found[label] = await self._servers.labelled(before.name, label=label, seconds=self._timeout)
            except ServableNotFoundError:
                pass
            except errors.GatewayError:
                if label in before.labels:
                    found[label] = before.labels[label]
        return found


def route(target: Target, *, share: float, caller: str, labels: Mapping[str, int]) -> Target:
    """Send a target without version or label to `canary` or `stable`, always the same one for each caller.

    While the model server knows no canary, the target stays as it is: the newest version. With a canary but no share,
    all get the stable version, because the canary is usually the newest one.
    """
    if target.version is not None or target.label is not None or CANARY not in labels:
        return target
    digest = hashlib.sha256(f"{target.model}\0{caller}".encode()).digest()
    if int.from_bytes(digest[:8]) / 2**64 < share:  # spread evenly, and independently for each model
        return target._replace(label=CANARY)
    return target._replace(label=STABLE) if STABLE in labels else target


class Canary:
    """The share of callers that each model's canary serves, and its comparison with the stable version."""

    def __init__(
        self, config: Config, *, predictor: Batching, catalog: Catalog, metrics: Metrics, clock: Clock
    ) -> None:
        self._file, self._fault = config.canary_file, ""
        self._sample, self._due = config.canary_sample, 0.0
        self._predictor, self._catalog, self._metrics, self._clock = predictor, catalog, metrics, clock
        self._running: set[asyncio.Task[None]] = set()
        self._use({})
        if self._file is not None:
            self._read(self._file)

    def _use(self, shares: Mapping[str, float]) -> None:
        self._shares = {model: shares.get(model, 0.0) for model in self._catalog.models}
        for model, share in self._shares.items():
            self._metrics.canary_share(model).set(share)

    async def follow(self, seconds: float) -> None:
        """Read the file every so many seconds, for ever; without one, do nothing."""
        while self._file is not None:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self._read, self._file)

    def _read(self, file: pathlib.Path) -> None:
        """Use the shares in the file; if it is not valid, keep the former ones."""
        try:
            found = tomllib.loads(file.read_text("utf-8"))["canary_shares"] if file.exists() else {}
            shares = {model: float(share) for model, share in found.items()}
            if wrong := [model for model, share in shares.items() if not 0 <= share <= 1]:
                raise ValueError(f"the share of {wrong[0]} is not between 0 and 1")
        except Exception as error:  # whatever the file has in it
            if repr(error) != self._fault:
                self._fault = repr(error)
                _log.error("canary_file_not_read", file=str(file), fault=self._fault)
            return
        self._fault, former = "", self._shares
        self._use(shares)
        if self._shares != former:
            _log.info("canary_shares_read", file=str(file), shares=self._shares)

    def route(self, target: Target, caller: str) -> Target:
        """Apply the share in effect; see the function of this name."""
        labels = self._catalog.models[target.model].labels
        return route(target, share=self._shares[target.model], caller=caller, labels=labels)

    def sample(self, model: str, pixels: NDArray[np.uint8], scores: Scores, card: card_pb2.Card) -> None:
        """Compare an answer of the canary in the background, if it is in the sample and no request waits for a slot."""
        self._due = min(1.0, self._due + self._sample)
        if self._due >= 1 and len(self._running) < _COMPARING and self._predictor.free_capacity(model) > 0:
            self._due = 0.0
            view = Part(pixels[np.newaxis], Budget(self._clock() + _COMPARING_SECONDS, self._clock))
            task = asyncio.create_task(self._compare(model, view, _top(scores, card)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Cancel the comparisons that run."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _compare(self, model: str, view: Part, canary: str) -> None:
        try:
            async with asyncio.timeout(_COMPARING_SECONDS):
                scores = await self._predictor.predict(Target(model, label=STABLE), view)
                card = await self._catalog.card(model, scores.version)
                self._metrics.compared(model, "agreed" if _top(scores, card) == canary else "differed").inc()
        except (errors.GatewayError, TimeoutError, LookupError):
            self._metrics.compared(model, "failed").inc()


def _top(scores: Scores, card: card_pb2.Card) -> str:
    """Name the most probable class of the first view, the photo as it is."""
    first = list(scores.probabilities[0])
    return card.classes[first.index(max(first))].code
