"""The options of `dermserve up` that are about the edge: `--edge`, and settings of `dermserve edge config`."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dermserve.edge import Settings, SettingsError
from dermserve.edge.options import setting_options
from dermserve.local.edge import DEFAULT_EDGE_PORT, Edge
from dermserve.local.ports import HOST

_F = TypeVar("_F", bound=Callable[..., Any])
_SETTINGS = ("keys", "jwks", "issuer", "audience", "origin", "tls_cert", "tls_key")
_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--edge", "with_edge", is_flag=True, help="Start Envoy, too: HTTP, JSON, gRPC-Web and the page."),
    click.option(
        "--edge-port",
        type=click.IntRange(0, 65535),
        default=DEFAULT_EDGE_PORT,
        show_default=True,
        help="Envoy's port; 0 takes a free one.",
    ),
    setting_options(prefix="edge-", only=_SETTINGS, exists=True),
)


def edge_options(command: _F) -> _F:
    """Add the options to a command."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


def chosen_edge(*, with_edge: bool, edge_port: int, **choices: Any) -> Callable[[str], Edge] | None:
    """Return a function that makes the edge from the gateway's address; None without `--edge`.

    Raises:
        click.UsageError: the options don't fit together.
    """
    given = {name: value for name in _SETTINGS if (value := choices.pop(f"edge_{name}"))}
    if not with_edge:
        if given:
            raise click.UsageError("the --edge-… options need --edge")
        return None
    if not {"keys", "jwks"} & given.keys():
        given |= {"requests_per_minute": 60_000, "burst": 1_000}  # Without keys the only client is this machine.

    def settings(gateway: str) -> Settings:
        return Settings(gateway=gateway, listen=f"{HOST}:{edge_port}", **given)

    try:
        settings(f"{HOST}:1")  # before anything is started
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    return lambda gateway: Edge(settings(gateway), **choices)
