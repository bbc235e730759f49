"""Stage *admit*: how many requests are worked on, and how many wait, by method and model.

Never gRPC's `maximum_concurrent_rpcs`, which turns health checks away, too. Health, ListModels and GetModel don't pass
here: they cost nothing and an overloaded service must still be seen to live.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dermserve.gateway.budget import Budget, Clock
from dermserve.gateway.gate import Gate

CLASSIFY = "Classify"
CLASSIFY_STREAM = "ClassifyStream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of one method and model."""

    at_once: int
    """Requests worked on."""
    queue: int
    """Requests that wait for it while more come than can be answered."""
    burst: int = 0
    """Requests that wait for it otherwise; see `gate`."""
    steady: int | None = None
    """Requests worked on while more come than can be answered, besides those for which there is a place at the model
    servers, or will be by the time that they come to it; None for at_once."""


class Admission:
    """A gate for each method and model, so that none fills the queue of another."""

    def __init__(
        self,
        models: Iterable[str],
        *,
        unary: Bounds,
        stream: Bounds,
        spare: Callable[[], int] = lambda: 0,
        further: Callable[[str], int] = lambda _: 0,
        clock: Clock,
    ) -> None:
        """Make the gates.

        Args:
            models: those that are served.
            unary: for Classify.
            stream: for the photos of ClassifyStream.
            spare: says how many more calls the model servers could take, at once or soon.
            further: says how many more requests for a model may pass, because they are asked about with others.
            clock: tells the time.
        """
        self.gates = {
            (method, model): Gate(
                at_once=bound.at_once,
                queue=bound.queue,
                burst=bound.burst,
                steady=bound.steady,
                spare=spare,
                further=functools.partial(further, model),
                clock=clock,
            )
            for method, bound in {CLASSIFY: unary, CLASSIFY_STREAM: stream}.items()
            for model in models
        }

    def enter(self, method: str, model: str, *, budget: Budget) -> contextlib.AbstractAsyncContextManager[None]:
        """Admit a request to a method for a configured model; see Gate.enter."""
        return self.gates[method, model].enter(budget)
