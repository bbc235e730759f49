"""Shared parts of the commands of `dermserve model`: options, their values, printing, and exit codes."""

import contextlib
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dermserve.models.lifecycle.gate import Requirement
from dermserve.models.lifecycle.server_config import ConfigMap, Desk
from dermserve.models.lifecycle.servers import Server, connected, tls_credentials
from dermserve.models.lifecycle.stores import open_store
from dermserve.models.lifecycle.watch import Limits
from dermserve.models.options import Number, add_options, store_option

DEFAULT_TFS = "127.0.0.1:8500"
VERSION = click.IntRange(1)
_PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


def _config_map(text: str) -> ConfigMap:
    if found := re.fullmatch(r"([a-z0-9][-a-z0-9]*)/([a-z0-9][-.a-z0-9]*)", text):
        return ConfigMap(*found.groups())
    raise click.BadParameter(f"{text} is not NAMESPACE/NAME")


def model_name(text: str) -> str:
    """Read a model's name, which is that of a folder in the store."""
    if not text or "/" in text or text.startswith("."):
        raise click.BadParameter(f"{text!r} is not the name of a model")
    return text


def _number(text: str) -> float:
    return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def parse_requirement(text: str) -> Requirement:
    """Read `accuracy>=0.8` or `accuracy>=80%`."""
    if found := re.fullmatch(r"\s*(\w+)\s*(>=|<=|>|<)\s*([-+.\deE]+%?)\s*", text):
        with contextlib.suppress(ValueError):
            return Requirement(found[1], found[2], _number(found[3]))
    raise click.BadParameter(f"{text!r} is not a requirement: write for example accuracy>=0.8, with >=, <=, > or <")


def parse_share(text: str) -> float:
    """Read 5% or 0.05, between 0 and 1."""
    try:
        found = _number(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a share: write 5% or 0.05") from None
    if not 0 < found < 1:
        raise click.BadParameter(f"{text} is not between 0% and 100%")
    return found


_json_option = click.option(
    "--json", is_flag=True, expose_value=False, help="Print JSON, one object a line.",
    callback=lambda context, _, value: context.meta.update(as_json=value),
)  # fmt: skip
config_option = click.option(
    "--config-map", type=_config_map, metavar="NAMESPACE/NAME",
    help="The ConfigMap that has models.config in place of the store. It is written with kubectl, and the servers read"
    " it by themselves.",
)  # fmt: skip
public_key_option = click.option(
    "--public-key", type=_PEM, envvar="DERMSERVE_PUBLIC_KEY", show_envvar=True,
    help="Refuse versions that are not signed with the private key to this PEM file.",
)  # fmt: skip
servers_options = add_options(
    click.option(
        "--tfs", metavar="HOST:PORT", multiple=True, envvar="DERMSERVE_TFS", show_envvar=True,
        help="Every model server that serves the store; repeatable. A DNS name stands for all its addresses."
        f"  [default: {DEFAULT_TFS}]",
    ),
    click.option(
        "--tfs-tls-ca", type=_PEM, envvar="DERMSERVE_TFS_TLS_CA",
        help="Authorities that the model servers' certificates must come from; without it, no TLS.",
    ),
    click.option(
        "--tfs-tls-certificate", type=_PEM, envvar="DERMSERVE_TFS_TLS_CERTIFICATE",
        help="Certificate to show them, where they ask for one.",
    ),
    click.option("--tfs-tls-key", type=_PEM, envvar="DERMSERVE_TFS_TLS_KEY", help="That certificate's private key."),
    click.option(
        "--tfs-tls-name", metavar="NAME", envvar="DERMSERVE_TFS_TLS_NAME",
        help="Name to expect in their certificates, when not the host of their address.",
    ),
)  # fmt: skip
moving = add_options(
    servers_options, config_option, public_key_option,
    click.option(
        "--timeout", type=Number(0, min_open=True), default=120.0, show_default=True, metavar="SECONDS",
        help="How long a version may take to load.",
    ),
)  # fmt: skip
_USUAL = Limits()
watching = add_options(
    click.option(
        "--gateway-metrics", "gateways", metavar="HOST:PORT", multiple=True, envvar="DERMSERVE_GATEWAY_METRICS",
        show_envvar=True, help="Metrics of every gateway (metrics_listen): wait until they have the share. Repeatable;"
        " a DNS name stands for all its addresses.",
    ),
    click.option(
        "--auto-rollback", "seconds", type=Number(0, min_open=True), metavar="SECONDS",
        help="Then watch the canary so long, and end it if it does worse than these options allow.",
    ),
    click.option(
        "--max-failed", "more_failed", type=Number(0, 1), default=_USUAL.more_failed, show_default=True,
        metavar="SHARE", help="Share of its requests that may fail, above the stable version's share.",
    ),
    click.option(
        "--max-slower", "slower", type=Number(1), default=_USUAL.slower, show_default=True, metavar="TIMES",
        help="Largest mean time of its requests, as a multiple of the stable version's.",
    ),
    click.option(
        "--max-disagreement", "disagreement", type=Number(0, 1), default=_USUAL.disagreement,
        show_default=True, metavar="SHARE", help="Share of the compared photos that it may name another class for.",
    ),
    click.option(
        "--min-requests", "requests", type=click.IntRange(1), default=_USUAL.requests, show_default=True, metavar="N",
        help="Requests of either version, and comparisons, without which it counts as not judged: exit code 4.",
    ),
)  # fmt: skip


def show(values: dict[str, Any], text: str) -> None:
    """Print values as JSON, with --json, or else as text."""
    click.echo(json.dumps(values) if click.get_current_context().meta["as_json"] else text)


def at_desk(*options: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], Any]:
    """Add --store, --json and more options to a command, and pass it a Desk made of their values."""

    def add(command: Callable[..., Any]) -> Any:
        @functools.wraps(command)
        def run(base: str, **given: Any) -> Any:
            try:
                asked, say = _servers(given), functools.partial(click.echo, err=True)
                how = {name: given.pop(name) for name in ("config_map", "public_key", "timeout") if name in given}
                with asked as servers:
                    return command(desk=Desk(store=open_store(base), servers=servers, say=say, **how), **given)
            except BrokenPipeError:  # whoever reads the output has gone: click ends without a word
                raise
            except OSError as error:
                raise click.ClickException(str(error)) from error

        return add_options(store_option, *options, _json_option)(run)

    return add


def _servers(given: dict[str, Any]) -> contextlib.AbstractContextManager[list[Server]]:
    """Take the model servers out of the given options; none where the command has no such option."""
    if "tfs" not in given:
        return contextlib.nullcontext([])
    names = separated(given.pop("tfs")) or [DEFAULT_TFS]
    ca, certificate, key, name = (given.pop(f"tfs_tls_{what}") for what in ("ca", "certificate", "key", "name"))
    if (certificate is None) != (key is None):
        raise click.UsageError("--tfs-tls-certificate and --tfs-tls-key need each other")
    if ca is None and (certificate or name):
        raise click.UsageError("--tfs-tls-certificate and --tfs-tls-name need --tfs-tls-ca")
    try:
        return connected(names, tls=tls_credentials(ca, certificate, key) if ca else None, tls_name=name)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def separated(names: tuple[str, ...]) -> list[str]:
    """Split names: variables separate them by commas, click by spaces."""
    return [part for text in names for part in re.split(r"[,\s]+", text) if part]
