"""Select the model and version that answer: check the request, apply canary shares, find the card; compare the canary.

A share of the callers gets each model's canary: fixed, or from a file that is read anew when it changes. Requests for
both labels are counted by how they end, and the stable version is asked about a sample of the canary's answers.
"""

import asyncio
import hashlib
import pathlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import structlog
from numpy.typing import NDArray

from dermserve.gateway.batching import Batching, Part
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.catalog import Catalog, KnownModel
from dermserve.gateway.errors import (
    GatewayError,
    InvalidLabelError,
    InvalidVersionError,
    MissingModelError,
    ModelNotAvailableError,
    ModelServerUnreachableError,
    UnknownLabelError,
    UnknownVersionError,
)
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, Target
from dermserve.v1 import card_pb2

STABLE, CANARY = "stable", "canary"
_MAX_LABEL = 128
_COMPARING = 2
"""Comparisons at once: they use what requests leave."""
_TIMEOUT = 10.0
"""Seconds for one."""

_log = structlog.get_logger(__name__)


def read_target(model: str, *, version: int | None = None, label: str | None = None) -> Target:
    """Check a caller's choice.

    Raises:
        InvalidRequestError: no model, a version below 1, or a label empty or too long.
    """
    if not model:
        raise MissingModelError
    if version is not None and version < 1:
        raise InvalidVersionError(version)
    # TF Serving would send a longer label back in a header too large to arrive.
    if label is not None and not 0 < len(label) <= _MAX_LABEL:
        raise InvalidLabelError
    return Target(model, version, label)


def route(target: Target, *, share: float, caller: str, labels: Mapping[str, int]) -> Target:
    """Point a target that names neither version nor label at `canary` or `stable`, for each caller always the same.

    While the model server knows no canary, the target stays as it is: the newest version. With one, and no share, all
    get the stable version: a canary is usually the newest version, which these requests did not ask for.
    """
    if target.version is not None or target.label is not None or CANARY not in labels:
        return target
    digest = hashlib.sha256(f"{target.model}\0{caller}".encode()).digest()
    if int.from_bytes(digest[:8]) / 2**64 < share:  # spread evenly, and independently for each model
        return replace(target, label=CANARY)
    return replace(target, label=STABLE) if STABLE in labels else target


@dataclass(frozen=True, slots=True)
class Choice:
    """What to ask a model server for."""

    target: Target
    """Names no version when the newest is wanted: the model server knows best which that is."""
    version: int
    """Version whose card it is, which may not be the one that answers."""
    card: card_pb2.Card


async def choose(target: Target, *, catalog: Catalog, budget: Budget) -> Choice:
    """Choose what to ask for.

    Raises:
        GatewayError: the model, version or label does not exist or can't answer.
    """
    known = catalog.find(target.model)
    if not known.available:
        raise ModelNotAvailableError(target.model) if known.reachable else ModelServerUnreachableError()
    if target.version is None:
        return await _choose_movable(target, known, catalog=catalog, budget=budget)
    try:
        card = await catalog.card(target.model, target.version, budget=budget)
    except ServableNotFoundError as error:
        raise absent(target, known) from error
    return Choice(target, target.version, card)


def absent(target: Target, known: KnownModel) -> GatewayError:
    """Make the error for a target that no model server has."""
    if target.version is not None:
        return UnknownVersionError(target.model, target.version, [version.number for version in known.available])
    if target.label is not None and target.label not in known.labels:
        return UnknownLabelError(target.model, target.label, sorted(known.labels))
    return ModelNotAvailableError(target.model)


async def _choose_movable(target: Target, known: KnownModel, *, catalog: Catalog, budget: Budget) -> Choice:
    """Choose for a label or for the newest version: which version answers is known only afterwards."""
    cards = {version.number: version.card for version in known.available if version.card is not None}
    newest = known.available[0].number
    if target.label is None and newest not in cards and cards:
        # The newest version has no valid card and must not answer: the newest that has one is asked by its number.
        number = max(cards)
        return Choice(Target(target.model, version=number), number, cards[number])
    number = newest if target.label is None else known.labels.get(target.label, newest)
    return Choice(target, number, cards.get(number) or await catalog.card(target.model, number, budget=budget))


class Canary:
    """The share of callers that gets each model's canary, and how it does beside the stable version.

    Args:
        shares: by model; what applies without a file.
        file: TOML with a table `canary_shares`, as `dermserve model canary` writes it; absent: no shares.
        sample: share of the canary's answers that are compared.
        predictor: asks the stable version.
        catalog: has the cards, and the models whose shares are shown.
        metrics: shows what is in effect.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        shares: Mapping[str, float],
        file: pathlib.Path | None,
        *,
        sample: float,
        predictor: Batching,
        catalog: Catalog,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._file, self._seen = file, ""
        self._sample, self._due = sample, 0.0
        self._predictor, self._catalog, self._metrics, self._clock = predictor, catalog, metrics, clock
        self._running: set[asyncio.Task[None]] = set()
        self._use(shares)
        self._read()

    def route(self, target: Target, caller: str) -> Target:
        """Apply the share in effect; see the function of this name."""
        model = target.model
        return route(target, share=self._shares[model], caller=caller, labels=self._catalog.find(model).labels)

    async def follow(self, seconds: float) -> None:
        """Read the file every so many seconds, for ever; without one, do nothing."""
        while self._file is not None:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self._read)

    def _read(self) -> None:
        """Take the shares of a file that has changed; keep the former ones where it can't be understood."""
        seen = ""
        try:
            if self._file and self._file.exists():
                seen = "unreadable"
                seen = self._file.read_text("utf-8")
            if seen == self._seen:
                return
            shares = {model: float(share) for model, share in tomllib.loads(seen).get("canary_shares", {}).items()}
            if wrong := [model for model, share in shares.items() if not 0 <= share <= 1]:
                raise ValueError(f"the share of {wrong[0]} is not between 0 and 1")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            if seen != self._seen:
                _log.error("canary_file_not_read", file=str(self._file), fault=str(error))
        else:
            _log.info("canary_shares_read", file=str(self._file), shares=shares)
            self._use(shares)
        self._seen = seen

    def _use(self, shares: Mapping[str, float]) -> None:
        self._shares = {model: shares.get(model, 0.0) for model in self._catalog.models}
        for model, share in self._shares.items():
            self._metrics.canary_share(model).set(share)

    def sample(self, model: str, views: NDArray[np.uint8], scores: Scores, card: card_pb2.Card) -> None:
        """Compare an answer of the canary in the background, if it is in the sample and nobody waits for a slot."""
        self._due = min(1.0, self._due + self._sample)
        if self._due >= 1 and len(self._running) < _COMPARING and self._predictor.free_capacity(model) > 0:
            self._due = 0.0
            view = Part(views[:1], Budget(self._clock() + _TIMEOUT, self._clock))
            task = asyncio.create_task(self._compare(model, view, _top(scores, card)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Give up what is being compared."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _compare(self, model: str, view: Part, canary: str) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                scores = await self._predictor.predict(Target(model, label=STABLE), view)
                card = await self._catalog.card(model, scores.version, budget=view.budget)
                self._metrics.compared(model, "agreed" if _top(scores, card) == canary else "differed").inc()
        except (GatewayError, ServableNotFoundError, TimeoutError, LookupError):
            self._metrics.compared(model, "failed").inc()


def _top(scores: Scores, card: card_pb2.Card) -> str:
    """Name the most probable class of the first view, the photo as it is."""
    first = list(scores.probabilities[0])
    return card.classes[first.index(max(first))].code
