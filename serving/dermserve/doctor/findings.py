"""What the doctor finds."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How much a finding matters, the gravest first."""

    ERROR = 1
    """The gateway, or some of its answers, won't work."""
    WARNING = 2
    """Unsafe or unwise."""
    NOTE = 3
    """Good to know."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Severity
    code: str
    """Machine-readable and stable."""
    what: str
    """What is wrong, and why it matters."""
    remedy: str
    """What to do."""

    def as_json(self) -> dict[str, str]:
        """Make plain JSON values."""
        return {
            "severity": self.severity.name,
            "code": self.code,
            "what": self.what,
            "remedy": self.remedy,
        }
