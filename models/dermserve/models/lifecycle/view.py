"""`dermserve model list`, `status`, `verify` and `log`: the commands that change nothing."""

import contextlib
import pathlib
import sys
from typing import Any

import click

from dermserve.models.lifecycle.errors import ConfigError, LifecycleError, StoreError
from dermserve.models.lifecycle.gate import TOLERANCE, Check, verify_files, verify_version
from dermserve.models.lifecycle.moves import CANARY, STABLE
from dermserve.models.lifecycle.options import (
    VERSION,
    asking_servers,
    config_option,
    model_name,
    public_key_option,
    reading,
    show,
)
from dermserve.models.lifecycle.rollout import pending
from dermserve.models.lifecycle.server_config import CONFIG, ConfigMap, Desk, ServerConfig
from dermserve.models.lifecycle.servers import Server, Servers, state_name
from dermserve.models.lifecycle.stores import Store, entries, known_version, manifest_of
from dermserve.models.options import Number


@click.command(name="list")
@click.argument("name", type=model_name, metavar="MODEL", required=False)
@config_option
@reading
def list_versions(name: str | None, store: Store, config_file: pathlib.Path | ConfigMap | None, as_json: bool) -> None:
    """List the versions in a store, with labels, pins and digests, without asking a server."""
    if name is not None:
        known_version(store, name, None)
    config, models = _config(store, config_file), [name] if name else store.models()
    if not models:
        click.echo(f"{store.base} has no versions", err=True)
    for listed in models:
        labels, pins = (config.labels(listed), config.pins(listed)) if listed in config.models else ({}, [])
        for version in store.versions(listed):
            manifest = None
            with contextlib.suppress(StoreError):
                manifest = manifest_of(store, listed, version)
            named = sorted(label for label, number in labels.items() if number == version)
            digest, about = (manifest.digest, dict(manifest.about)) if manifest else (None, {})
            row = {"model": listed, "version": version, "labels": named, "pinned": version in pins}
            shown = f" [{', '.join(named)}]" if named else ""
            told = f"{listed:<20} {version:>4}{shown}  {_about(digest, about)}"
            show(as_json, {**row, "digest": digest, "about": about}, told)


def _about(digest: str | None, about: dict[str, str]) -> str:
    training = {"TRAINED": "trained", "NONE": "never trained"}.get(about.get("training", ""), "")
    told = (about.get("exported_at", ""), training, f"sha256 {digest[:12]}" if digest else "no manifest")
    return ", ".join(part for part in told if part)


@click.command()
@click.argument("name", type=model_name, metavar="MODEL", required=False)
@config_option
@asking_servers
@reading
def status(
    name: str | None, store: Store, config_file: pathlib.Path | ConfigMap | None, servers: Servers, as_json: bool
) -> None:
    """Show the state on the servers: each version, and the versions of the labels.

    Exit code 1 if a server has no version of a model that can answer, or its labels differ from models.config.
    """
    config, rows = _config(store, config_file), list[dict[str, Any]]()
    names = [name] if name else config.models or store.models()
    if not names:
        raise ConfigError(f"{store.base} has no model, and no models.config lists one: name a model")
    with servers:
        for one in names:
            wanted = config.labels(one) if one in config.models else {}
            rows += [_live_row(server, one, wanted) for server in servers]
    if (intent := pending(store)) is not None:
        click.echo(f"half done, the next command finishes or undoes it: {intent}", err=True)
    for row in rows:
        show(as_json, row, _live_text(row))
    if not all(row["ok"] for row in rows):
        sys.exit(LifecycleError.exit_code)


def _live_row(server: Server, model: str, wanted: dict[str, int]) -> dict[str, Any]:
    versions = [
        {"version": state.version, "state": state_name(state.state), "error": state.status.error_message or None}
        for state in server.states(model)
    ]
    asked = sorted({STABLE, CANARY, *wanted}) if versions else []
    labels = {label: version for label in asked if (version := server.label(model, label)) is not None}
    row = {"model": model, "server": server.address, "versions": versions, "labels": labels, "labels_wanted": wanted}
    return {**row, "ok": labels == wanted and any(one["state"] == "AVAILABLE" for one in versions)}


def _live_text(row: dict[str, Any]) -> str:
    """Write a row as text, a line for each version."""
    lines = [f"{row['model']} at {row['server']}{'' if row['versions'] else ': not served'}"]
    for one in row["versions"]:
        labels = [label for label, version in sorted(row["labels"].items()) if version == one["version"]]
        why = f": {one['error']}" if one["error"] else ""
        named = f" [{', '.join(labels)}]" if labels else ""
        lines.append(f"  {one['version']:>4}  {one['state']}{named}{why}")
    if row["labels"] != row["labels_wanted"]:
        lines.append(f"  labels are {row['labels'] or 'none'}, models.config says {row['labels_wanted'] or 'none'}")
    return "\n".join(lines)


@click.command()
@click.argument("name", type=model_name, metavar="MODEL", required=False)
@click.argument("version", type=VERSION, required=False)
@asking_servers
@click.option(
    "--tolerance", type=Number(0), default=TOLERANCE, show_default=True,
    help="Largest allowed difference from a golden prediction, relative to its largest value or 1.",
)  # fmt: skip
@click.option(
    "--offline", is_flag=True,
    help="Ask no server: only check the files of all versions, of those of MODEL, or of VERSION.",
)  # fmt: skip
@public_key_option
@reading
def verify(
    name: str | None,
    version: int | None,
    store: Store,
    servers: Servers,
    tolerance: float,
    offline: bool,
    public_key: pathlib.Path | None,
    as_json: bool,
) -> None:
    """Replay a version's warm-up and golden predictions on running servers, and check its files by their digests.

    VERSION is the newest in the store by default. The servers must have loaded it. Use --offline in an init container,
    before a server starts.
    """
    failed = 0
    with servers:
        if offline:
            checks = verify_files(store, name, version, public_key)
        elif name is None:
            raise click.UsageError("name a MODEL, or check the files of all with --offline")
        else:
            version = known_version(store, name, version)
            checks = verify_version(store, servers, name, version, tolerance=tolerance, public_key=public_key)
        for check in checks:
            failed += bool(check.problem)
            _show_check(check, as_json)
    if failed:
        click.echo(f"{failed} checks failed", err=True)
        sys.exit(LifecycleError.exit_code)


def _show_check(check: Check, as_json: bool) -> None:
    values: dict[str, Any] = {"server": check.server or None, "what": check.what, "ok": not check.problem}
    values |= {"problem": check.problem or None, "difference": check.difference}
    how = check.problem or ("ok" if not check.difference else f"ok, differs by {check.difference:.1g}")
    show(as_json, values, f"{check.server or 'store':<22} {check.what}: {how}")


@click.command()
@click.argument("name", type=model_name, metavar="MODEL", required=False)
@reading
def log(name: str | None, store: Store, as_json: bool) -> None:
    """Show the audit log, oldest first: when, who, what, from, to."""
    for entry in entries(store, name):
        why = f"  ({entry.more['note']})" if "note" in entry.more else ""
        text = f"{entry.when}  {entry.who}  {entry.what:<8} {entry.model}  {entry.change()}{why}"
        click.echo(entry.json() if as_json else text)


def _config(store: Store, config_file: pathlib.Path | ConfigMap | None) -> ServerConfig:
    """Read models.config; an empty one if the store has none."""
    if config_file is None and store.read_text(CONFIG) is None:
        return ServerConfig()
    return Desk(store=store, servers=Servers(()), config_file=config_file).read_config()
