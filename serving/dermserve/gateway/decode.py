"""Stage *decode*: photo bytes to a batch of views, in one hop to a worker thread."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.budget import Budget
from dermserve.gateway.workers import Workers
from dermserve.imaging import Limits, Measures, decode, make_views, measure
from dermserve.v1 import card_pb2


@dataclass(frozen=True, slots=True)
class Prepared:
    """A photo as the model is to see it."""

    views: NDArray[np.uint8]
    """uint8 [V, H, W, 3]; the first is the identity."""
    plan_ms: float
    """Wall time that making the views took."""
    measures: Measures
    """Of the identity view."""


class Decoder(Protocol):
    """The port through which the pipeline turns bytes into views."""

    async def prepare(
        self, image: bytes, *, spec: card_pb2.InputSpec, views: Sequence[str], budget: Budget
    ) -> Prepared:
        """Decode a photo at a model's input size, make the named views of it, and measure it.

        Raises:
            PhotoError: the photo can't be used.
            BudgetSpentError: no decoder finished it in time.
        """
        ...

    async def vary(self, pixels: NDArray[np.uint8], *, views: Sequence[str], budget: Budget) -> NDArray[np.uint8]:
        """Make further views, uint8 [V, H, W, 3], of an identity view, uint8 [H, W, 3].

        Raises:
            BudgetSpentError: they were not made in time.
        """
        ...


class ThreadedDecoder:
    """The Decoder that works in a bounded pool of threads; Pillow and numpy let go of the interpreter lock."""

    def __init__(self, workers: Workers, *, limits: Limits) -> None:
        self._workers = workers
        self._limits = limits

    async def prepare(
        self, image: bytes, *, spec: card_pb2.InputSpec, views: Sequence[str], budget: Budget
    ) -> Prepared:
        """See Decoder."""

        def work() -> Prepared:
            photo = decode(image, height=spec.height, width=spec.width, limits=self._limits)
            start = time.perf_counter()
            batch = make_views(photo.pixels, views)
            return Prepared(batch, (time.perf_counter() - start) * 1e3, measure(photo.pixels))

        return await self._workers.run(work, budget=budget)

    async def vary(self, pixels: NDArray[np.uint8], *, views: Sequence[str], budget: Budget) -> NDArray[np.uint8]:
        """See Decoder."""
        return await self._workers.run(lambda: make_views(pixels, views), budget=budget)
