"""Which version is to answer, and by which card the photo is prepared for it."""

from dataclasses import dataclass

from dermserve.gateway.budget import Budget
from dermserve.gateway.catalog import Catalog, KnownModel
from dermserve.gateway.errors import (
    GatewayError,
    ModelNotAvailableError,
    ModelServerUnreachableError,
    UnknownLabelError,
    UnknownModelError,
    UnknownVersionError,
)
from dermserve.gateway.target import Target
from dermserve.gateway.tfserving import ServableNotFoundError
from dermserve.v1 import card_pb2


@dataclass(frozen=True, slots=True)
class Choice:
    """What to ask the model server for."""

    target: Target
    """Names no version when the newest is wanted: the model server knows best which that is."""
    version: int
    """Version whose card it is, which may not be the one that answers."""
    card: card_pb2.Card


def find_model(catalog: Catalog, name: str) -> KnownModel:
    """Return a configured model.

    Raises:
        UnknownModelError: there is none of that name.
    """
    if (known := catalog.models.get(name)) is None:
        raise UnknownModelError(name, catalog.models)
    return known


async def choose(target: Target, *, catalog: Catalog, budget: Budget) -> Choice:
    """Choose what to ask for.

    Raises:
        GatewayError: the model, version or label does not exist or can't answer.
    """
    known = find_model(catalog, target.model)
    if not known.available:
        raise ModelNotAvailableError(target.model) if known.reachable else ModelServerUnreachableError()
    if target.version is None:
        return await _movable(target, known, catalog=catalog, budget=budget)
    try:
        card = await catalog.cards.get(target.model, target.version, budget=budget)
    except ServableNotFoundError as error:
        raise absent(target, known) from error
    return Choice(target, target.version, card)


def absent(target: Target, known: KnownModel) -> GatewayError:
    """Say what it means that the model server does not have a target."""
    if target.version is not None:
        return UnknownVersionError(target.model, target.version, [version.number for version in known.available])
    if target.label is not None and target.label not in known.labels:
        return UnknownLabelError(target.model, target.label, sorted(known.labels))
    return ModelNotAvailableError(target.model)


async def _movable(target: Target, known: KnownModel, *, catalog: Catalog, budget: Budget) -> Choice:
    """Choose for a label or for the newest version: which version answers is known only afterwards."""
    cards = {version.number: version.card for version in known.available if version.card is not None}
    newest = known.available[0].number
    if target.label is not None:
        number = known.labels.get(target.label, newest)
        return Choice(target, number, cards.get(number) or await catalog.cards.get(target.model, number, budget=budget))
    if newest in cards or not cards:
        return Choice(target, newest, cards.get(newest) or await catalog.cards.get(target.model, newest, budget=budget))
    # The newest version has no valid card and must not answer: the newest that has one is asked by its number.
    number = max(cards)
    return Choice(Target(target.model, version=number), number, cards[number])
