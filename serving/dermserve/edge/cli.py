"""`dermserve edge`: what platform people need of it. `dermserve up --edge` runs it on one machine."""

import json
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

from dermserve.edge import SITE, Jwt, Settings, SettingsError, bootstrap, read_keys
from dermserve.edge.files import gather

_FILE = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)
_F = TypeVar("_F", bound=Callable[..., Any])
_PATH = click.Path(path_type=pathlib.Path)


@click.group()
def edge() -> None:
    """Write what an Envoy in front of the gateway needs.

    It speaks HTTP with JSON or photos as they are, gRPC and gRPC-Web, checks keys, and serves the page: docs/edge.md.
    """


def _option(name: str, *others: str, **more: Any) -> Callable[[_F], _F]:
    variable = "DERMSERVE_EDGE_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, *others, envvar=variable, show_envvar=True, show_default=True, **more)


@edge.command()
@_option("--gateway", required=True, help="HOST:PORT of the gateway, as Envoy reaches it.")
@_option("--listen", default="127.0.0.1:8080", help="HOST:PORT to serve.")
@_option("--admin", default="127.0.0.1:9901", help="HOST:PORT of Envoy's admin interface, on the loopback.")
@_option("--metrics", help="HOST:PORT for Prometheus (/stats/prometheus) and probes (/ready).")
@_option("--www", type=_PATH, help="Folder to serve files from, from `dermserve edge files`; the page alone without.")
@_option("--www-seen", type=_PATH, help="Where Envoy sees that folder, when elsewhere.")
@_option("--tls-cert", type=_PATH, help="TLS certificate chain, PEM, where Envoy sees it.")
@_option("--tls-key", type=_PATH, help="Its key, PEM.")
@_option("--gateway-tls-ca", type=_PATH, help="CA of the gateway's certificate, PEM; plaintext without.")
@_option("--gateway-tls-name", help="Name in that certificate; the gateway's host by default.")
@_option("--gateway-tls-cert", type=_PATH, help="Certificate to show to a gateway that asks for one, PEM.")
@_option("--gateway-tls-key", type=_PATH, help="Its key, PEM.")
@_option("--keys", type=_FILE, help='API keys: JSON, {"client": "key"}.')
@_option("--jwks", type=_PATH, help="Keys of tokens (JWKS), where Envoy sees them.")
@_option("--issuer", help="What a token's iss must say.")
@_option("--audience", "audiences", multiple=True, help="What a token's aud must hold one of; repeatable.")
@_option("--open", "is_open", is_flag=True, help="Let anyone who can reach it ask, without key or token.")
@_option("--origin", "origins", multiple=True, help="Origin of another page that may ask (CORS); repeatable.")
@_option("--requests-per-minute", type=click.IntRange(1), default=120, help="Of each client.")
@_option("--burst", type=click.IntRange(1), default=30, help="Requests at once of each client, after a rest.")
@_option("--max-photo-bytes", type=click.IntRange(1), default=20_000_000, help="Of a photo.")
@_option("--max-connections", type=click.IntRange(1), default=1000, help="From all clients together.")
@_option("--heap-bytes", type=click.IntRange(2**26), default=2**29, help="Memory from which Envoy sheds load.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="File to write; else stdout.")
def config(
    out: pathlib.Path | None,
    keys: pathlib.Path | None,
    jwks: pathlib.Path | None,
    issuer: str | None,
    audiences: tuple[str, ...],
    is_open: bool,
    tls_cert: pathlib.Path | None,
    tls_key: pathlib.Path | None,
    www: pathlib.Path | None,
    **rest: Any,
) -> None:
    """Print Envoy's configuration (JSON, for `envoy -c FILE`).

    It holds the API keys where there are any: keep it as you keep them.
    """
    if (jwks is None) != (issuer is None):
        raise click.UsageError("--jwks and --issuer go together")
    try:
        settings = Settings(
            keys=read_keys(keys) if keys else (),
            jwt=Jwt(jwks=jwks, issuer=issuer, audiences=audiences) if jwks and issuer else None,
            open=is_open,
            certificate=tls_cert,
            key=tls_key,
            www=www or SITE,
            **rest,
        )
        text = json.dumps(bootstrap(settings), indent=1) + "\n"
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    if out is None:
        click.echo(text, nl=False)
    else:
        out.touch(mode=0o640)
        out.write_text(text, encoding="utf-8")


@edge.command()
@click.argument("to", type=click.Path(file_okay=False, path_type=pathlib.Path))
@click.option(
    "--store",
    type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path),
    envvar="DERMSERVE_STORE",
    show_envvar=True,
    help="Store to take the on-device model from.",
)
def files(to: pathlib.Path, store: pathlib.Path | None) -> None:
    """Put the page, and what it needs to work without a network, into the folder TO, anew."""
    if to.exists() and any(to.iterdir()) and not (to / "openapi.json").exists():
        raise click.UsageError(f"{to} holds something else than an earlier copy of the page, and would be emptied")
    try:
        found = gather(to, store=store)
    except OSError as error:
        raise click.ClickException(f"can't write {error.filename}: {error.strerror}") from error
    click.echo(json.dumps(found))
