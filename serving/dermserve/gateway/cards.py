"""The cards of versions, each read once and checked for what this gateway relies on."""

import asyncio
from collections.abc import Collection
from typing import Protocol

from dermserve.contract import CardError, parse_card
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import (
    BudgetSpentError,
    InvalidCardError,
    InvalidModelOutputError,
    ModelServerFailedError,
)
from dermserve.imaging import STANDARD_VIEWS
from dermserve.v1 import card_pb2


class Describer(Protocol):
    """Reads a card's JSON from the model server; see TfServing.describe."""

    async def describe(self, model: str, *, version: int, budget: Budget) -> bytes:
        """Return the JSON of the card of one version."""
        ...


class Cards:
    """Cards by model and version. Many requests that miss the same card share one reading of it."""

    def __init__(self, describer: Describer, *, patience: float, clock: Clock) -> None:
        self._describer = describer
        self._patience = patience
        self._clock = clock
        self._known: dict[tuple[str, int], card_pb2.Card | CardError] = {}
        self._reading: dict[tuple[str, int], asyncio.Task[card_pb2.Card]] = {}

    def peek(self, model: str, version: int) -> card_pb2.Card | CardError | None:
        """Return what is known without asking: the card, what is wrong with it, or None."""
        return self._known.get((model, version))

    async def get(self, model: str, version: int, *, budget: Budget) -> card_pb2.Card:
        """Return a card, read now unless it is known.

        Raises:
            InvalidCardError: the version's card can't be trusted.
            ServableNotFoundError: there is no such version.
            GatewayError: the model server can't be asked.
        """
        known = self.peek(model, version)
        if isinstance(known, CardError):
            raise InvalidCardError(model, version, str(known))
        return known if known is not None else await self.read(model, version, budget=budget)

    async def read(self, model: str, version: int, *, budget: Budget) -> card_pb2.Card:
        """Read a card, whatever is known of it. Raises what `get` raises."""
        key = (model, version)
        if (task := self._reading.get(key)) is None:
            task = self._reading[key] = asyncio.create_task(self._read(model, version))
            task.add_done_callback(lambda done: self._finish(key, done))
        try:
            async with asyncio.timeout(budget.require("reading the card")):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise BudgetSpentError("reading the card") from error

    def keep(self, model: str, versions: Collection[int]) -> None:
        """Forget the cards of a model's other versions: a number that comes back may hold something else."""
        for key in [key for key in self._known if key[0] == model and key[1] not in versions]:
            del self._known[key]

    async def _read(self, model: str, version: int) -> card_pb2.Card:
        try:
            budget = Budget(self._clock() + self._patience, self._clock)
            card = parse_card(await self._describer.describe(model, version=version, budget=budget))
            _require_usable(card)
        except CardError as error:
            self._known[model, version] = error
            raise InvalidCardError(model, version, str(error)) from error
        except (InvalidModelOutputError, ModelServerFailedError) as error:
            fault = CardError("its `describe` signature does not return one")
            self._known[model, version] = fault
            raise InvalidCardError(model, version, str(fault)) from error
        self._known[model, version] = card
        return card

    def _finish(self, key: tuple[str, int], task: asyncio.Task[card_pb2.Card]) -> None:
        del self._reading[key]
        if not task.cancelled():
            task.exception()  # seen, even if everyone who waited has given up


def _require_usable(card: card_pb2.Card) -> None:
    """Refuse a valid card of a model whose views this gateway can't make."""
    if card.input.height != card.input.width:
        raise CardError(f"input is {card.input.height}×{card.input.width}; views need a square")
    if unknown := set(card.views) - set(STANDARD_VIEWS):
        raise CardError(f"views {sorted(unknown)} are not standard ones")
