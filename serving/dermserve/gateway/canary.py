"""The canary beside the stable version: its share of the callers, how both do, and how often they disagree."""

import asyncio
import contextlib
import pathlib
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import structlog
from numpy.typing import NDArray

from dermserve.gateway.batching import Part
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.errors import GatewayError
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.selection import CANARY, STABLE
from dermserve.gateway.tfserving import Scores, ServableNotFoundError, Target
from dermserve.imaging import PhotoError
from dermserve.v1 import card_pb2

if TYPE_CHECKING:
    from dermserve.gateway.batching import Batching
    from dermserve.gateway.catalog import Catalog

_COMPARING = 2
"""Comparisons at once: they use what requests leave."""
_TIMEOUT = 10.0
"""Seconds for one."""
_log = structlog.get_logger()


class Shares:
    """The share of callers that gets each model's canary: fixed, or from a file that is read anew when it changes.

    Args:
        models: those that are served; the file may name others.
        fixed: what applies without a file.
        file: TOML with a table `canary_shares`, as `dermserve model canary` writes it; absent: no shares.
        metrics: shows what is in effect.
    """

    def __init__(
        self, models: Collection[str], *, fixed: Mapping[str, float], file: pathlib.Path | None, metrics: Metrics
    ) -> None:
        self._models = models
        self._file = file
        self._metrics = metrics
        self._text: str | None = None
        self._shares: Mapping[str, float] = {}
        self._use(fixed)
        if file is not None:
            self._take(_text_of(file))

    def of(self, model: str) -> float:
        """Return a model's share, in [0, 1]."""
        return self._shares.get(model, 0.0)

    async def follow(self, seconds: float) -> None:
        """Read the file every so many seconds, for ever; without one, do nothing."""
        while self._file is not None:
            await asyncio.sleep(seconds)
            self._take(await asyncio.to_thread(_text_of, self._file))

    def _take(self, text: str) -> None:
        """Take the shares of a text that has changed; keep the former ones where it can't be understood."""
        if text == self._text:
            return
        self._text = text
        try:
            named = tomllib.loads(text).get("canary_shares", {})
            shares = {model: float(share) for model, share in named.items()}
            if wrong := [model for model, share in shares.items() if not 0 <= share <= 1]:
                raise ValueError(f"the share of {wrong[0]} is not between 0 and 1")
        except (ValueError, TypeError, AttributeError) as error:
            _log.error("canary_file_not_read", file=str(self._file), fault=str(error))
            return
        _log.info("canary_shares_read", file=str(self._file), shares=shares)
        self._use(shares)

    def _use(self, shares: Mapping[str, float]) -> None:
        self._shares = {model: shares.get(model, 0.0) for model in self._models}
        for model, share in self._shares.items():
            self._metrics.canary_share(model, share)


@dataclass(slots=True)
class Routed:
    """A request on its way, and the label it was sent to, if it named neither version nor label."""

    label: str = ""


class Comparison:
    """Counts how requests for both labels end, and asks the stable version about a sample of the canary's answers."""

    def __init__(
        self, *, predictor: "Batching", catalog: "Catalog", metrics: Metrics, sample: float, clock: Clock
    ) -> None:
        self._predictor = predictor
        self._catalog = catalog
        self._metrics = metrics
        self._sample = sample
        self._clock = clock
        self._due = 0.0
        """Comparisons that the answers so far call for, and were not made yet."""
        self._running: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def counted(self, target: Target) -> Iterator[Routed]:
        """Count a request by the label it was sent to; one that ends because of its photo is not counted."""
        routed, began, failed = Routed(), self._clock(), True
        try:
            yield routed
            failed = False
        except PhotoError:
            routed.label = ""
            raise
        finally:
            if routed.label and target.label is None:
                self._metrics.routed(target.model, routed.label, failed=failed, seconds=self._clock() - began)

    def sample(self, routed: Routed, model: str, views: NDArray[np.uint8], scores: Scores, card: card_pb2.Card) -> None:
        """Compare an answer of the canary in the background, if it is in the sample and nobody waits for a slot."""
        if routed.label != CANARY:
            return
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
                self._metrics.compared(model, "agreed" if _top(scores, card) == canary else "differed")
        except (GatewayError, ServableNotFoundError, TimeoutError, LookupError):
            self._metrics.compared(model, "failed")


def _top(scores: Scores, card: card_pb2.Card) -> str:
    """Name the most probable class of the first view, the photo as it is."""
    first = list(scores.probabilities[0])
    return card.classes[first.index(max(first))].code


def _text_of(file: pathlib.Path) -> str:
    try:
        return file.read_text("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        return f"not read: {error}"
