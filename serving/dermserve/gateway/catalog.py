"""Poll the model servers for versions, states and labels, read each version's card, and choose which version answers.

TensorFlow Serving has no call that lists its models, so the configured ones are polled by name. Its health service
always answers the same, so only GetModelStatus shows which versions can answer.

The canary's share of the callers is in a file that is read again and again. Metrics count how requests for both labels
end, and the stable version classifies a sample of the canary's photos.
"""

import asyncio
import hashlib
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from dermserve.contract import CardError, parse_card
from dermserve.gateway import errors
from dermserve.gateway.background import Background
from dermserve.gateway.batching import Batching, Part
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.config import Config
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.model_servers import KnownModel, KnownVersion, ModelServer, ModelServers
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, Target
from dermserve.imaging import STANDARD_VIEWS
from dermserve.tfserving.v1 import serving_pb2
from dermserve.v1 import card_pb2, classifier_pb2

_log = structlog.get_logger(__name__)

STABLE, CANARY = "stable", "canary"
_MAX_LABEL = 128
_SOON_SECONDS = 0.25  # between polls while a model is not ready, or no model server answers
_PATIENCE = 0.2  # seconds to wait for all model servers in a poll; later answers count in the next poll
_COMPARING = 2  # comparisons of canary and stable version at once: they only use free slots
_COMPARING_SECONDS = 10.0  # seconds for a comparison
# Of a model's input: photos are measured in areas of 4×4 pixels, and each request takes the memory of ten views.
_LEAST_SIDE, _MOST_SIDE = 4, 1024
_UNKNOWN = classifier_pb2.VERSION_STATE_UNSPECIFIED
_STATES: Mapping[int, Any] = {
    state: classifier_pb2.VersionState.Value(f"VERSION_{name}")
    for name, state in serving_pb2.ModelVersionStatus.State.items()
}


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

    def choose(self, target: Target) -> Choice:
        """Choose what to request. For a label or the newest version, the answer shows which version it was.

        Raises:
            ServableNotFoundError: the last poll did not see the version.
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
        return Choice(target, number, self.card(target.model, number))

    def card(self, model: str, number: int) -> card_pb2.Card:
        """Return a version's card.

        Raises:
            ServableNotFoundError: the last poll did not see the version, or its card could not be read yet.
            GatewayError: the version has no valid card.
        """
        version = self.models[model].find(number)
        if version and version.invalid:
            text = f"version {number} of {errors.shown(model)} has no valid card ({version.fault}): choose another"
            raise errors.GatewayError("INVALID_CARD", text)
        if not (version and version.card):
            raise ServableNotFoundError(f"there is no version {number} of {model}")
        return version.card

    def pause(self) -> float:
        """Return the seconds until the next poll."""
        fine = self.ready and not all(server.fault for server in self._servers.all)
        return self._seconds if fine else min(self._seconds, _SOON_SECONDS)

    async def poll(self) -> None:
        """Poll every model server, and wait a little for all, and for one at least.

        Of those that are late, the last answers count. Polls at the same time share what they wait for.
        """
        if looks := self._servers.look(self._look):
            done, _ = await asyncio.wait(looks, timeout=_PATIENCE)
            if not done:
                await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
        seen = [server.models for server in self._servers.all if server.models]
        models = {name: merge(name, [each[name] for each in seen]) for name in self.models}
        for model in models.values():
            if model != self.models[model.name]:
                states = {each.number: classifier_pb2.VersionState.Name(each.state) for each in model.versions}
                ready = [version.number for version in model.versions if version.ready]
                facts = {"reachable": model.reachable, "states": states, "ready": ready, "labels": dict(model.labels)}
                _log.info("model_state_changed", model=model.name, **facts)
                if model.unusable:
                    _log.error("model_unusable", model=model.name, faults=model.unusable)
        self.models = models

    async def _look(self, server: ModelServer) -> None:
        """Read what a model server has, and note whether it answers."""
        fault: Exception | None = None
        try:
            server.models = {name: await self._read_model(server, name) for name in self.models}
        except errors.ModelServerBusyError:
            pass  # a full server is not gone: its last answer counts
        except Exception as error:
            fault = error
            if not isinstance(error, errors.GatewayError):
                self.failed_polls += 1
                _log.exception("catalog_poll_failed", address=server.address)
        self._servers.note_look(server, fault)

    async def _read_model(self, server: ModelServer, name: str) -> KnownModel:
        try:
            statuses = await server.wire.versions(name, seconds=self._timeout)
        except ServableNotFoundError:
            return KnownModel(name, reachable=True)
        states = [(status.version, _STATES.get(status.state, _UNKNOWN)) for status in statuses]
        versions = [await self._see(server, name, number, state) for number, state in states]
        if not any(version.available for version in versions):
            return KnownModel(name, tuple(versions), reachable=True)
        labels = dict(self.models[name].labels)  # of every server: they are set on one after the other
        for label in (STABLE, CANARY):
            try:
                labels[label] = await server.wire.labelled(name, label=label, seconds=self._timeout)
            except ServableNotFoundError:
                labels.pop(label, None)
            except errors.GatewayError:
                pass  # it points where it did before
        return KnownModel(name, tuple(versions), labels, reachable=True)

    async def _see(self, server: ModelServer, name: str, number: int, state: Any) -> KnownVersion:
        """Read a version's card. It is kept while polls find the version available: later it may be another one."""
        version, known = KnownVersion(number, state), self.models[name].find(number)
        if not version.available:
            return version
        if known and known.ready:
            return known
        try:
            return replace(version, card=await self._read_card(server, name, number))
        except (errors.GatewayError, ServableNotFoundError, CardError) as error:
            if not known or known.fault != str(error):
                _log.warning("card_not_read", model=name, version=number, fault=str(error))
            return replace(version, fault=str(error), invalid=isinstance(error, CardError))

    async def _read_card(self, server: ModelServer, name: str, number: int) -> card_pb2.Card:
        try:
            card = parse_card(await server.wire.describe(name, version=number, seconds=self._timeout))
        except (errors.InvalidModelOutputError, errors.ModelServerFailedError) as error:
            raise CardError("its `describe` signature does not return one") from error
        if not _LEAST_SIDE <= card.input.height == card.input.width <= _MOST_SIDE:
            sides = f"{_LEAST_SIDE} to {_MOST_SIDE} pixels"
            raise CardError(f"input is {card.input.height}×{card.input.width}; views need a square of {sides}")
        if unknown := set(card.views) - set(STANDARD_VIEWS):
            raise CardError(f"views {sorted(unknown)} are not standard ones")
        return card


