"""Shared parts of the commands of `dermserve model`: options, their values, and exit codes."""

import contextlib
import functools
import json
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from dermserve.models.lifecycle.errors import LifecycleError
from dermserve.models.lifecycle.gate import Requirement
from dermserve.models.lifecycle.server_config import ConfigMap, Desk
from dermserve.models.lifecycle.servers import Servers, Tls
from dermserve.models.lifecycle.stores import open_store
from dermserve.models.lifecycle.watch import Limits

DEFAULT_TFS = "127.0.0.1:8500"
VERSION = click.IntRange(1)
_F = TypeVar("_F", bound=Callable[..., Any])
_PEM = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)


def _with(options: Sequence[Callable[[Any], Any]], command: Any) -> Any:
    """Add options to a command, in the order in which --help is to list them."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def _config(text: str) -> pathlib.Path | ConfigMap:
    """Read a path, or configmap:NAMESPACE/NAME."""
    if not text.startswith("configmap:"):
        return pathlib.Path(text)
    found = re.fullmatch(r"configmap:([a-z0-9][-a-z0-9]*)/([a-z0-9][-.a-z0-9]*)", text)
    if found is None:
        raise click.BadParameter(f"{text} is not configmap:NAMESPACE/NAME")
    return ConfigMap(*found.groups())


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


def _duration(text: str) -> float:
    """Read 90s, 30m or 2h; return seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found is None or not float(found[1]):
        raise click.BadParameter(f"{text!r} is not a duration: write 90s, 30m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


_store_option = click.option(
    "--store", "base", metavar="BASE", default=".dermserve/store", envvar="DERMSERVE_STORE", show_default=True,
    show_envvar=True, help="The versioned store: a folder, or s3://… or gs://….",
)  # fmt: skip
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
config_option = click.option(
    "--config", "config_file", type=_config, metavar="FILE|configmap:NAMESPACE/NAME",
    help="The servers' list of models, where it is not models.config in the store. A ConfigMap is written with kubectl,"
    " and the servers read it by themselves.",
)  # fmt: skip
public_key_option = click.option(
    "--public-key", type=_PEM, envvar="DERMSERVE_PUBLIC_KEY", show_envvar=True,
    help="Refuse versions that are not signed with the private key to this PEM file.",
)  # fmt: skip
unchecked_option = click.option(
    "--unchecked", is_flag=True, help="Do not replay the version's golden predictions on every server first."
)
_timeout_option = click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True, metavar="SECONDS",
    help="How long a version may take to load.",
)  # fmt: skip
_note_option = click.option("--note", default="", metavar="TEXT", help="Why; kept in the audit log.")
_tfs_options = (
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
    click.option(
        "--tfs-tls-key", type=_PEM, envvar="DERMSERVE_TFS_TLS_KEY", help="That certificate's private key.",
    ),
    click.option(
        "--tfs-tls-name", metavar="NAME", envvar="DERMSERVE_TFS_TLS_NAME",
        help="Name to expect in their certificates, when not the host of their address.",
    ),
)  # fmt: skip
_USUAL = Limits()
watching = functools.partial(_with, (
    click.option(
        "--gateway-metrics", "gateways", metavar="HOST:PORT", multiple=True, envvar="DERMSERVE_GATEWAY_METRICS",
        show_envvar=True, help="Metrics of every gateway (metrics_listen): wait until they have the share. Repeatable;"
        " a DNS name stands for all its addresses.",
    ),
    click.option("--watch", "seconds", type=_duration, metavar="DURATION", help="Then watch the canary for so long."),
    click.option("--auto-rollback", is_flag=True, help="End the canary when it does not do well in that time."),
    click.option(
        "--max-failed", "more_failed", type=click.FloatRange(0, 1), default=_USUAL.more_failed, show_default=True,
        metavar="SHARE", help="Share of its requests that may fail, above the stable version's share.",
    ),
    click.option(
        "--max-slower", "slower", type=click.FloatRange(1), default=_USUAL.slower, show_default=True, metavar="TIMES",
        help="Largest mean time of its requests, as a multiple of the stable version's.",
    ),
    click.option(
        "--max-disagreement", "disagreement", type=click.FloatRange(0, 1), default=_USUAL.disagreement,
        show_default=True, metavar="SHARE", help="Share of the compared photos that it may name another class for.",
    ),
    click.option(
        "--min-requests", "requests", type=click.IntRange(1), default=_USUAL.requests, show_default=True, metavar="N",
        help="Requests of either version, and comparisons, without which it counts as not judged: exit code 4.",
    ),
))  # fmt: skip
"""Adds the options for the watch of a canary."""


def show(as_json: bool, values: dict[str, Any], text: str) -> None:
    """Print values as JSON, or as text."""
    click.echo(json.dumps(values) if as_json else text)


def _fails_clearly(command: _F) -> _F:
    """Print an error without a traceback, and exit with its code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (LifecycleError, OSError) as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(error.exit_code if isinstance(error, LifecycleError) else LifecycleError.exit_code)

    return run  # type: ignore[return-value]  # the same signature


def reading(command: _F) -> Any:
    """Add the options of commands that use a store, and pass the opened store."""

    @functools.wraps(command)
    def run(base: str, **others: Any) -> Any:
        return command(store=open_store(base), **others)

    return _with((_store_option, _json_option), _fails_clearly(run))


def asking_servers(command: _F) -> Any:
    """Add the options that name the model servers, and pass these, not yet connected."""

    @functools.wraps(command)
    def run(tfs: tuple[str, ...], tfs_tls_ca: pathlib.Path | None, tfs_tls_name: str | None, **others: Any) -> Any:
        certificate, key = others.pop("tfs_tls_certificate"), others.pop("tfs_tls_key")
        if (certificate is None) != (key is None):
            raise click.UsageError("--tfs-tls-certificate and --tfs-tls-key need each other")
        if tfs_tls_ca is None and (certificate or tfs_tls_name):
            raise click.UsageError("--tfs-tls-certificate and --tfs-tls-name need --tfs-tls-ca")
        tls = Tls(ca=tfs_tls_ca, certificate=certificate, key=key, name=tfs_tls_name) if tfs_tls_ca else None
        if tls and (fault := tls.fault()):
            raise click.UsageError(fault)
        return command(servers=Servers(separated(tfs) or [DEFAULT_TFS], tls=tls), **others)

    return _with(_tfs_options, run)


def moving(command: _F) -> Any:
    """Add the options of commands that move labels, and pass a Desk."""

    @functools.wraps(command)
    def run(base: str, servers: Servers, config_file: pathlib.Path | ConfigMap | None, **others: Any) -> Any:
        how = {name: others.pop(name) for name in ("public_key", "timeout", "note")}
        say = functools.partial(click.echo, err=True)
        for number in (signal.SIGTERM, signal.SIGHUP):  # these signals undo a change that has begun, as Ctrl-C does
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)
        with servers:
            desk = Desk(store=open_store(base), servers=servers, config_file=config_file, say=say, **how)
            return command(desk=desk, **others)

    options = (_store_option, config_option, public_key_option, _timeout_option, _note_option, _json_option)
    return _with(options, asking_servers(_fails_clearly(run)))


def separated(names: tuple[str, ...]) -> list[str]:
    """Split names: variables separate them by commas, click by spaces."""
    return [part for text in names for part in re.split(r"[,\s]+", text) if part]
