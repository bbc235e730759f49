"""Select the model and version that answer: check the request, apply canary shares, find the card."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dermserve.gateway.budget import Budget
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
from dermserve.gateway.tfserving import ServableNotFoundError, Target
from dermserve.v1 import card_pb2

STABLE, CANARY = "stable", "canary"
_MAX_LABEL = 128


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
    if _draw(target.model, caller) < share:
        return replace(target, label=CANARY)
    return replace(target, label=STABLE) if STABLE in labels else target


def _draw(model: str, caller: str) -> float:
    """Give each caller a fixed number in [0, 1), spread evenly and independently for each model."""
    digest = hashlib.sha256(f"{model}\0{caller}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


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
