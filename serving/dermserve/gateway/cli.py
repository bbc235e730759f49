"""`dermserve gateway`: the options, the signals, and the exit code."""

import asyncio
import signal
import sys
from typing import Any

import click

from dermserve.gateway.config import Config, load_config
from dermserve.gateway.lifespan import ListenError, lifespan
from dermserve.gateway.logs import LEVELS, configure_logs


@click.command()
@click.option("--listen", metavar="HOST:PORT", help="Address to serve on; port 0 takes a free one.")
@click.option("--tfs", metavar="HOST:PORT", multiple=True, help="Address of TensorFlow Serving; repeat it for more.")
@click.option("--model", "models", metavar="NAME", multiple=True, help="Model to serve; repeat it for more.")
@click.option("--reflection/--no-reflection", default=None, help="Serve gRPC reflection.")
@click.option("--grace", "grace_seconds", type=float, metavar="SECONDS", help="For requests to finish on SIGTERM.")
@click.option("--log-level", type=click.Choice(LEVELS), help="Least severe events to log.")
def gateway(**options: Any) -> None:
    """Run the gateway in front of TensorFlow Serving, until SIGTERM or Ctrl-C.

    Every setting can also come from the environment, as DERMSERVE_ and its name in capitals;
    docs/gateway.md lists them.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        config = load_config(given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    configure_logs(config.log_level)
    try:
        asyncio.run(_serve(config))
    except ListenError as error:
        raise click.ClickException(str(error)) from error


async def _serve(config: Config) -> None:
    """Serve until a signal; a second one stops at once."""
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, None)
    async with lifespan(config) as running:
        await signals.get()
        hurrying = asyncio.create_task(_hurry_on(signals, running.hurry))
    hurrying.cancel()
    sys.stderr.flush()


async def _hurry_on(signals: "asyncio.Queue[None]", hurry: asyncio.Event) -> None:
    await signals.get()
    hurry.set()
