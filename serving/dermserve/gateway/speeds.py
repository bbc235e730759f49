"""How long the model server takes for so many views of a model: learned from its answers, to plan within a budget."""

_WEIGHT = 0.2
"""Of the newest answer in the running mean."""
_SHARE = 0.8
"""Of the time left, what views may take: a mean is exceeded half of the time."""
_HOPELESS = 0.5
"""Of the mean for one view: with less time than that an answer in time would be a wonder."""
_FADE = 0.98
"""Each refusal makes the mean it was based on a little less certain, so that a slow hour is forgotten."""


class Speeds:
    """Running means of seconds by model and number of views."""

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
        nearest = min(known, key=lambda count: abs(count - views))
        return known[nearest] * views / nearest

    def fit(self, model: str, views: int, *, left: float) -> int:
        """Return how many of the views fit into the seconds left; 0 when not even one can."""
        fitting = next((count for count in range(views, 0, -1) if self.expect(model, count) <= left * _SHARE), 0)
        if fitting or self.expect(model, 1) * _HOPELESS <= left:
            return max(fitting, 1)
        self._seconds[model] = {count: seconds * _FADE for count, seconds in self._seconds[model].items()}
        return 0
