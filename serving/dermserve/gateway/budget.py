"""The time left of a request's deadline. gRPC's asyncio does not pass deadlines on, so each stage asks here."""

from dataclasses import dataclass
from typing import Protocol

from dermserve.gateway.errors import BudgetSpentError


class Clock(Protocol):
    """Monotonic seconds."""

    def __call__(self) -> float:
        """Return the seconds since some fixed moment."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """Time left of a request's deadline."""

    ends: float
    """When the clock shows this, it is over."""
    clock: Clock

    def left(self) -> float:
        """Return the seconds left, below zero when overdrawn."""
        return self.ends - self.clock()

    def require(self, stage: str) -> float:
        """Return the seconds left for a stage, more than zero.

        Raises:
            BudgetSpentError: there are none.
        """
        left = self.left()
        if left <= 0:
            raise BudgetSpentError(stage)
        return left


def open_budget(clock: Clock, *, asked: float | None, default: float, cap: float) -> Budget:
    """Open a request's budget.

    Args:
        clock: tells the time.
        asked: seconds the caller allows; None when it set no deadline.
        default: seconds for a caller that set none.
        cap: seconds nobody gets more than.
    """
    return Budget(clock() + min(default if asked is None else asked, cap), clock)
