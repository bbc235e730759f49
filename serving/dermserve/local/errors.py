"""Errors of the local stack.

StackError
├── PortInUseError       before anything was started
├── StoreError           the store can't be built or used
├── ChildDiedError       a server ended, with its last log lines
└── NotReadyInTimeError  a server runs and is not ready in time
"""

from collections.abc import Sequence


class StackError(Exception):
    """Base. Each message names what is wrong and what to do."""


class PortInUseError(StackError):
    """Something listens on the port already."""

    def __init__(self, port: int, *, option: str) -> None:
        super().__init__(
            f"port {port} is in use: stop what listens there, or choose another with {option} (0: any free)"
        )


class StoreError(StackError):
    """The store can't be built or used."""


class ChildDiedError(StackError):
    """A child ended by itself."""

    def __init__(self, name: str, code: int, last_lines: Sequence[str]) -> None:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        super().__init__("\n".join((f"the {name} {how}; last log lines:", *indented(last_lines))))


class NotReadyInTimeError(StackError):
    """A child runs and is not ready in time."""

    def __init__(self, name: str, seconds: float, last_lines: Sequence[str]) -> None:
        super().__init__(
            "\n".join((f"the {name} isn't ready after {seconds:g} s; last log lines:", *indented(last_lines)))
        )


def indented(lines: Sequence[str]) -> list[str]:
    """Indent log lines for a message; "(it logged nothing)" if there are none."""
    return [f"  {line}" for line in lines] or ["  (it logged nothing)"]
