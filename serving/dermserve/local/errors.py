"""Errors of the local stack.

StackError               a port is in use, Envoy is not installed, the store can't be built or used
├── ChildDiedError       a server ended, with its last log lines
└── NotReadyInTimeError  a server runs and is not ready in time
"""

from collections.abc import Sequence


class StackError(Exception):
    """Base class. Each message says what is wrong and what to do."""


class ChildDiedError(StackError):
    """A server ended by itself."""

    def __init__(self, name: str, code: int, last_lines: Sequence[str]) -> None:
        self.code = code
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        super().__init__(f"the {name} {how}; last log lines:\n{indented(last_lines)}")


class NotReadyInTimeError(StackError):
    """A server runs, but was not ready in time."""

    def __init__(self, name: str, seconds: float, last_lines: Sequence[str]) -> None:
        super().__init__(f"the {name} isn't ready after {seconds:g} s; last log lines:\n{indented(last_lines)}")


def indented(lines: Sequence[str]) -> str:
    """Indent log lines for a message; "(it logged nothing)" if there are none."""
    return "\n".join(f"  {line}" for line in lines or ["(it logged nothing)"])