def merge(name: str, seen: Sequence[KnownModel]) -> KnownModel:
    """Put together what model servers have of a model. A version is available if it is on any of them."""
    every = [version for model in seen for version in model.versions]
    best = {each.number: each for each in sorted(every, key=lambda each: (each.number, each.available, each.ready))}
    labels = {label: number for model in reversed(seen) for label, number in model.labels.items()}
    return KnownModel(name, tuple(reversed(best.values())), labels, reachable=bool(seen))


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
        self._comparisons = Background()
        self._use({})

    def _use(self, shares: Mapping[str, float]) -> None:
        self._shares = {model: shares.get(model, 0.0) for model in self._catalog.models}
        for model, share in self._shares.items():
            self._metrics.canary_share(model).set(share)

    async def read(self) -> None:
        """Read the file, if there is one."""
        if self._file is not None:
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
        """Apply the share in effect, if the canary can answer; see the function of this name."""
        known = self._catalog.models[target.model]
        canary = known.find(known.labels.get(CANARY, 0))
        share = self._shares[target.model] if canary and canary.ready else 0.0
        return route(target, share=share, caller=caller, labels=known.labels)

    def sample(self, model: str, pixels: NDArray[np.uint8], scores: Scores, card: card_pb2.Card) -> None:
        """Compare an answer of the canary in the background, if it is in the sample and no request waits for a slot."""
        self._due = min(1.0, self._due + self._sample)
        if self._due >= 1 and len(self._comparisons) < _COMPARING and self._predictor.free_capacity(model) > 0:
            self._due = 0.0
            view = Part(pixels[np.newaxis], Budget(self._clock() + _COMPARING_SECONDS, self._clock))
            self._comparisons.start(self._compare(model, view, _top(scores, card)))

    async def close(self) -> None:
        """Cancel the comparisons that run."""
        await self._comparisons.close()

    async def _compare(self, model: str, view: Part, canary: str) -> None:
        try:
            scores = await self._predictor.predict(Target(model, label=STABLE), view)
            card = self._catalog.card(model, scores.version)
            self._metrics.compared(model, "agreed" if _top(scores, card) == canary else "differed").inc()
        except (errors.GatewayError, LookupError):
            self._metrics.compared(model, "failed").inc()


def _top(scores: Scores, card: card_pb2.Card) -> str:
    """Name the most probable class of the first view, the photo as it is."""
    first = list(scores.probabilities[0])
    return card.classes[first.index(max(first))].code
