"""`dermserve model`: the commands for the life of a version."""

import contextlib
import dataclasses
import pathlib
import sys
from typing import Any

import click

from dermserve.models.export import export_version
from dermserve.models.lifecycle import moves
from dermserve.models.lifecycle.errors import ConfigError, GateError, LifecycleError, StoreError
from dermserve.models.lifecycle.gate import Check, Requirement, verify_files, verify_version
from dermserve.models.lifecycle.manifest import load_key
from dermserve.models.lifecycle.options import (
    VERSION,
    asking_servers,
    config_option,
    model_name,
    moving,
    parse_requirement,
    parse_share,
    public_key_option,
    reading,
    separated,
    show,
    unchecked_option,
    watching,
)
from dermserve.models.lifecycle.rollout import Intent, pending
from dermserve.models.lifecycle.server_config import CANARY_FILE, CONFIG, ConfigMap, Desk, ServerConfig
from dermserve.models.lifecycle.servers import Server, Servers, state_name
from dermserve.models.lifecycle.stores import LocalStore, Store, entries, known_version, manifest_of
from dermserve.models.lifecycle.watch import Gateways, Limits


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def model() -> None:
    """Publish, verify, promote, roll back and retire versions of the models.

    A store holds versions and model servers serve them. The labels `stable` and `canary` say which version is for which
    callers. A command changes the servers, models.config (so that a restart keeps the change), and the store's audit
    log. See docs/versions.md.

    Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 a server does not answer, 4 a version failed a check, a
    requirement or its canary.
    """


@model.command(name="list")
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


@model.command()
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
    asked = sorted({moves.STABLE, moves.CANARY, *wanted}) if versions else []
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


@model.command()
@click.argument("name", type=model_name, metavar="MODEL", required=False)
@click.argument("version", type=VERSION, required=False)
@asking_servers
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
            checks = verify_version(store, servers, name, version, public_key=public_key)
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


@model.command()
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


@model.command()
@click.argument("run", metavar="RUN", type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path))
@click.option(
    "--sign", "key", metavar="KEY", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="Sign it with this private key: a PEM file, elliptic curve, without a password (extra `sign`).",
)  # fmt: skip
@reading
def publish(run: pathlib.Path, key: pathlib.Path | None, store: Store, as_json: bool) -> None:
    """Export the model of RUN as a new version, checked before it appears.

    RUN is the folder of a finished and evaluated `dermserve train`. Servers that follow the newest version load it at
    once; pinned ones do so after `promote` or `canary`.
    """
    if key is not None:
        load_key(key)  # before minutes of work
    try:
        version = export_version(str(run), store.base, run=run, sign=key)
        from dermserve.models.training.train.finished import FinishedRun
    except ImportError as error:
        raise click.UsageError(
            f"`dermserve model publish` needs more ({error}): pip install '.[models]' in a clone"
        ) from error
    name = FinishedRun(run).model
    manifest = manifest_of(store, name, version)
    digest = manifest.digest if manifest else None
    told = f"{name}: version {version} published to {store.base} (sha256 {digest})"
    show(as_json, {"model": name, "version": version, "store": store.base, "digest": digest}, told)
    if not as_json:
        click.echo(f"next: dermserve model promote {name} {version}, or canary first", err=True)


@model.command()
@click.argument("name", type=model_name, metavar="MODEL")
@click.argument("version", type=VERSION, required=False)
@click.option(
    "--require", type=parse_requirement, multiple=True, metavar="'FIGURE>=VALUE'",
    help="Bound on a figure of the version's evaluation, for example accuracy>=0.8; repeatable.",
)  # fmt: skip
@unchecked_option
@moving
def promote(
    desk: Desk, name: str, version: int | None, require: tuple[Requirement, ...], unchecked: bool, as_json: bool
) -> None:
    """Make a version the stable one on every server: the newest in the store when none is given.

    It is loaded beside the version that serves, and its golden predictions are replayed. Then the label moves, and the
    old version is unloaded. No request fails.
    """
    _show_moved(moves.promote(desk, name, version, require=require, checked=not unchecked), as_json)


@model.command()
@click.argument("name", type=model_name, metavar="MODEL")
@click.option("--to", "version", type=VERSION, metavar="VERSION", help="By default the version that was stable before.")
@moving
def rollback(desk: Desk, name: str, version: int | None, as_json: bool) -> None:
    """Make the version stable again that was stable before the last promotion."""
    _show_moved(moves.rollback(desk, name, version), as_json)


