"""The capacity command."""

import click


@click.command()
def capacity() -> None:
    """Find capacity."""
