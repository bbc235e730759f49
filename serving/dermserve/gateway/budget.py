"""The time left of a request's deadline. gRPC's asyncio does not pass deadlines on, so each stage asks here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from dermserve.gateway.errors import BudgetSpentError

Clock: TypeAlias = Callable[[], float]
"""Monotonic seconds."""


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

    def within(self, seconds: float) -> "Budget":
        """Return a budget of some seconds from now, but no longer than this one."""
        return Budget(min(self.ends, self.clock() + seconds), self.clock)
