"""Classify one photo within its budget: admit → decode → plan → predict → reduce → verdict → answer."""

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from dermserve.gateway.admission import Admission, Place
from dermserve.gateway.answer import check_scores, write_answer
from dermserve.gateway.batching import Batching, Part
from dermserve.gateway.budget import Clock
from dermserve.gateway.canary import CANARY, Canary
from dermserve.gateway.catalog import Catalog, Choice, read_target
from dermserve.gateway.drift import Drift
from dermserve.gateway.errors import BudgetSpentError, GatewayError, refusal
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.photos import Photos, Prepared
from dermserve.gateway.plan import count_first, count_more, read_mode, weigh
from dermserve.gateway.rpc import Rpc
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, Target
from dermserve.gateway.tracing import Tracing
from dermserve.imaging import IDENTITY, STANDARD_VIEWS, PhotoError
from dermserve.v1 import card_pb2, classifier_pb2

_ATTEMPTS = 3
"""Attempts of a request without a version, as versions may change while it is in progress."""
_LONGEST_CALL = 0.15
"""Seconds: where several models share the model servers, views of a slower one go in several calls, so that a request
for another gets a slot in between."""
_RESERVE, _RESERVE_SHARE = 0.1, 0.1
"""Seconds, and share of the budget, that a later stage leaves: time to send the answer so far if it fails."""
_OVER = 0.05
"""Seconds of its budget with which a cancelled request counts as one that ran out of time: gRPC cancels those, too."""

_InHand: TypeAlias = tuple[Scores, card_pb2.Card, Prepared]


class _MovedError(Exception):
    """The version that was to answer is gone, or the one that did wants other pixels: start again."""


@dataclass(frozen=True, slots=True)
class PhotoRequest:
    """A ClassifyRequest in plain values, so that nothing holds its bytes a second time."""

    model: str
    version: int | None
    label: str | None
    tta: int
    include_rejected_classes: bool
    image: bytes


