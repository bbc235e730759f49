"""`dermserve gateway` and `dermserve config`: the options, the signals, the output, and the exit code."""

import asyncio
import contextlib
import gc
import io
import json
import logging
import os
import pathlib
import select
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click
import structlog

from dermserve.gateway.config import Config, load_config
from dermserve.gateway.server import lifespan

if sys.platform != "win32":
    import uvloop

_PIPE_ROOM = getattr(select, "PIPE_BUF", 512)  # bytes that a pipe takes at once when it can be written
_OPTIONS = (
    click.option("--config", "file", type=click.Path(path_type=pathlib.Path), help="TOML file with settings."),
    click.option("--listen", metavar="HOST:PORT", help="Address to serve on; port 0 takes a free one."),
    click.option("--metrics-listen", metavar="HOST:PORT", help="Address of the metrics for Prometheus."),
    click.option("--tfs", metavar="HOST:PORT", multiple=True, help="Address of TensorFlow Serving; repeatable."),
    click.option("--model", "models", metavar="NAME", multiple=True, help="Model to serve; repeatable."),
    click.option("--insecure", is_flag=True, default=None, help="Listen beyond the loopback without TLS."),
    click.option("--reflection/--no-reflection", default=None, help="Serve gRPC reflection."),
    click.option("--grace", "grace_seconds", type=float, metavar="SECONDS", help="For requests to finish on SIGTERM."),
)


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the gateway to a command: `file` and those that `load_config` takes."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _loaded(file: pathlib.Path | None, options: dict[str, Any]) -> tuple[Config, Mapping[str, str]]:
    try:
        return load_config(options, file=file)
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error


@click.command()
@config_options
def gateway(file: pathlib.Path | None, **options: Any) -> None:
    """Run the gateway in front of TensorFlow Serving, until SIGTERM or Ctrl-C.

    Every setting can also be in a file, or in the environment as DERMSERVE_ and its name in capitals;
    docs/settings.md lists them. Options take precedence over the environment, and the environment over the file.
    """
    config, _ = _loaded(file, options)
    configure_logs()
    try:
        # uvloop costs less under load than asyncio's own event loop; Windows has none.
        with asyncio.Runner(loop_factory=None if sys.platform == "win32" else uvloop.new_event_loop) as runner:
            runner.run(_serve(config))
    except OSError as error:
        raise click.ClickException(str(error)) from error


@click.command()
@config_options
def config(file: pathlib.Path | None, **options: Any) -> None:
    """Print the gateway's settings in effect here, and where each comes from.

    Takes the options of `dermserve gateway` and reads the same file and environment. Exit codes: 0, or 2 for an invalid
    setting.
    """
    settings, sources = _loaded(file, options)
    values = settings.model_dump(mode="json")  # names files with secrets, but no secret
    for name, source in sources.items():
        click.echo(f"{name} = {values[name]}  # {source}")


def configure_logs() -> None:
    """Log events to stderr, one JSON line each.

    No bytes are logged: a value that is neither text nor a number is logged as its type.
    """
    encoder = json.JSONEncoder(default=_shown)  # json.dumps would make an encoder for each line
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            lambda _, __, event: encoder.encode(event),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(_Stderr()),  # type: ignore[arg-type]  # it wants a typing.TextIO
        cache_logger_on_first_use=True,
    )


class _Stderr(io.TextIOBase):
    """Standard error. If it can't be written, as its reader is gone or stuck or a disk full, only lines are lost."""

    def write(self, text: str, /) -> int:
        line = text.encode()
        with contextlib.suppress(OSError):
            for at in range(0, len(line), _PIPE_ROOM):
                if sys.platform != "win32" and not select.select([], [sys.stderr], [], 0)[1]:
                    break
                os.write(sys.stderr.fileno(), line[at : at + _PIPE_ROOM])
        return len(text)


def _shown(value: object) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes | bytearray | memoryview) else type(value).__name__


async def _serve(config: Config) -> None:
    """Serve until a signal; a second one stops at once."""
    loop, stop, stop_now = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (stop_now if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):  # loop.add_signal_handler is not there on Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
    async with lifespan(config, stop_now=stop_now):
        gc.collect()
        gc.freeze()  # objects made so far stay: exclude them from garbage collection, which stops everything
        await stop.wait()
