"""What the commands share: options that name the server, durations, progress and errors."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import click

from dermserve.loadtest.errors import LoadTestError, ScenarioError
from dermserve.loadtest.scenario import parse_seconds
from dermserve.local import DEFAULT_STORE


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read 500ms, 90s, 2m or 1m30s."""
        try:
            return float(value) if isinstance(value, int | float) else parse_seconds(value)
        except ScenarioError as error:
            self.fail(str(error), param, ctx)


DURATION = _Duration()


def server_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that name the server."""
    options = (
        click.option("--server", metavar="HOST:PORT", envvar="DERMSERVE_SERVER", show_envvar=True, help="The gateway."),
        click.option(
            "--local", is_flag=True, help="Start a model server and a gateway here, and stop them afterwards."
        ),
        click.option(
            "--store",
            type=click.Path(file_okay=False, path_type=pathlib.Path),
            default=DEFAULT_STORE,
            envvar="DERMSERVE_STORE",
            show_default=True,
            show_envvar=True,
            help="Store of --local.",
        ),
        click.option("--metrics", default="", metavar="URL", help="The gateway's metrics, http://HOST:PORT/metrics."),
        click.option(
            "--tls-ca",
            type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
            help="PEM of the authority to trust. [default: no encryption]",
        ),
        click.option(
            "--tls-cert",
            type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
            help="PEM of this client's own certificate, for a gateway that asks for one (mTLS); with --tls-key.",
        ),
        click.option(
            "--tls-key",
            type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
            help="PEM of its private key.",
        ),
        click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Sent with every call; repeatable."),
    )
    for option in reversed(options):
        command = option(command)
    return command


class Certificates(NamedTuple):
    """PEM texts for a Scenario, empty where there is none."""

    tls_ca: str
    tls_cert: str
    tls_key: str


def read_tls(ca: pathlib.Path | None, cert: pathlib.Path | None, key: pathlib.Path | None) -> Certificates:
    """Read certificates.

    Raises:
        ScenarioError: a certificate without its key, a key without its certificate, or either without --tls-ca.
    """
    if (cert is None) != (key is None):
        raise ScenarioError("give --tls-cert and --tls-key together")
    if cert is not None and ca is None:
        raise ScenarioError("--tls-cert needs --tls-ca, the authority that the gateway's certificate is checked by")
    return Certificates(*(file.read_text() if file else "" for file in (ca, cert, key)))


def read_metadata(metadata: tuple[str, ...]) -> dict[str, str]:
    """Read KEY=VALUE pairs.

    Raises:
        ScenarioError: one is something else.
    """
    pairs = [pair.partition("=") for pair in metadata]
    if any(not key or not sign for key, sign, _ in pairs):
        raise ScenarioError("write --metadata KEY=VALUE")
    return {key: value for key, _, value in pairs}


def progress() -> Callable[[str], None]:
    """Make a printer of lines on stderr."""
    return lambda line: click.echo(line, err=True)


@contextlib.contextmanager
def reading_errors() -> Iterator[None]:
    """Turn what may go wrong into a message and an exit code."""
    try:
        yield
    except LoadTestError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(130)
