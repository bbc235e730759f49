"""Views of one or more requests that go to the model server in one call."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.budget import Budget
from dermserve.gateway.errors import InvalidModelOutputError
from dermserve.gateway.tfserving import Scores


@dataclass(eq=False, slots=True)
class Part:
    """What one request has in a batch."""

    views: NDArray[np.uint8]
    """uint8 [V, H, W, 3]."""
    budget: Budget
    start: int = 0
    """Row of the batch at which they begin, once it is closed."""


class Batch:
    """Parts that may come and go until it is closed, which is when its turn at a model server has come."""

    def __init__(self, first: Part) -> None:
        self._parts = [first]
        self._pixels: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        """Count the views."""
        return sum(len(part.views) for part in self._parts)

    @property
    def is_closed(self) -> bool:
        """Whether no part can join."""
        return self._pixels is not None

    @property
    def budget(self) -> Budget:
        """That of the part that has longest; each request watches over its own besides."""
        return max((part.budget for part in self._parts), key=lambda budget: budget.ends)

    def join(self, part: Part) -> None:
        """Add the views of a further request, of the same height and width."""
        self._parts.append(part)

    def leave(self, part: Part) -> bool:
        """Take back a part, whose views are still asked about if the batch is closed; tells whether any is left."""
        self._parts.remove(part)
        return bool(self._parts)

    def close(self) -> NDArray[np.uint8]:
        """Close it, at the first call; return its views in the order of their parts."""
        if self._pixels is None:
            self._pixels = self._gather()
        return self._pixels

    def _gather(self) -> NDArray[np.uint8]:
        if len(self._parts) == 1:
            return self._parts[0].views
        start = 0
        for part in self._parts:
            part.start = start
            start += len(part.views)
        return np.concatenate([part.views for part in self._parts])

    def share(self, scores: Scores, part: Part) -> Scores:
        """Return a part's share of the answer; no views when the budget had no time for any of them.

        Raises:
            InvalidModelOutputError: the answer has more or fewer rows than there were views.
        """
        count = len(part.views)
        if self._pixels is part.views:
            return scores
        for values in (scores.probabilities, scores.ood_scores):
            if values.shape[:1] != (scores.views,):
                raise InvalidModelOutputError(f"it has the shape {values.shape} for {scores.views} views")
        rows = slice(part.start, part.start + count)
        return replace(
            scores,
            views=max(0, min(count, scores.views - part.start)),
            probabilities=scores.probabilities[rows],
            ood_scores=scores.ood_scores[rows],
        )
