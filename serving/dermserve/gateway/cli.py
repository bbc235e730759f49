"""`dermserve gateway` and `dermserve config`: the signals, the output, and the exit code."""

import asyncio
import gc
import json
import signal
from collections.abc import Callable

import click
import uvloop

from dermserve.gateway.config import Config, Loaded
from dermserve.gateway.lifespan import lifespan
from dermserve.gateway.logs import configure_logs
from dermserve.gateway.options import config_options, loaded


@click.command()
@config_options
@click.option("--show-config", is_flag=True, help="Print the settings in effect, as `dermserve config` does, and exit.")
def gateway(*, load: Callable[[], Loaded], show_config: bool) -> None:
    """Run the gateway in front of TensorFlow Serving, until SIGTERM or Ctrl-C.

    Every setting can also come from a file, or from the environment as DERMSERVE_ and its name in capitals;
    docs/gateway.md lists them. Options go before the environment, and that before the file.
    """
    settings = loaded(load)
    if show_config:
        click.echo(_shown(settings))
        return
    configure_logs(settings.config.log_level)
    try:
        uvloop.run(_serve(settings.config))
    except OSError as error:
        raise click.ClickException(str(error)) from error


@click.command()
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: each setting's value and source.")
def config(*, load: Callable[[], Loaded], as_json: bool) -> None:
    """Print the gateway's settings in effect here, and where each comes from.

    Takes what `dermserve gateway` takes and reads the same file and environment. Exit codes: 0, or 2 when a setting is
    not right.
    """
    settings = loaded(load)
    if not as_json:
        click.echo(_shown(settings))
        return
    values = settings.config.model_dump(mode="json")
    both = {name: {"value": values[name], "source": source} for name, source in settings.sources.items()}
    click.echo(json.dumps(both))


def _shown(settings: Loaded) -> str:
    """List every setting in effect; there are no secrets among them, only the files that hold some."""
    values = settings.config.model_dump(mode="json")
    return "\n".join(f"{name} = {values[name]}  # {source}" for name, source in settings.sources.items())


async def _serve(config: Config) -> None:
    """Serve until a signal; a second one stops at once."""
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, None)
    async with lifespan(config) as running:
        gc.collect()
        gc.freeze()  # what is here stays: no full collection, which stops everything, need go through it again
        await signals.get()
        hurrying = asyncio.create_task(_hurry_on(signals, running.hurry))
    hurrying.cancel()


async def _hurry_on(signals: "asyncio.Queue[None]", hurry: asyncio.Event) -> None:
    await signals.get()
    hurry.set()
