"""Classify one photo within its budget: admit → decode → plan → predict → reduce → verdict → answer."""

import asyncio
import dataclasses
import functools
import itertools
import time
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.admission import HeldBytes, Queue
from dermserve.gateway.answer import check_scores, write_answer
from dermserve.gateway.background import Workers
from dermserve.gateway.batching import Batching, Part
from dermserve.gateway.budget import Budget
from dermserve.gateway.catalog import CANARY, Canary, Catalog, Choice, check_target
from dermserve.gateway.config import Config
from dermserve.gateway.errors import BudgetSpentError, GatewayError
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.model_servers import ModelServers
from dermserve.gateway.plan import count_first, count_more, read_mode
from dermserve.gateway.rpc import Rpc
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, Target
from dermserve.imaging import STANDARD_VIEWS, Limits, Measures, TooManyPixelsError, decode, make_views, measure
from dermserve.v1 import card_pb2, classifier_pb2

CLASSIFY, CLASSIFY_STREAM = "Classify", "ClassifyStream"

_STUCK_SECONDS = 30.0  # a thread that decodes one photo for longer is replaced
_LARGE_WAITING = 8  # most large photos that wait for their thread without keeping others from admission
_ATTEMPTS = 3  # attempts for a request without a version: versions may change while it is in progress
# Seconds: if several models share the model servers, views that take longer are sent in several calls, so that requests
# for other models get slots in between.
_LONGEST_CALL = 0.15
# Seconds, and share of the budget, that a later stage must leave: time to send the answer so far if it fails.
_RESERVE, _RESERVE_SHARE = 0.1, 0.1


class Prepared(NamedTuple):
    """A decoded photo."""

    pixels: NDArray[np.uint8]  # [H, W, 3]
    measures: Measures


def prepare(image: bytes, *, spec: card_pb2.InputSpec, limits: Limits) -> Prepared:
    """Decode a photo at a model's input size and measure it.

    Raises:
        PhotoError: the photo can't be used.
    """
    pixels = decode(image, height=spec.height, width=spec.width, limits=limits)
    return Prepared(pixels, measure(pixels))


_InHand: TypeAlias = tuple[Scores, card_pb2.Card, Prepared]


class PhotoRequest(NamedTuple):
    """A ClassifyRequest in plain values; the message, with another copy of the photo, can be freed."""

    target: Target  # unchecked, like the mode
    tta: int
    include_rejected: bool
    image: bytes


class Classifier:
    """Classifies photos, many at once."""

    def __init__(self, config: Config, servers: ModelServers, catalog: Catalog, metrics: Metrics) -> None:
        self.servers, self.catalog, self.metrics = servers, catalog, metrics
        workers = functools.partial(Workers, stuck_after=_STUCK_SECONDS, clock=time.monotonic)
        self.workers, self.large_photos = workers(config.decoders), workers(1)
        self.limits = Limits(max_bytes=config.max_image_bytes)
        self.small = dataclasses.replace(self.limits, max_memory=config.small_photo)
        self.predictor = Batching(servers, longest=config.batch_seconds, clock=time.monotonic)
        self.held = HeldBytes(config.max_held_bytes)
        self.queues = dict[tuple[str, str], Queue]()  # one for each method and model, so that none fills another's
        for model in config.models:
            free_capacity = functools.partial(self.predictor.free_capacity, model)
            queue = functools.partial(Queue, free_capacity=free_capacity, held=self.held, clock=time.monotonic)
            self.queues[CLASSIFY, model] = queue(config.queue, 0)
            self.queues[CLASSIFY_STREAM, model] = queue(config.stream_queue, config.stream_queue)
        self.canary = Canary(config, predictor=self.predictor, catalog=catalog, metrics=metrics, clock=time.monotonic)

    async def close(self) -> None:
        """Let the decoder threads end, and cancel background work."""
        self.workers.close()
        self.large_photos.close()
        await self.canary.close()

    async def classify(self, photo: PhotoRequest, rpc: Rpc) -> classifier_pb2.ClassifyResponse:
        """Answer one request.

        Raises:
            GatewayError: the request or photo is invalid, there is no room or time for it, or the model servers fail.
        """
        rpc.model = photo.target.model
        request = _Request(self, photo, rpc)
        try:
            async with asyncio.timeout(rpc.budget.left()):
                await request.place.wait()
                return await request.answer()
        finally:
            request.place.queue.leave(request.place)