@model.command()
@click.argument("name", type=model_name, metavar="MODEL")
@click.argument("version", type=VERSION, required=False)
@click.option("--share", type=parse_share, metavar="SHARE", help="Of requests without version and label: 5% or 0.05.")
@click.option("--off", is_flag=True, help="End the canary: everybody gets the stable version.")
@unchecked_option
@watching
@moving
def canary(
    desk: Desk,
    name: str,
    version: int | None,
    share: float | None,
    off: bool,
    unchecked: bool,
    gateways: tuple[str, ...],
    seconds: float | None,
    auto_rollback: bool,
    as_json: bool,
    **limits: Any,
) -> None:
    """Serve another version to a share of the callers: the newest when none is given.

    This loads the version, sets the label `canary` to it, and writes the share to canary.toml in the store, which the
    gateways read (their setting `canary_file`). With --gateway-metrics the command waits until all have the share. With
    --watch it then compares the canary with the stable version, and ends with exit code 4 if the canary fails more
    often, takes longer, or disagrees. --auto-rollback then ends the canary, also when the watch is interrupted.
    """
    if off == (share is not None) or (off and version is not None):
        raise click.UsageError("give --share SHARE to begin a canary, or --off alone to end it")
    if off and seconds is not None:
        raise click.UsageError("--off ends the canary, so there is nothing to --watch")
    if seconds is not None and not gateways:
        raise click.UsageError("--watch needs --gateway-metrics: it compares by the gateways' metrics")
    if auto_rollback and seconds is None:
        raise click.UsageError("--auto-rollback needs --watch DURATION")
    if share is None:
        moved = moves.end_canary(desk, name)
    else:
        moved = moves.canary(desk, name, version, share=share, checked=not unchecked)
    _show_moved(moved, as_json)
    if not gateways:
        click.echo(f"gateways follow {desk.place.base}/{CANARY_FILE} (canary_file); none was asked", err=True)
        return
    asked = Gateways(separated(gateways))
    try:
        count = asked.wait_share(name, share or 0.0, timeout=desk.timeout)
        click.echo(f"all {count} gateways have the share {share or 0:g}", err=True)
        if seconds is not None:
            _watch(asked, name, seconds, Limits(**limits), as_json)
    except BaseException as error:
        if auto_rollback:
            why = str(error) or "the watch was interrupted"
            _show_moved(moves.end_canary(dataclasses.replace(desk, note=why), name), as_json)
        raise


def _watch(gateways: Gateways, name: str, seconds: float, limits: Limits, as_json: bool) -> None:
    report, problems = gateways.watch(name, seconds=seconds, limits=limits)
    values = {"model": name, "ok": not problems, "problems": problems, **dataclasses.asdict(report)}
    show(as_json, values, f"{name}: {report}")
    if problems:
        raise GateError(f"the canary of {name} failed: {'; '.join(problems)}")


@model.command()
@click.argument("name", type=model_name, metavar="MODEL")
@moving
def unpin(desk: Desk, name: str, as_json: bool) -> None:
    """Remove a model's labels: its servers follow the newest version again, as before the first promotion."""
    _show_moved(moves.unpin(desk, name), as_json)


def _show_moved(moved: Intent, as_json: bool) -> None:
    before, after = dict(moved.before.labels), dict(moved.after.labels)
    values: dict[str, Any] = {"model": moved.model, "from": before, "to": after}
    values |= {"share": moved.after.share} if moved.after.share else {}
    show(as_json, values, f"{moved.model}: {_labels(before)} → {_labels(after)}")


def _labels(labels: dict[str, int]) -> str:
    return ", ".join(f"{label} {version}" for label, version in sorted(labels.items())) or "the newest, no labels"


@model.command()
@click.argument("name", type=model_name, metavar="MODEL")
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Versions to keep.")
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, and delete nothing.")
@click.option("--offline", is_flag=True, help="Don't ask servers what they have loaded; use models.config alone.")
@moving
def retire(desk: Desk, name: str, keep: int, dry_run: bool, offline: bool, as_json: bool) -> None:
    """Delete all versions except the newest N, those that are labelled, pinned or loaded, and rollback's target."""
    gone = moves.retire(desk, name, keep=keep, offline=offline, dry=dry_run)
    left = [version for version in desk.store.versions(name) if version not in gone]
    what, verb = ", ".join(map(str, gone)) or "nothing", "would delete" if dry_run else "deleted"
    values = {"model": name, "retired": gone, "left": left, "dry_run": dry_run}
    show(as_json, values, f"{name}: {verb} {what}; left: {', '.join(map(str, left))}")


@model.command()
@click.argument("names", type=model_name, metavar="[MODEL]...", nargs=-1)
@click.option("--to", "target", required=True, metavar="DIR", type=click.Path(file_okay=False, path_type=pathlib.Path),
              help="Folder of the local store to fill.")  # fmt: skip
@click.option(
    "--latest", type=click.IntRange(1), metavar="N", help="Only the newest N versions of each model, and labelled ones."
)
@public_key_option
@reading
def pull(
    names: tuple[str, ...],
    store: Store,
    target: pathlib.Path,
    latest: int | None,
    public_key: pathlib.Path | None,
    as_json: bool,
) -> None:
    """Copy versions that a local store lacks, each checked by its digests before it appears.

    For stores that TensorFlow Serving can't read, such as s3://. Run it before the server starts (an init container).
    """
    for name, version in moves.pull(store, LocalStore(target), models=names, latest=latest, public_key=public_key):
        show(as_json, {"model": name, "version": version}, f"{name}: version {version} copied")