class Stopwatch:
    """Seconds of a request's stages, one after another, each in a span of its own."""

    def __init__(self, clock: Clock, tracing: Tracing) -> None:
        self.spent: dict[str, float] = {}
        """Seconds by stage."""
        self.stage = "on arrival"
        """The stage it is in, or was last."""
        self._clock = clock
        self._tracing = tracing
        self.begun = self._since = clock()
        self._span: contextlib.AbstractContextManager[object] | None = None

    def enter(self, stage: str) -> None:
        """End the stage it is in, and begin another."""
        self.leave()
        self.stage, self._since = stage, self._clock()
        self._span = self._tracing.span(stage)
        self._span.__enter__()

    def leave(self, error: BaseException | None = None) -> None:
        """End the stage it is in."""
        if self._span is not None:
            span, self._span = self._span, None
            self.spent[self.stage] = self.spent.get(self.stage, 0.0) + self._clock() - self._since
            span.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)

    def move(self, seconds: float, *, to: str, out_of: str) -> None:
        """Book time to a stage, and out of the one it was measured in."""
        self.spent[to] = self.spent.get(to, 0.0) + seconds
        self.spent[out_of] = max(0.0, self.spent.get(out_of, 0.0) - seconds)

    def timings(self) -> classifier_pb2.Timings:
        """Return what was measured until now."""
        spent = {f"{stage}_ms": self.spent.get(stage, 0.0) * 1e3 for stage in ("decode", "plan", "predict", "reduce")}
        return classifier_pb2.Timings(**spent, total_ms=(self._clock() - self.begun) * 1e3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Answers one photo at a time, many of them at once."""

    admission: Admission
    canary: Canary
    catalog: Catalog
    photos: Photos
    predictor: Batching
    metrics: Metrics
    drift: Drift | None
    """Records answers of versions whose card has a profile; None when metrics are off."""
    tracing: Tracing
    clock: Clock

    async def classify(self, photo: PhotoRequest, rpc: Rpc) -> classifier_pb2.ClassifyResponse:
        """Answer one request.

        Raises:
            GatewayError: what is wrong with the request, the photo, the model servers, the load or the time.
        """
        target = read_target(photo.model, version=photo.version, label=photo.label)
        mode = read_mode(photo.tta)
        self.catalog.find(target.model)
        left = rpc.budget.require("on arrival")
        # Refuses before any other work.
        admitted = self.admission.queues[rpc.method, target.model].enter(len(photo.image), rpc.budget)
        watch = Stopwatch(self.clock, self.tracing)
        request = _Request(self, photo, target, mode, rpc, watch)
        try:
            async with asyncio.timeout(left):
                watch.enter("admit")
                async with admitted as request.place:
                    answer = await request.answer()
        except BaseException as error:
            watch.leave(error)
            self._count(request, error)
            if isinstance(error, TimeoutError):
                raise BudgetSpentError(watch.stage) from error
            if isinstance(error, PhotoError):
                raise refusal(error) from error
            raise
        finally:
            for stage, seconds in watch.spent.items():
                self.metrics.stage(stage, target.model).observe(seconds)
        self._count(request, None)
        return answer

    def _count(self, request: "_Request", error: BaseException | None) -> None:
        """Count a request by the label that it was sent to, if how it ended says anything of the version there."""
        if request.routed is None or isinstance(error, PhotoError | MemoryError):
            return
        if isinstance(error, Exception | None) or request.rpc.budget.left() <= _OVER:
            seconds = self.clock() - request.watch.begun - request.watch.spent["admit"]
            self.metrics.routed(request.target.model, request.routed, failed=error is not None, seconds=seconds)


@dataclass(slots=True)
class _Request:
    """One admitted request."""

    line: Classifier
    photo: PhotoRequest
    target: Target
    mode: int
    rpc: Rpc
    watch: Stopwatch
    place: Place = field(init=False)
    routed: str | None = None
    """The label it was sent to, if it named neither version nor label."""
    asked: int = 0
    in_hand: _InHand | None = None
    """The answer so far, if later stages fail."""

    async def answer(self) -> classifier_pb2.ClassifyResponse:
        """Answer with all views that the plan asks for; with fewer when a later stage fails."""
        catalog = self.line.catalog
        try:
            for _ in range(_ATTEMPTS):
                routed = self.line.canary.route(self.target, self.rpc.caller)
                self.routed = None if routed is self.target else routed.label
                choice = await catalog.choose(routed, self.rpc.budget)
                try:
                    found = await self._attempt(choice)
                except _MovedError:
                    if self.target.version is not None or catalog.lacks(self.target.model, self.target.label):
                        break
                    await catalog.poll()
                    continue
                if self.routed == CANARY:
                    self.line.canary.sample(self.target.model, found[2].views, *found[:2])
                return self._write(*found)
            raise catalog.find(self.target.model).absent(self.target)
        except GatewayError:
            if self.in_hand is None:
                raise
            return self._write(*self.in_hand)

    async def _attempt(self, choice: Choice) -> _InHand:
        """Predict stage by stage, each pinned to the version that answered the first, until the plan has enough."""
        wanted, piece = count_first(self.mode, choice.card), self._piece()
        in_graph = 1 < wanted <= piece and tuple(choice.card.views) == STANDARD_VIEWS
        names = (IDENTITY,) if in_graph or wanted == 1 else tuple(choice.card.views[:wanted])
        self.watch.enter("decode")
        prepared = await self.line.photos.prepare(self.photo.image, spec=choice.card.input, views=names)
        self.place.prepared()
        part = Part(prepared.views[:piece], self.rpc.budget, STANDARD_VIEWS if in_graph else ())
        scores, card = await self._predict(choice, part)
        self.watch.move(prepared.plan_ms / 1e3, to="plan", out_of="decode")
        self.asked = wanted
        complete = scores.views == len(part)
        while complete:
            self.in_hand = (scores, card, prepared)
            if scores.views >= wanted and (wanted := count_more(self.mode, scores, card)) == scores.views:
                return self.in_hand
            self.asked = wanted
            until = min(wanted, scores.views + piece)
            further = await self._predict_more(scores, card, prepared, until)
            complete = scores.views + further.views == until
            scores = _joined(scores, further)
        return scores, card, prepared

    def _piece(self) -> int:
        """Count the views of one call."""
        whole, model = len(STANDARD_VIEWS), self.target.model
        if len(self.line.catalog.models) == 1 or self.line.predictor.costs.expect(model, whole) <= _LONGEST_CALL:
            return whole
        return max(1, int(_LONGEST_CALL / self.line.predictor.costs.expect(model, 1)))

    async def _predict(self, choice: Choice, part: Part) -> tuple[Scores, card_pb2.Card]:
        """Predict views; return checked scores and the card of the version that answered."""
        self.watch.enter("predict")
        try:
            scores, card = await self.line.predictor.predict(choice.target, part), choice.card
            if scores.version != choice.version:
                card = await self.line.catalog.card(self.target.model, scores.version, budget=self.rpc.budget)
        except ServableNotFoundError as error:
            raise _MovedError from error
        if (card.input.height, card.input.width) != (choice.card.input.height, choice.card.input.width):
            raise _MovedError
        return check_scores(scores, card=card), card

    async def _predict_more(self, seen: Scores, card: card_pb2.Card, prepared: Prepared, until: int) -> Scores:
        """Predict the card's next views at the version that answered, with time left to answer without them."""
        left = self.rpc.budget.require("before further views")
        budget = self.rpc.budget.within(left - min(_RESERVE, left * _RESERVE_SHARE))
        choice = Choice(Target(self.target.model, version=seen.version), seen.version, card)
        try:
            async with asyncio.timeout(budget.left()):
                views = prepared.views[seen.views : until]
                if until > len(prepared.views):
                    self.watch.enter("plan")
                    views = await self.line.photos.vary(prepared.views[0], card.views[seen.views : until])
                return (await self._predict(choice, Part(views, budget)))[0]
        except TimeoutError as error:
            raise BudgetSpentError("asking for further views") from error

    def _write(self, scores: Scores, card: card_pb2.Card, prepared: Prepared) -> classifier_pb2.ClassifyResponse:
        self.watch.enter("reduce")
        include = self.photo.include_rejected_classes
        answer = write_answer(scores, prepared.measures, card=card, include_rejected_classes=include)
        answer.request_id, answer.model, answer.version = self.rpc.request_id, self.target.model, scores.version
        answer.views_asked = self.asked
        self.watch.leave()
        answer.timings.CopyFrom(self.watch.timings())
        self.line.metrics.outcome(self.target.model, weigh(self.mode, scores, asked=self.asked, card=card))
        if self.line.drift and card.HasField("profile"):
            self.line.drift.note(
                self.target.model,
                scores.version,
                card=card,
                probabilities=scores.probabilities[0],
                measures=prepared.measures,
            )
        return answer


def _joined(seen: Scores, further: Scores) -> Scores:
    return replace(
        seen,
        views=seen.views + further.views,
        probabilities=[*seen.probabilities, *further.probabilities],
        ood_scores=[*seen.ood_scores, *further.ood_scores],
    )
