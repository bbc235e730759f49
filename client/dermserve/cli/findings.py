"""The findings of both doctors, and how they are printed."""

import json
from dataclasses import asdict, dataclass

import click

COLOURS = {"ERROR": "red", "WARNING": "yellow", "NOTE": "cyan", "OK": "green"}  # by severity, the gravest first


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: severity, a stable code, what was found, and what to do."""

    severity: str  # ERROR: something does not work; WARNING: unsafe or unwise; NOTE: information; OK
    code: str
    what: str
    remedy: str = ""

    def show(self, *, as_json: bool) -> None:
        """Print it."""
        severity = click.style(f"{self.severity.lower():8}", fg=COLOURS[self.severity], bold=True)
        remedy = f"\n         → {self.remedy}" if self.remedy else ""
        click.echo(json.dumps(asdict(self)) if as_json else f"{severity} {self.what} [{self.code}]{remedy}")
