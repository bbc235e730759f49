"""`dermserve gateway` and `dermserve config`: the options, the signals, the output, and the exit code."""

import asyncio
import functools
import gc
import json
import logging
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any

import click
import structlog

from dermserve.gateway.config import Config, Loaded, load_config
from dermserve.gateway.server import lifespan

_LEVELS = ("debug", "info", "warning", "error")
_OPTIONS = (
    click.option("--config", "file", type=click.Path(path_type=pathlib.Path), help="TOML file with settings."),
    click.option("--listen", metavar="HOST:PORT", help="Address to serve on; port 0 takes a free one."),
    click.option("--metrics-listen", metavar="HOST:PORT", help="Address of the metrics for Prometheus."),
    click.option(
        "--tfs", metavar="HOST:PORT", multiple=True, help="Address of TensorFlow Serving; repeat it for more."
    ),
    click.option("--model", "models", metavar="NAME", multiple=True, help="Model to serve; repeat it for more."),
    click.option("--insecure", is_flag=True, default=None, help="Listen beyond the loopback without TLS."),
    click.option("--reflection/--no-reflection", default=None, help="Serve gRPC reflection."),
    click.option("--grace", "grace_seconds", type=float, metavar="SECONDS", help="For requests to finish on SIGTERM."),
    click.option("--log-level", type=click.Choice(_LEVELS), help="Least severe events to log."),
)


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets `load`: it reads the configuration, and raises what load_config does."""

    @functools.wraps(function)
    def gathered(**values: Any) -> Any:
        file = values.pop("file")
        given = {name: values.pop(name) for name in list(values) if name in Config.model_fields}
        given = {name: value for name, value in given.items() if value not in (None, ())}

        def load() -> Loaded:
            return load_config(given, file=file)

        return function(load=load, **values)

    for option in reversed(_OPTIONS):
        gathered = option(gathered)
    return gathered


def loaded(load: Callable[[], Loaded]) -> Loaded:
    """Read the configuration.

    Raises:
        click.UsageError: it is not right.
    """
    try:
        return load()
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error


@click.command()
@config_options
def gateway(*, load: Callable[[], Loaded]) -> None:
    """Run the gateway in front of TensorFlow Serving, until SIGTERM or Ctrl-C.

    Every setting can also come from a file, or from the environment as DERMSERVE_ and its name in capitals;
    docs/settings.md lists them. Options go before the environment, and that before the file.
    """
    settings = loaded(load)
    configure_logs(settings.config.log_level)
    try:
        with asyncio.Runner(loop_factory=_event_loop()) as runner:
            runner.run(_serve(settings.config))
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
    values = settings.config.model_dump(mode="json")  # no secrets, only the files that hold some
    if as_json:
        both = {name: {"value": values[name], "source": source} for name, source in settings.sources.items()}
        click.echo(json.dumps(both))
        return
    for name, source in settings.sources.items():
        click.echo(f"{name} = {values[name]}  # {source}")


def configure_logs(level: str) -> None:
    """Send this process's events of a level and above to stderr: JSON lines, one an event.

    No bytes are logged: what is neither text nor a number is logged as its type.
    """
    encoder = json.JSONEncoder(default=_shown)  # json.dumps would make one for each line
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda event, **_: encoder.encode(event)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # a line is one write; print makes it two
        cache_logger_on_first_use=True,
    )


def _shown(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes | bytearray | memoryview) else type(value).__name__


def _event_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Give uvloop's event loop, which costs less under load; asyncio's own on Windows, where there is no uvloop."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _serve(config: Config) -> None:
    """Serve until a signal; a second one stops at once."""
    signals: asyncio.Queue[None] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        _on_signal(number, functools.partial(signals.put_nowait, None))
    async with lifespan(config) as running:
        gc.collect()
        gc.freeze()  # what is here stays: no full collection, which stops everything, need go through it again
        await signals.get()
        second = asyncio.create_task(_stop_at_next(signals, running.stop_now))
    second.cancel()


def _on_signal(number: signal.Signals, call: Callable[[], None]) -> None:
    """Call something in the event loop at each signal; Windows' event loops take no signal handlers."""
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(call))
    else:
        loop.add_signal_handler(number, call)


async def _stop_at_next(signals: "asyncio.Queue[None]", stop_now: asyncio.Event) -> None:
    await signals.get()
    stop_now.set()
