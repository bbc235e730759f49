"""`dermserve edge`: the commands for platform engineers. `dermserve up --edge` runs the edge on one machine."""

import hashlib
import json
import pathlib
import secrets
from typing import Any

import click

from dermserve.edge import Settings, envoy_config, write_config
from dermserve.edge.config import gather
from dermserve.edge.settings import setting_options


@click.group()
def edge() -> None:
    """Write what an Envoy in front of the gateway needs.

    It accepts JSON or photos over HTTP, gRPC and gRPC-Web, checks keys, and serves the page: docs/edge.md.
    """


@edge.command()
@setting_options
@click.option("--out", type=click.Path(dir_okay=False, path_type=pathlib.Path),
              help="File to write; else stdout, without certificates.")  # fmt: skip
def config(out: pathlib.Path | None, **chosen: Any) -> None:
    """Print Envoy's configuration (YAML, for `envoy -c FILE.yaml`), with digests of API keys.

    Certificates are in files beside it, which Envoy reads again when they change.
    """
    settings = Settings(**{name: value for name, value in chosen.items() if value is not None})
    if out is None:
        click.echo(envoy_config(settings)["envoy.yaml"], nl=False)
    else:
        write_config(settings, out)


@edge.command()
@click.argument("client")
def key(client: str) -> None:
    """Make an API key for CLIENT: the key on stderr, once, and the entry for the file of keys on stdout."""
    made = secrets.token_urlsafe(32)
    click.echo(f"API key of {client}, shown only now (header x-api-key): {made}", err=True)
    click.echo(json.dumps({client: f"sha256:{hashlib.sha256(made.encode()).hexdigest()}"}))


@edge.command()
@click.argument("to", type=click.Path(file_okay=False, path_type=pathlib.Path))
@click.option("--store", type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path),
              envvar="DERMSERVE_STORE", show_envvar=True, help="Store with the on-device model.")  # fmt: skip
def files(to: pathlib.Path, store: pathlib.Path | None) -> None:
    """Write the page, and what it needs to work without a network, into the folder TO, beside what is there."""
    click.echo(json.dumps(gather(to, store=store)))
