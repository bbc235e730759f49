"""The options of `dermserve up` that are about the edge."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dermserve.edge import Jwt, Settings, SettingsError, read_keys
from dermserve.local.edge import DEFAULT_EDGE_PORT, Edge
from dermserve.local.ports import HOST

_F = TypeVar("_F", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=pathlib.Path)
_OPTIONS = (
    click.option("--edge", "with_edge", is_flag=True, help="Start Envoy, too: HTTP, JSON, gRPC-Web and the page."),
    click.option(
        "--edge-port",
        type=click.IntRange(0, 65535),
        default=DEFAULT_EDGE_PORT,
        show_default=True,
        help="Envoy's port; 0 takes a free one.",
    ),
    click.option("--edge-keys", type=_FILE, help='API keys it asks for: JSON, {"client": "key"}.'),
    click.option("--edge-jwks", type=_FILE, help="Keys of the tokens it asks for (JWKS)."),
    click.option("--edge-issuer", help="What a token's iss must say."),
    click.option("--edge-tls-cert", type=_FILE, help="Its TLS certificate chain, PEM."),
    click.option("--edge-tls-key", type=_FILE, help="The certificate's key, PEM."),
)


def edge_options(command: _F) -> _F:
    """Add the options to a command."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(_OPTIONS), command)


def chosen_edge(
    *,
    with_edge: bool,
    edge_port: int,
    edge_keys: pathlib.Path | None,
    edge_jwks: pathlib.Path | None,
    edge_issuer: str | None,
    edge_tls_cert: pathlib.Path | None,
    edge_tls_key: pathlib.Path | None,
    **rest: Any,
) -> Callable[[str], Edge] | None:
    """Make what makes the edge once the gateway's address is known; None where none was asked for.

    Raises:
        click.UsageError: the options don't fit together.
    """
    chosen = (edge_keys, edge_jwks, edge_issuer, edge_tls_cert, edge_tls_key)
    if not with_edge:
        if any(chosen):
            raise click.UsageError("the --edge-… options need --edge")
        return None
    if (edge_jwks is None) != (edge_issuer is None):
        raise click.UsageError("--edge-jwks and --edge-issuer go together")

    # Without keys there is one client, and it is whoever sits here.
    rate, burst = (120, 30) if edge_keys or edge_jwks else (60_000, 1_000)

    def settings(gateway: str) -> Settings:
        return Settings(
            requests_per_minute=rate,
            burst=burst,
            gateway=gateway,
            listen=f"{HOST}:{edge_port}",
            keys=read_keys(edge_keys) if edge_keys else (),
            jwt=Jwt(jwks=edge_jwks, issuer=edge_issuer) if edge_jwks and edge_issuer else None,
            certificate=edge_tls_cert,
            key=edge_tls_key,
        )

    try:
        settings(f"{HOST}:1")  # before anything is started
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    return lambda gateway: Edge(settings(gateway), **rest)
