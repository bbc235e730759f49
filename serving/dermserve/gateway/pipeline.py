"""A request's way: admit → decode → plan → predict → reduce → verdict → answer, one direction, within its budget."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.admission import Admission
from dermserve.gateway.answer import check_scores, write_answer
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.canary import route
from dermserve.gateway.catalog import Catalog
from dermserve.gateway.choose import Choice, absent, choose, find_model
from dermserve.gateway.decode import Decoder, Prepared
from dermserve.gateway.drift import Drift
from dermserve.gateway.errors import BudgetSpentError, refusal
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.plan import plan_more, plan_views, read_mode, weigh
from dermserve.gateway.target import Target, read_target
from dermserve.gateway.tfserving import Predictor, Scores, ServableNotFoundError
from dermserve.gateway.tracing import Tracing
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

    admission: Admission
    canary_shares: Mapping[str, float]
    """By model; see `canary`."""
    catalog: Catalog
    decoder: Decoder
    predictor: Predictor
    metrics: Metrics
    drift: Drift | None
    """Takes note of answers by cards that have a profile; None where nobody asks for metrics."""
    tracing: Tracing
    clock: Clock

    async def classify(
        self, request: classifier_pb2.ClassifyRequest, *, method: str, caller: str, budget: Budget
    ) -> classifier_pb2.ClassifyResponse:
        """Answer one request to a method; `request_id` is left to the caller.

        Raises:
            GatewayError: what is wrong with the request, the photo, the model server, the load or the time.
        """
        target, mode = read_target(request.model), read_mode(request.tta)
        find_model(self.catalog, target.model)
        left = budget.require("on arrival")
        passage = self.admission.enter(method, target.model, budget=budget)  # refuses first, while nothing is spent
        watch = Watch(self.clock, tracing=self.tracing)
        job = _Job(self, request.image, target, mode, request.include_rejected_classes, caller, budget, watch)
        try:
            async with asyncio.timeout(left), contextlib.AsyncExitStack() as place:
                with watch.stage("admit"):
                    await place.enter_async_context(passage)
                return await job.settle()
        except TimeoutError as error:
            raise BudgetSpentError("on the way") from error
        except PhotoError as error:
            raise refusal(error) from error
        finally:
            for stage, milliseconds in watch.spent.items():
                self.metrics.stage(stage, target.model, milliseconds / 1e3)


@dataclass(frozen=True, slots=True)
class _Job:
    """One admitted request."""

    line: Pipeline
    image: bytes
    target: Target
    mode: int
    include_rejected_classes: bool
    caller: str
    budget: Budget
    watch: Watch

    async def settle(self) -> classifier_pb2.ClassifyResponse:
        for _ in range(_ATTEMPTS):
            choice = await choose(self._route(), catalog=self.line.catalog, budget=self.budget)
            try:
                return await self._attempt(choice)
            except _MovedError:
                if self.target.version is not None:
                    break
                await self.line.catalog.poll()
        raise absent(self.target, find_model(self.line.catalog, self.target.model))

    def _route(self) -> Target:
        labels = find_model(self.line.catalog, self.target.model).labels
        share = self.line.canary_shares.get(self.target.model, 0.0)
        return route(self.target, share=share, caller=self.caller, labels=labels)

    async def _attempt(self, choice: Choice) -> classifier_pb2.ClassifyResponse:
        plan = plan_views(self.mode, choice.card)
        prepared, asked = await self._prepare(choice, plan), len(plan)
        scores, card = await self._predict(prepared.views, choice=choice)
        while scores.views == asked and (more := plan_more(self.mode, scores, card)):
            asked += len(more)
            scores = await self._predict_more(scores, prepared, more, card=card)
        with self.watch.stage("reduce"):
            answer = write_answer(
                scores, prepared.measures, card=card, include_rejected_classes=self.include_rejected_classes
            )
        answer.model, answer.version, answer.views_asked = self.target.model, scores.version, asked
        answer.timings.CopyFrom(self.watch.timings())
        self._note(scores, prepared, asked=asked, card=card)
        return answer

    def _note(self, scores: Scores, prepared: Prepared, *, asked: int, card: card_pb2.Card) -> None:
        """Tell the metrics what only the pipeline knows of an answer."""
        self.line.metrics.outcome(self.target.model, weigh(self.mode, scores, asked=asked, card=card))
        if self.line.drift and card.HasField("profile"):
            self.line.drift.note(
                self.target.model,
                scores.version,
                card=card,
                probabilities=scores.probabilities[0].tolist(),
                measures=prepared.measures,
            )

    async def _prepare(self, choice: Choice, views: tuple[str, ...]) -> Prepared:
        with self.watch.stage("decode"):
            prepared = await self.line.decoder.prepare(
                self.image,
                spec=choice.card.input,
                views=views,
                budget=self.budget,
            )
        self.watch.move("plan", prepared.plan_ms, out_of="decode")
        return prepared

    async def _predict(self, views: NDArray[np.uint8], *, choice: Choice) -> tuple[Scores, card_pb2.Card]:
        """Ask for views; return sound scores and the card of the version that answered, by which they are read."""
        with self.watch.stage("predict"):
            try:
                scores = await self.line.predictor.predict(choice.target, views=views, budget=self.budget)
                card = await self._card_of(scores, choice)
            except ServableNotFoundError as error:
                raise _MovedError from error
        return check_scores(scores, card=card), card

    async def _card_of(self, scores: Scores, choice: Choice) -> card_pb2.Card:
        if scores.version == choice.version:
            return choice.card
        card = await self.line.catalog.cards.get(self.target.model, scores.version, budget=self.budget)
        if (card.input.height, card.input.width) != (choice.card.input.height, choice.card.input.width):
            raise _MovedError
        return card

    async def _predict_more(
        self, seen: Scores, prepared: Prepared, views: tuple[str, ...], *, card: card_pb2.Card
    ) -> Scores:
        """Ask the version that answered for further views. Without time for them those that were seen have to do."""
        pinned = Choice(Target(self.target.model, version=seen.version), seen.version, card)
        with self.watch.stage("plan"):
            more = await self.line.decoder.vary(prepared.views[0], views=views, budget=self.budget)
        try:
            further, _ = await self._predict(more, choice=pinned)
        except BudgetSpentError:
            if self.budget.left() <= 0:
                raise
            return seen
        return replace(
            seen,
            views=seen.views + further.views,
            probabilities=np.concatenate([seen.probabilities, further.probabilities]),
            ood_scores=np.concatenate([seen.ood_scores, further.ood_scores]),
        )
