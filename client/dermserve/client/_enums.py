"""String enums for the proto's, which keep the numbers that a newer server sends and this client has no name for."""

from enum import StrEnum
from typing import Protocol, Self


class _ProtoEnum(Protocol):
    """What is used of a generated enum wrapper."""

    def Name(self, number: int) -> str:  # noqa: N802 - protobuf's name
        """Name a number; ValueError when it has none."""


class OpenEnum(StrEnum):
    """A string enum with a member, made when met, for each number without a name: `UNKNOWN_7`."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not (isinstance(value, str) and value.startswith("UNKNOWN_") and value[8:].isdecimal()):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member

    @classmethod
    def from_number(cls, number: int, *, names: _ProtoEnum, prefix: str) -> Self:
        """Make the member for a proto enum's number, whose name begins with `prefix`."""
        try:
            return cls(names.Name(number).removeprefix(prefix))
        except ValueError:  # newer than our stubs, newer than this enum, or the "unspecified" no server should send
            return cls(f"UNKNOWN_{number}")
