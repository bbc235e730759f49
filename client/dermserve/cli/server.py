"""Options that choose the gateway, and the client made from them."""

import functools
import pathlib
import ssl
from collections.abc import Callable, Mapping
from typing import Any

import click

from dermserve.client import DEFAULT_DEADLINE, DEFAULT_TARGET, TLS, Client

_FILE = click.Path(exists=True, dir_okay=False)


def tls_options(given: Mapping[str, Any]) -> TLS | None:
    """Make TLS options of those that a command got; None for plaintext. Raises OSError or ValueError: one is wrong."""
    files, authority = [given[name] for name in ("tls_ca", "tls_cert", "tls_key")], given["tls_authority"]
    if not (given["tls"] or any(files) or authority):
        return None
    _, chain, key = files
    if chain and key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(chain, key, password="")
        except ssl.SSLError as error:  # gRPC would only report that no server answers
            raise ValueError(f"{chain} with the key {key} can't be used for TLS: {error}") from error
    roots, certificate, secret = (file and pathlib.Path(file).read_bytes() for file in files)
    return TLS(root_certificates=roots, certificate_chain=certificate, private_key=secret, authority=authority)


TLS_OPTIONS = (
    click.option("--tls", is_flag=True, help="Use TLS; the options below imply it."),
    click.option("--tls-ca", type=_FILE, help="Authorities to trust (PEM), in place of the built-in ones."),
    click.option("--tls-cert", type=_FILE, help="Client certificate (PEM), for mutual TLS."),
    click.option("--tls-key", type=_FILE, help="Its key (PEM)."),
    click.option("--tls-authority", metavar="NAME", help="Name to expect in the server's certificate."),
)
_OPTIONS = (
    click.option(
        "--server", "--target", "target", metavar="HOST:PORT", default=DEFAULT_TARGET, envvar="DERMSERVE_SERVER",
        show_default=True, show_envvar=True, help="Gateway to ask.",
    ),
    click.option(
        "--deadline", type=click.FloatRange(0, min_open=True), default=DEFAULT_DEADLINE, show_default=True,
        metavar="SECONDS", help="How long to wait for an answer.",
    ),
    click.option(
        "--api-key", metavar="KEY", envvar="DERMSERVE_API_KEY", show_envvar=True,
        help="API key, for an edge that requires one. In the variable, others on this machine don't see it.",
    ),
    *TLS_OPTIONS,
)  # fmt: skip


def server_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets the client made from them as `client`."""

    @functools.wraps(function)
    def command(*, target: str, deadline: float, api_key: str | None, **values: Any) -> Any:
        given = {name: values.pop(name) for name in ("tls", "tls_ca", "tls_cert", "tls_key", "tls_authority")}
        try:
            key = {"x-api-key": api_key} if api_key else {}
            client = Client(target, tls=tls_options(given), deadline=deadline, metadata=key)
        except (OSError, ValueError) as error:
            raise click.UsageError(str(error)) from error
        with client:
            return function(client=client, **values)

    return functools.reduce(lambda made, option: option(made), reversed(_OPTIONS), command)
