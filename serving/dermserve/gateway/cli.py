"""`dermserve gateway`: the options, the signals, and the exit code."""

import asyncio
import pathlib
import signal
from typing import Any

import click

from dermserve.gateway.config import Config, Loaded, load_config
from dermserve.gateway.lifespan import lifespan
from dermserve.gateway.logs import LEVELS, configure_logs


@click.command()
@click.option("--config", "file", type=click.Path(path_type=pathlib.Path), help="TOML file with settings.")
@click.option("--show-config", is_flag=True, help="Print the settings in effect and where they come from, and exit.")
@click.option("--listen", metavar="HOST:PORT", help="Address to serve on; port 0 takes a free one.")
@click.option("--tfs", metavar="HOST:PORT", multiple=True, help="Address of TensorFlow Serving; repeat it for more.")
@click.option("--model", "models", metavar="NAME", multiple=True, help="Model to serve; repeat it for more.")
@click.option("--insecure", is_flag=True, default=None, help="Listen beyond the loopback without TLS.")
@click.option("--reflection/--no-reflection", default=None, help="Serve gRPC reflection.")
@click.option("--grace", "grace_seconds", type=float, metavar="SECONDS", help="For requests to finish on SIGTERM.")
@click.option("--log-level", type=click.Choice(LEVELS), help="Least severe events to log.")
def gateway(*, file: pathlib.Path | None, show_config: bool, **options: Any) -> None:
    """Run the gateway in front of TensorFlow Serving, until SIGTERM or Ctrl-C.

    Every setting can also come from a file, or from the environment as DERMSERVE_ and its name in capitals;
    docs/gateway.md lists them. Options go before the environment, and that before the file.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    try:
        loaded = load_config(given, file=file)
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error
    if show_config:
        click.echo(_shown(loaded))
        return
    configure_logs(loaded.config.log_level)
    try:
        asyncio.run(_serve(loaded.config))
    except OSError as error:
        raise click.ClickException(str(error)) from error


def _shown(loaded: Loaded) -> str:
    """List every setting in effect; there are no secrets among them, only the files that hold some."""
    values = loaded.config.model_dump(mode="json")
    return "\n".join(f"{name} = {values[name]}  # {source}" for name, source in loaded.sources.items())


async def _serve(config: Config) -> None:
    """Serve until a signal; a second one stops at once."""
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, None)
    async with lifespan(config) as running:
        await signals.get()
        hurrying = asyncio.create_task(_hurry_on(signals, running.hurry))
    hurrying.cancel()


async def _hurry_on(signals: "asyncio.Queue[None]", hurry: asyncio.Event) -> None:
    await signals.get()
    hurry.set()
