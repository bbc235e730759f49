"""A request's way: decode → plan → predict → reduce → verdict → answer, one direction, within its budget."""

import asyncio
from dataclasses import dataclass

from dermserve.gateway.answer import write_answer
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.catalog import Catalog
from dermserve.gateway.check import check_scores
from dermserve.gateway.choose import Choice, absent, choose, find_model
from dermserve.gateway.decode import Decoder, Prepared
from dermserve.gateway.errors import BudgetSpentError, refusal
from dermserve.gateway.plan import plan_views, read_mode
from dermserve.gateway.reduce import reduce_views
from dermserve.gateway.target import Target, read_target
from dermserve.gateway.tfserving import Predictor, Scores, ServableNotFoundError
from dermserve.gateway.watch import Watch
from dermserve.imaging import PhotoError
from dermserve.v1 import card_pb2, classifier_pb2

_ATTEMPTS = 3
"""Versions may change while a request is on its way; one that named none starts again this often in all."""


class _MovedError(Exception):
    """The version that was to answer is gone, or the one that did wants other pixels: start again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Answers one request at a time, many of them at once."""

    catalog: Catalog
    decoder: Decoder
    predictor: Predictor
    clock: Clock

    async def classify(
        self, request: classifier_pb2.ClassifyRequest, *, budget: Budget
    ) -> classifier_pb2.ClassifyResponse:
        """Answer one request; `request_id` is left to the caller.

        Raises:
            GatewayError: what is wrong with the request, the photo, the model server or the time.
        """
        target, mode, watch = read_target(request.model), read_mode(request.tta), Watch(self.clock)
        try:
            async with asyncio.timeout(budget.require("on arrival")):
                return await self._settle(request.image, target=target, mode=mode, budget=budget, watch=watch)
        except TimeoutError as error:
            raise BudgetSpentError("on the way") from error
        except PhotoError as error:
            raise refusal(error) from error

    async def _settle(
        self, image: bytes, *, target: Target, mode: int, budget: Budget, watch: Watch
    ) -> classifier_pb2.ClassifyResponse:
        for _ in range(_ATTEMPTS):
            choice = await choose(target, catalog=self.catalog, budget=budget)
            try:
                return await self._attempt(image, choice=choice, mode=mode, budget=budget, watch=watch)
            except _MovedError:
                if target.version is not None:
                    break
                await self.catalog.poll()
        raise absent(target, find_model(self.catalog, target.model))

    async def _attempt(
        self, image: bytes, *, choice: Choice, mode: int, budget: Budget, watch: Watch
    ) -> classifier_pb2.ClassifyResponse:
        views = plan_views(mode, choice.card)
        prepared = await self._prepare(image, choice=choice, views=views, budget=budget, watch=watch)
        with watch.stage("predict"):
            scores = await self._predict(prepared, choice=choice, budget=budget)
            card = await self._card_of(scores, choice=choice, budget=budget)
        with watch.stage("reduce"):
            reduced = reduce_views(check_scores(scores, views=len(views), card=card))
            answer = write_answer(reduced, card=card)
        answer.model, answer.version, answer.views_asked = choice.target.model, scores.version, len(views)
        answer.timings.CopyFrom(watch.timings())
        return answer

    async def _prepare(
        self, image: bytes, *, choice: Choice, views: tuple[str, ...], budget: Budget, watch: Watch
    ) -> Prepared:
        with watch.stage("decode"):
            prepared = await self.decoder.prepare(image, spec=choice.card.input, views=views, budget=budget)
        watch.move("plan", prepared.plan_ms, out_of="decode")
        return prepared

    async def _predict(self, prepared: Prepared, *, choice: Choice, budget: Budget) -> Scores:
        try:
            return await self.predictor.predict(choice.target, views=prepared.views, budget=budget)
        except ServableNotFoundError as error:
            raise _MovedError from error

    async def _card_of(self, scores: Scores, *, choice: Choice, budget: Budget) -> card_pb2.Card:
        """Return the card of the version that answered, by which its answer is read."""
        if scores.version == choice.version:
            return choice.card
        try:
            card = await self.catalog.cards.get(choice.target.model, scores.version, budget=budget)
        except ServableNotFoundError as error:
            raise _MovedError from error
        if (card.input.height, card.input.width) != (choice.card.input.height, choice.card.input.width):
            raise _MovedError
        return card
