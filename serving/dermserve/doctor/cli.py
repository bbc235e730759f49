"""`dermserve doctor`: the command."""

import asyncio
import os
from collections import Counter
from typing import Any

import click

from dermserve.cli.findings import COLOURS, Finding
from dermserve.doctor.checks import error, look_at_models, look_at_settings
from dermserve.gateway.cli import config_options, load_options
from dermserve.models.options import Number

_SEVERITIES = list(COLOURS)[:3]


@click.command()
@config_options
@click.option("--offline", is_flag=True, help="Check settings and files only; ask no model server.")
@click.option("--timeout", type=Number(0, min_open=True), default=5.0, show_default=True, metavar="SECONDS",
              help="For each model server to answer.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a finding.")
@click.pass_context
def doctor(context: click.Context, /, *, offline: bool, timeout: float, as_json: bool, **options: Any) -> None:
    """Check a gateway's configuration: what is unsafe, what does not work, and what to do.

    Takes the options of `dermserve gateway`, reads the same file and environment, and asks the model servers. An error
    prevents the gateway or some of its answers; a warning is unsafe or unwise; a note is information.

    Exit codes: 0 no errors, 1 errors, 2 wrong usage.
    """
    found = _examine(options, offline=offline, timeout=timeout)
    for finding in sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity)):
        finding.show(as_json=as_json)
    counts = Counter(finding.severity for finding in found)
    if not as_json:
        told = (f"{counts[severity]} {severity.lower()}{'s' * (counts[severity] != 1)}" for severity in _SEVERITIES)
        click.echo(", ".join(told) + (" (model servers not asked)" if offline else ""))
    context.exit(1 if counts["ERROR"] else 0)


def _examine(options: dict[str, Any], *, offline: bool, timeout: float) -> list[Finding]:
    try:
        config, _ = load_options(options)
    except (ValueError, OSError) as fault:
        remedy = "correct it; `dermserve config` shows where each setting comes from, docs/settings.md describes them"
        return [error("SETTING", line, remedy) for line in str(fault).splitlines()]
    found = list(look_at_settings(config, environment=os.environ))
    return found if offline else [*found, *asyncio.run(look_at_models(config, seconds=timeout))]
