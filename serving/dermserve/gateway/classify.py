"""Classify one photo within its budget: admit → decode → plan → predict → reduce → verdict → answer."""

import asyncio
import contextlib
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.admission import Admission, Admitted
from dermserve.gateway.answer import check_scores, write_answer
from dermserve.gateway.batching import Batching, Part
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.canary import Comparison, Routed, Shares
from dermserve.gateway.catalog import Catalog
from dermserve.gateway.drift import Drift
from dermserve.gateway.errors import BudgetSpentError, GatewayError, refusal
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.photos import Photos, Prepared
from dermserve.gateway.plan import count_first, count_more, read_mode, weigh
from dermserve.gateway.rpc import Rpc
from dermserve.gateway.selection import Choice, absent, choose, read_target, route
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


class Watch:
    """Adds up the seconds of stages, one at a time, and opens a span for each."""

    def __init__(self, clock: Clock, tracing: Tracing) -> None:
        self.spent: dict[str, float] = {}
        """Seconds by stage."""
        self.stage = "on arrival"
        """The stage it is in, or was last."""
        self._clock = clock
        self._tracing = tracing
        self._begun = clock()
        self._since = 0.0
        self._span: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    def __call__(self, stage: str) -> "Watch":
        """Name the stage that `with` times."""
        self.stage = stage
        return self

    def __enter__(self) -> None:
        """Begin the stage."""
        self._span = self._tracing.span(self.stage)
        self._span.__enter__()
        self._since = self._clock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.spent[self.stage] = self.spent.get(self.stage, 0.0) + self._clock() - self._since
        self._span.__exit__(kind, error, trace)

    def move(self, seconds: float, *, to: str, out_of: str) -> None:
        """Book time to a stage, and out of the one it was measured in."""
        self.spent[to] = self.spent.get(to, 0.0) + seconds
        self.spent[out_of] = max(0.0, self.spent.get(out_of, 0.0) - seconds)

    def timings(self) -> classifier_pb2.Timings:
        """Return what was measured until now."""
        spent = {f"{stage}_ms": self.spent.get(stage, 0.0) * 1e3 for stage in ("decode", "plan", "predict", "reduce")}
        return classifier_pb2.Timings(**spent, total_ms=(self._clock() - self._begun) * 1e3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Answers one photo at a time, many of them at once."""

    admission: Admission
    shares: Shares
    comparison: Comparison
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
        left, size = rpc.budget.require("on arrival"), len(photo.image)
        # Refuses before any other work.
        place = self.admission.enter(rpc.method, target.model, size=size, budget=rpc.budget)
        watch = Watch(self.clock, self.tracing)
        request = _Request(
            self, photo.image, target, mode, photo.include_rejected_classes, rpc, rpc.budget, watch, place
        )
        try:
            async with asyncio.timeout(left):
                with watch("admit"):
                    await place.__aenter__()
                try:
                    with self.comparison.counted(target) as request.routed:
                        return await request.answer()
                finally:
                    await place.__aexit__()
        except TimeoutError as error:
            raise BudgetSpentError(watch.stage) from error
        except PhotoError as error:
            raise refusal(error) from error
        finally:
            for stage, seconds in watch.spent.items():
                self.metrics.stage(stage, target.model, seconds)


@dataclass(slots=True)
class _Request:
    """One admitted request."""

    line: Classifier
    image: bytes
    target: Target
    mode: int
    include_rejected_classes: bool
    rpc: Rpc
    budget: Budget
    watch: Watch
    place: Admitted
    routed: Routed = field(default_factory=Routed)
    asked: int = 0
    in_hand: _InHand | None = None
    """The answer so far, if later stages fail."""

    async def answer(self) -> classifier_pb2.ClassifyResponse:
        """Answer with all views that the plan asks for; with fewer when a later stage fails."""
        catalog = self.line.catalog
        try:
            for _ in range(_ATTEMPTS):
                choice = await choose(self._route(), catalog=catalog, budget=self.budget)
                try:
                    scores, card, prepared = await self._attempt(choice)
                    self.line.comparison.sample(self.routed, self.target.model, prepared.views, scores, card)
                    return self._write(scores, card, prepared)
                except _MovedError:
                    if self.target.version is not None or catalog.lacks(self.target.model, self.target.label):
                        break
                    await catalog.poll()
            raise absent(self.target, catalog.find(self.target.model))
        except GatewayError:
            if self.in_hand is None:
                raise
            return self._write(*self.in_hand)

    def _route(self) -> Target:
        labels = self.line.catalog.find(self.target.model).labels
        share = self.line.shares.of(self.target.model)
        routed = route(self.target, share=share, caller=self.rpc.caller, labels=labels)
        self.routed.label = routed.label or ""
        return routed

    async def _attempt(self, choice: Choice) -> _InHand:
        """Predict stage by stage, each pinned to the version that answered the first, until the plan has enough."""
        wanted, piece = count_first(self.mode, choice.card), self._piece()
        in_graph = 1 < wanted <= piece and tuple(choice.card.views) == STANDARD_VIEWS
        names = (IDENTITY,) if in_graph or wanted == 1 else tuple(choice.card.views[:wanted])
        prepared = await self._prepare(choice.card, names)
        self.place.prepared()
        tta_views = STANDARD_VIEWS if in_graph else ()
        part = Part(prepared.views[:piece], self.budget, tta_views)
        scores, card = await self._predict(choice, part)
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
        expected = self.line.predictor.expect(model, whole)
        if expected <= _LONGEST_CALL or len(self.line.catalog.models) == 1:
            return whole
        return max(1, int(_LONGEST_CALL / self.line.predictor.expect(model, 1)))

    async def _prepare(self, card: card_pb2.Card, views: tuple[str, ...]) -> Prepared:
        with self.watch("decode"):
            prepared = await self.line.photos.prepare(self.image, spec=card.input, views=views)
        self.watch.move(prepared.plan_ms / 1e3, to="plan", out_of="decode")
        return prepared

    async def _predict(self, choice: Choice, part: Part) -> tuple[Scores, card_pb2.Card]:
        """Predict views; return checked scores and the card of the version that answered."""
        with self.watch("predict"):
            try:
                scores = await self.line.predictor.predict(choice.target, part)
                card = choice.card if scores.version == choice.version else await self._card(scores, choice)
            except ServableNotFoundError as error:
                raise _MovedError from error
        return check_scores(scores, card=card), card

    async def _card(self, scores: Scores, choice: Choice) -> card_pb2.Card:
        card = await self.line.catalog.card(self.target.model, scores.version, budget=self.budget)
        if (card.input.height, card.input.width) != (choice.card.input.height, choice.card.input.width):
            raise _MovedError
        return card

    async def _predict_more(self, seen: Scores, card: card_pb2.Card, prepared: Prepared, until: int) -> Scores:
        """Predict the card's next views at the version that answered, with time left to answer without them."""
        left = self.budget.require("before further views")
        budget = self.budget.within(left - min(_RESERVE, left * _RESERVE_SHARE))
        choice = Choice(Target(self.target.model, version=seen.version), seen.version, card)
        try:
            async with asyncio.timeout(budget.left()):
                views = await self._views(prepared, card.views[seen.views : until], start=seen.views)
                scores, _ = await self._predict(choice, Part(views, budget))
        except TimeoutError as error:
            raise BudgetSpentError("asking for further views") from error
        return scores

    async def _views(self, prepared: Prepared, names: "list[str]", *, start: int) -> NDArray[np.uint8]:
        if start + len(names) <= len(prepared.views):
            return prepared.views[start : start + len(names)]
        with self.watch("plan"):
            return await self.line.photos.vary(prepared.views[0], names)

    def _write(self, scores: Scores, card: card_pb2.Card, prepared: Prepared) -> classifier_pb2.ClassifyResponse:
        with self.watch("reduce"):
            answer = write_answer(
                scores, prepared.measures, card=card, include_rejected_classes=self.include_rejected_classes
            )
        answer.request_id, answer.model, answer.version = self.rpc.request_id, self.target.model, scores.version
        answer.views_asked = self.asked
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