class _Request:
    """One request in progress. It is checked, and refused if there is no room, before any other work."""

    def __init__(self, line: Classifier, photo: PhotoRequest, rpc: Rpc) -> None:
        self._line, self._photo, self._rpc = line, photo, rpc
        self._target = check_target(photo.target)
        self._mode = read_mode(photo.tta)
        line.catalog.find(self._target.model)
        self.place = line.queues[rpc.method, self._target.model].enter(len(photo.image), rpc.budget)
        rpc.enter("admit")
        self._asked = 0
        self._in_hand: _InHand | None = None  # the answer if later stages fail

    async def answer(self) -> classifier_pb2.ClassifyResponse:
        """Answer with all views that the plan asks for; with fewer when a later stage fails."""
        catalog = self._line.catalog
        try:
            for attempt in itertools.count(1):
                routed = self._line.canary.route(self._target, self._rpc.caller)
                self._rpc.label = None if routed is self._target else routed.label
                try:
                    async with asyncio.timeout(self._spare().left() if self._in_hand else None):
                        found = await self._attempt(catalog.choose(routed))
                    break
                except TimeoutError as error:
                    raise BudgetSpentError("asking another version") from error
                except ServableNotFoundError as error:
                    await catalog.poll()
                    # A local variable with the error itself would be in its frames, and keep the photo.
                    absent = functools.partial(catalog.find(self._target.model).absent, self._target)
                    if attempt == _ATTEMPTS or absent().reason != "MODEL_NOT_AVAILABLE":
                        raise absent() from error
            if self._rpc.label == CANARY:
                self._line.canary.sample(self._target.model, found[2].pixels, *found[:2])
            return self._write(*found)
        except GatewayError as error:
            if self._in_hand is None:
                raise
            return self._write(*self._in_hand, error)

    async def _attempt(self, choice: Choice) -> _InHand:
        """Predict in stages, all with the version that answered the first, until the plan needs no more views."""
        wanted, piece = count_first(self._mode, choice.card), self._piece()
        in_graph = 1 < wanted <= piece and tuple(choice.card.views) == STANDARD_VIEWS
        self._rpc.enter("decode")
        prepared = await self._decode(choice.card.input)
        views = await self._views(prepared, choice.card, 0, 1 if in_graph else min(wanted, piece))
        self.place.prepared()
        part = Part(views, self._rpc.budget, STANDARD_VIEWS if in_graph else ())
        scores, card = await self._predict(choice, part)
        self._asked, until = wanted, part.views
        while scores.views == until:  # there was time for all
            self._in_hand = (scores, card, prepared)
            if until == self._asked and (wanted := count_more(self._mode, scores, card)) == until:
                break
            self._asked, until = wanted, min(wanted, until + piece)
            scores = await self._predict_more(scores, card, prepared, until)
        return scores, card, prepared

    async def _decode(self, spec: card_pb2.InputSpec) -> Prepared:
        """Decode the photo; one that takes much memory in a thread of its own, so that only one does at a time."""
        work, line = functools.partial(prepare, self._photo.image, spec=spec), self._line
        try:
            return await line.workers.run(functools.partial(work, limits=line.small))
        except TooManyPixelsError:
            if line.large_photos.waiting < _LARGE_WAITING:
                self.place.queue.set_aside(self.place)
            return await line.large_photos.run(functools.partial(work, limits=line.limits))

    async def _views(self, prepared: Prepared, card: card_pb2.Card, begin: int, end: int) -> NDArray[np.uint8]:
        """Make some of the card's views; the first is the photo as it is."""
        if end == 1:
            return prepared.pixels[np.newaxis]
        self._rpc.enter("plan")
        return await self._line.workers.run(functools.partial(make_views, prepared.pixels, card.views[begin:end]))

    def _piece(self) -> int:
        """Count the views of one call."""
        whole, model = len(STANDARD_VIEWS), self._target.model
        if len(self._line.catalog.models) == 1 or self._line.predictor.costs.expect(model, whole) <= _LONGEST_CALL:
            return whole
        return max(1, int(_LONGEST_CALL / self._line.predictor.costs.expect(model, 1)))

    async def _predict(self, choice: Choice, part: Part) -> tuple[Scores, card_pb2.Card]:
        """Predict views; return checked scores and the card of the version that answered."""
        self._rpc.enter("predict")
        scores, card = await self._line.predictor.predict(choice.target, part), choice.card
        if scores.version != choice.version:
            card = self._line.catalog.card(self._target.model, scores.version)
            if (card.input.height, card.input.width) != (choice.card.input.height, choice.card.input.width):
                raise ServableNotFoundError("the version that answered wants other pixels than were sent")
        return check_scores(scores, card=card), card

    async def _predict_more(self, seen: Scores, card: card_pb2.Card, prepared: Prepared, until: int) -> Scores:
        """Predict the card's next views with the version that answered, leaving time to answer without them.

        Returns:
            All scores.
        """
        budget = self._spare()
        choice = Choice(Target(self._target.model, version=seen.version), seen.version, card)
        try:
            async with asyncio.timeout(budget.left()):
                views = await self._views(prepared, card, seen.views, until)
                further, _ = await self._predict(choice, Part(views, budget))
        except TimeoutError as error:
            raise BudgetSpentError("asking for further views") from error
        rows, ood_scores = [*seen.probabilities, *further.probabilities], [*seen.ood_scores, *further.ood_scores]
        return Scores(seen.version, rows, ood_scores)

    def _spare(self) -> Budget:
        """Return the budget less the time to answer with what is in hand."""
        left = self._rpc.budget.left()
        return self._rpc.budget.within(left - min(_RESERVE, left * _RESERVE_SHARE))

    def _write(
        self, scores: Scores, card: card_pb2.Card, prepared: Prepared, error: GatewayError | None = None
    ) -> classifier_pb2.ClassifyResponse:
        """Write the answer; an error is that of the stage before, if this one answers without it."""
        measures, rpc = prepared.measures, self._rpc
        rpc.enter("reduce", error)
        answer = write_answer(scores, measures, card=card, include_rejected_classes=self._photo.include_rejected)
        rpc.enter("")
        answer.request_id, answer.model, answer.views_asked = rpc.request_id, self._target.model, self._asked
        for stage in ("decode", "plan", "predict", "reduce"):
            setattr(answer.timings, f"{stage}_ms", rpc.spent.get(stage, 0.0) * 1e3)
        answer.timings.total_ms = (time.monotonic() - rpc.started) * 1e3
        self._line.metrics.answered(answer, self._mode, card=card, scores=scores, measures=measures)
        return answer
