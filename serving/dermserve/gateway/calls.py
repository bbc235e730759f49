"""What goes to a model server in one Predict call: the views of one request or of several, and what they cost."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dermserve.gateway.budget import Budget
from dermserve.gateway.errors import InvalidModelOutputError
from dermserve.gateway.tfserving import Scores

_WEIGHT = 0.2
"""Weight of the newest answer in the running mean."""
_SHARE = 0.8
"""Share of the budget that views may take: half of the calls take longer than the mean."""
_HOPELESS = 0.5
"""Share of the mean for one view: with less time left than that, no answer is expected in time."""
_FADE = 0.98
"""Factor on the mean after each refusal based on it, so that slow calls do not cause refusals for ever."""


@dataclass(eq=False, slots=True)
class Part:
    """What one request has in a batch."""

    images: NDArray[np.uint8]
    """uint8 [V, H, W, 3], or the identity alone, [1, H, W, 3], when the views are made in graph."""
    budget: Budget
    tta_views: tuple[str, ...] = ()
    """Views that the signature `tta` makes of the image; empty when the images are the views."""
    start: int = 0
    """First row of its views in the batch, once the batch is closed."""

    def __len__(self) -> int:
        """Count the views."""
        return len(self.tta_views) or len(self.images)


class Batch:
    """The parts of one call: they may join and leave until it is closed, when it gets a slot at a model server."""

    def __init__(self, first: Part) -> None:
        self._parts = [first]
        self._images: NDArray[np.uint8] | None = None
        self.tta_views = first.tta_views

    def __len__(self) -> int:
        """Count the views."""
        return sum(len(part) for part in self._parts)

    @property
    def is_closed(self) -> bool:
        """Whether no part can join."""
        return self._images is not None

    @property
    def budget(self) -> Budget:
        """The longest budget of its parts; each request also has its own timeout."""
        if len(self._parts) == 1:
            return self._parts[0].budget
        return max((part.budget for part in self._parts), key=lambda budget: budget.ends)

    def join(self, part: Part) -> None:
        """Add the views of another request, of the same height and width."""
        self._parts.append(part)

    def leave(self, part: Part) -> bool:
        """Remove a part; of a closed batch its views stay in the call. Return whether any part is left."""
        self._parts.remove(part)
        return bool(self._parts)

    def close(self) -> NDArray[np.uint8]:
        """Close it, at the first call; return its images in the order of their parts."""
        if self._images is None:
            self._images = self._gather()
        return self._images

    def _gather(self) -> NDArray[np.uint8]:
        if len(self._parts) == 1:
            return self._parts[0].images
        start = 0
        for part in self._parts:
            part.start = start
            start += len(part)
        return np.concatenate([part.images for part in self._parts])

    def share(self, scores: Scores, part: Part) -> Scores:
        """Return a part's share of the answer; no views when the budget had no time for any of them.

        Raises:
            InvalidModelOutputError: the answer has more or fewer rows than there were views.
        """
        if self._images is part.images:
            return scores
        for values in (scores.probabilities, scores.ood_scores):
            if len(values) != scores.views:
                raise InvalidModelOutputError(f"it has {len(values)} rows for {scores.views} views")
        count = len(part)
        rows = slice(part.start, part.start + count)
        return replace(
            scores,
            views=max(0, min(count, scores.views - part.start)),
            probabilities=scores.probabilities[rows],
            ood_scores=scores.ood_scores[rows],
        )


class Costs:
    """Expected seconds of a call, by model and number of views: running means of what calls took."""

    def __init__(self) -> None:
        self._seconds: dict[str, dict[int, float]] = {}

    def note(self, model: str, views: int, seconds: float, *, late: bool = False) -> None:
        """Learn from an answer, or from one that had not come after `seconds`."""
        known = self._seconds.setdefault(model, {})
        before = known.get(views, seconds)
        known[views] = max(before, seconds) if late else before + (seconds - before) * _WEIGHT

    def expect(self, model: str, views: int) -> float:
        """Return the expected seconds, in proportion to the nearest number of views known; 0 when none is."""
        known = self._seconds.get(model)
        if not known:
            return 0.0
        if views in known:
            return known[views]
        nearest = min(known, key=lambda count: abs(count - views))
        return known[nearest] * views / nearest

    def fit(self, model: str, views: int, *, left: float) -> int:
        """Return how many of the views fit into the seconds left; 0 when not even one can."""
        fitting = next((count for count in range(views, 0, -1) if self.expect(model, count) <= left * _SHARE), 0)
        if fitting or self.expect(model, 1) * _HOPELESS <= left:
            return max(fitting, 1)
        self._seconds[model] = {count: seconds * _FADE for count, seconds in self._seconds[model].items()}
        return 0
