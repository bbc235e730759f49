"""The options of `dermserve gateway`, `config` and `doctor`: the same settings from the same sources."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import click

from dermserve.gateway.config import Loaded, load_config
from dermserve.gateway.logs import LEVELS

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
    click.option("--log-level", type=click.Choice(LEVELS), help="Least severe events to log."),
)
_NAMES = ("listen", "metrics_listen", "tfs", "models", "insecure", "reflection", "grace_seconds", "log_level")


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets `load`: it reads the configuration, and raises what load_config does."""

    @functools.wraps(function)
    def gathered(**values: Any) -> Any:
        file = values.pop("file")
        given = {name: value for name in _NAMES if (value := values.pop(name)) not in (None, ())}

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
