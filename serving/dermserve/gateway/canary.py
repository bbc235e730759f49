"""The canary: the share of callers that it serves, and how it compares with the stable version.

The shares are in a file that is read again and again. Metrics count how requests for both labels end, and the stable
version classifies a sample of the canary's photos.
"""

import asyncio
import hashlib
import pathlib
import tomllib
from collections.abc import Mapping

import numpy as np
import structlog
from numpy.typing import NDArray

from dermserve.gateway.batching import Batching, Part
from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.catalog import CANARY, STABLE, Catalog
from dermserve.gateway.config import Config
from dermserve.gateway.errors import GatewayError
from dermserve.gateway.metrics import Metrics
from dermserve.gateway.tfserving import Scores, Target
from dermserve.v1 import card_pb2

_COMPARING = 2  # comparisons at once: they only use free slots
_TIMEOUT = 10.0  # seconds for one

_log = structlog.get_logger(__name__)


def route(target: Target, *, share: float, caller: str, labels: Mapping[str, int]) -> Target:
    """Send a target without version or label to `canary` or `stable`, always the same one for each caller.

    While the model server knows no canary, the target stays as it is: the newest version. With a canary but no share,
    all get the stable version, because the canary is usually the newest one.
    """
    if target.version is not None or target.label is not None or CANARY not in labels:
        return target
    digest = hashlib.sha256(f"{target.model}\0{caller}".encode()).digest()
    if int.from_bytes(digest[:8]) / 2**64 < share:  # spread evenly, and independently for each model
        return target._replace(label=CANARY)
    return target._replace(label=STABLE) if STABLE in labels else target


class Canary:
    """The share of callers that each model's canary serves, and its comparison with the stable version."""

    def __init__(
        self, config: Config, *, predictor: Batching, catalog: Catalog, metrics: Metrics, clock: Clock
    ) -> None:
        self._file, self._fault = config.canary_file, ""
        self._sample, self._due = config.canary_sample, 0.0
        self._predictor, self._catalog, self._metrics, self._clock = predictor, catalog, metrics, clock
        self._running: set[asyncio.Task[None]] = set()
        self._use({})
        if self._file is not None:
            self._read(self._file)

    def _use(self, shares: Mapping[str, float]) -> None:
        self._shares = {model: shares.get(model, 0.0) for model in self._catalog.models}
        for model, share in self._shares.items():
            self._metrics.canary_share(model).set(share)

    async def follow(self, seconds: float) -> None:
        """Read the file every so many seconds, for ever; without one, do nothing."""
        while self._file is not None:
            await asyncio.sleep(seconds)
            await asyncio.to_thread(self._read, self._file)

    def _read(self, file: pathlib.Path) -> None:
        """Use the shares in the file; if it is not valid, keep the former ones."""
        try:
            found = tomllib.loads(file.read_text("utf-8"))["canary_shares"] if file.exists() else {}
            shares = {model: float(share) for model, share in found.items()}
            if wrong := [model for model, share in shares.items() if not 0 <= share <= 1]:
                raise ValueError(f"the share of {wrong[0]} is not between 0 and 1")
        except Exception as error:  # whatever the file has in it
            if repr(error) != self._fault:
                self._fault = repr(error)
                _log.error("canary_file_not_read", file=str(file), fault=self._fault)
            return
        self._fault, former = "", self._shares
        self._use(shares)
        if self._shares != former:
            _log.info("canary_shares_read", file=str(file), shares=self._shares)

    def route(self, target: Target, caller: str) -> Target:
        """Apply the share in effect; see the function of this name."""
        labels = self._catalog.models[target.model].labels
        return route(target, share=self._shares[target.model], caller=caller, labels=labels)

    def sample(self, model: str, pixels: NDArray[np.uint8], scores: Scores, card: card_pb2.Card) -> None:
        """Compare an answer of the canary in the background, if it is in the sample and no request waits for a slot."""
        self._due = min(1.0, self._due + self._sample)
        if self._due >= 1 and len(self._running) < _COMPARING and self._predictor.free_capacity(model) > 0:
            self._due = 0.0
            view = Part(pixels[np.newaxis], Budget(self._clock() + _TIMEOUT, self._clock))
            task = asyncio.create_task(self._compare(model, view, _top(scores, card)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Cancel the comparisons that run."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _compare(self, model: str, view: Part, canary: str) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                scores = await self._predictor.predict(Target(model, label=STABLE), view)
                card = await self._catalog.card(model, scores.version)
                self._metrics.compared(model, "agreed" if _top(scores, card) == canary else "differed").inc()
        except (GatewayError, TimeoutError, LookupError):
            self._metrics.compared(model, "failed").inc()


def _top(scores: Scores, card: card_pb2.Card) -> str:
    """Name the most probable class of the first view, the photo as it is."""
    first = list(scores.probabilities[0])
    return card.classes[first.index(max(first))].code
