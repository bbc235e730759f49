"""`dermserve model`: the commands for the life of a version."""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from dermserve.models.export import export_version
from dermserve.models.lifecycle import moves
from dermserve.models.lifecycle import options as opts
from dermserve.models.lifecycle.errors import GateError, LifecycleError, StoreError
from dermserve.models.lifecycle.gate import Check, Requirement, verify_answers, verify_files
from dermserve.models.lifecycle.manifest import load_key
from dermserve.models.lifecycle.rollout import Intent, Served, pending
from dermserve.models.lifecycle.server_config import CANARY_FILE, Desk, ServerConfig
from dermserve.models.lifecycle.servers import Server, state_name
from dermserve.models.lifecycle.stores import LocalStore, entries, known_version, manifest_of
from dermserve.models.lifecycle.watch import Gateways, Limits

_MODEL = click.argument("name", type=opts.model_name, metavar="MODEL")
_MODEL_OR_ALL = click.argument("name", type=opts.model_name, metavar="MODEL", required=False)
_VERSION_OR_NEWEST = click.argument("version", type=opts.VERSION, required=False)


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
@_MODEL_OR_ALL
@opts.at_desk(opts.config_option)
def list_versions(desk: Desk, name: str | None) -> None:
    """List the versions in a store, with labels, pins and digests, without asking a server."""
    store = desk.store
    if name is not None:
        known_version(store, name, None)
    config, models = desk.read_config(needed=False), [name] if name else store.models()
    if not models:
        click.echo(f"{store.base} has no versions", err=True)
    for listed in models:
        labels, pins = (config.labels(listed), config.pins(listed)) if listed in config.models else ({}, [])
        for version in store.versions(listed):
            manifest = None
            with contextlib.suppress(StoreError):
                manifest = manifest_of(store, listed, version)
            named = sorted(label for label, number in labels.items() if number == version)
            row: dict[str, Any] = {"model": listed, "version": version, "labels": named, "pinned": version in pins}
            row |= {"digest": manifest and manifest.digest, "about": dict(manifest.about) if manifest else {}}
            trained = {"TRAINED": "trained", "NONE": "never trained"}.get(row["about"].get("training"))
            told = [row["about"].get("exported_at"), trained]
            told.append(f"sha256 {row['digest'][:12]}" if manifest else "no manifest")
            shown = f" [{', '.join(named)}]" if named else ""
            opts.show(row, f"{listed:<20} {version:>4}{shown}  {', '.join(filter(None, told))}")


@model.command()
@_MODEL_OR_ALL
@opts.at_desk(opts.servers_options, opts.config_option)
def status(desk: Desk, name: str | None) -> None:
    """Show the state on the servers: each version, and the versions of the labels.

    Exit code 1 if a server has no version of a model that can answer, or its labels differ from models.config.
    """
    config = desk.read_config(needed=False)
    names = [name] if name else config.models or desk.store.models()
    if not names:
        raise StoreError(f"{desk.store.base} has no model, and no models.config lists one: name a model")
    rows = [_live_row(server, one, config) for one in names for server in desk.servers]
    if (intent := pending(desk.store)) is not None:
        click.echo(f"half done, the next command undoes it: {intent}", err=True)
    for row in rows:
        lines = [f"{row['model']} at {row['server']}{'' if row['versions'] else ': not served'}"]
        for one in row["versions"]:
            labels = [label for label, version in sorted(row["labels"].items()) if version == one["version"]]
            why = f": {one['error']}" if one["error"] else ""
            named = f" [{', '.join(labels)}]" if labels else ""
            lines.append(f"  {one['version']:>4}  {one['state']}{named}{why}")
        if row["labels"] != row["labels_wanted"]:
            there, wanted = row["labels"] or "none", row["labels_wanted"] or "none"
            lines.append(f"  labels are {there}, models.config says {wanted}")
        opts.show(row, "\n".join(lines))
    if not all(row["ok"] for row in rows):
        sys.exit(LifecycleError.exit_code)


def _live_row(server: Server, model: str, config: ServerConfig) -> dict[str, Any]:
    wanted = config.labels(model) if model in config.models else {}
    versions = [
        {"version": state.version, "state": state_name(state.state), "error": state.status.error_message or None}
        for state in server.states(model)
    ]
    asked = sorted({moves.STABLE, moves.CANARY, *wanted}) if versions else []
    labels = {label: version for label in asked if (version := server.label(model, label)) is not None}
    row = {"model": model, "server": server.address, "versions": versions, "labels": labels, "labels_wanted": wanted}
    return {**row, "ok": labels == wanted and any(one["state"] == "AVAILABLE" for one in versions)}


@model.command()
@_MODEL_OR_ALL
@_VERSION_OR_NEWEST
@click.option(
    "--offline", is_flag=True,
    help="Ask no server: only check the files of all versions, of those of MODEL, or of VERSION.",
)  # fmt: skip
@opts.at_desk(opts.servers_options, opts.public_key_option)
def verify(desk: Desk, name: str | None, version: int | None, offline: bool) -> None:
    """Replay a version's warm-up and golden predictions on running servers, and check its files by their digests.

    VERSION is the newest in the store by default. The servers must have loaded it. Use --offline in an init container,
    before a server starts.
    """
    if not offline:
        if name is None:
            raise click.UsageError("name a MODEL, or check the files of all with --offline")
        version = known_version(desk.store, name, version)
    failed = sum(_show_check(check) for check in verify_files(desk.store, desk.public_key, name, version))
    if name and version and not offline:
        failed += sum(_show_check(check) for check in verify_answers(desk.store, desk.servers, name, version))
    if failed:
        click.echo(f"{failed} checks failed", err=True)
        sys.exit(LifecycleError.exit_code)


def _show_check(check: Check) -> bool:
    """Print a check; return whether it failed."""
    failed = bool(check.problem)
    values = {"server": check.server or None, "what": check.what, "ok": not failed, "problem": check.problem or None}
    opts.show(values, f"{check.server or 'store':<22} {check.what}: {check.problem or 'ok'}")
    return failed


@model.command()
@_MODEL_OR_ALL
@opts.at_desk()
def log(desk: Desk, name: str | None) -> None:
    """Show the audit log, oldest first: when, who, what, from, to."""
    for entry in entries(desk.store, name):
        before, after = (Served(**end) if isinstance(end, dict) else end for end in (entry["from"], entry["to"]))
        opts.show(entry, f"{entry['when']}  {entry['who']}  {entry['what']:<8} {entry['model']}  {before} → {after}")


@model.command()
@click.argument("run", metavar="RUN", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--sign", "key", metavar="KEY", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sign it with this private key: a PEM file, elliptic curve, without a password (extra `sign`).",
)  # fmt: skip
@opts.at_desk()
def publish(desk: Desk, run: Path, key: Path | None) -> None:
    """Export the model of RUN as a new version, checked before it appears.

    RUN is the folder of a finished and evaluated `dermserve train`. Servers that follow the newest version load it at
    once; pinned ones do so after `promote` or `canary`.
    """
    if key is not None:
        load_key(key)  # before minutes of work
    base = desk.store.base
    try:
        entry = export_version(str(run), base, run=run, sign=key)
    except ImportError as error:
        raise click.UsageError(f"`model publish` needs more ({error}): pip install '.[models]' in a clone") from error
    name, version = entry["model"], entry["to"]
    opts.show(entry, f"{name}: version {version} published to {base} (sha256 {entry['digest']})")
    click.echo(f"next: dermserve model promote {name} {version}, or canary first", err=True)


@model.command()
@_MODEL
@_VERSION_OR_NEWEST
@click.option(
    "--require", type=opts.parse_requirement, multiple=True, metavar="'FIGURE>=VALUE'",
    help="Bound on a figure of the version's evaluation, for example accuracy>=0.8; repeatable.",
)  # fmt: skip
@opts.at_desk(opts.moving)
def promote(desk: Desk, name: str, version: int | None, require: tuple[Requirement, ...]) -> None:
    """Make a version the stable one on every server: the newest in the store when none is given.

    It is loaded beside the version that serves, and its golden predictions are replayed. Then the label moves, and the
    old version is unloaded. No request fails.
    """
    _show_moved(moves.promote(desk, name, version, require=require))


@model.command()
@_MODEL
@opts.at_desk(opts.moving)
def rollback(desk: Desk, name: str) -> None:
    """Make the version stable again that was stable before the last promotion."""
    _show_moved(moves.rollback(desk, name))


@model.command()
@_MODEL
@_VERSION_OR_NEWEST
@click.option("--share", type=opts.parse_share, metavar="SHARE", help="For unversioned, unlabelled calls: 5% or 0.05.")
@click.option("--off", is_flag=True, help="End the canary: everybody gets the stable version.")
@opts.at_desk(opts.watching, opts.moving)
def canary(
    desk: Desk,
    name: str,
    version: int | None,
    share: float | None,
    off: bool,
    gateways: tuple[str, ...],
    seconds: float | None,
    **limits: Any,
) -> None:
    """Serve another version to a share of the callers: the newest when none is given.

    This loads the version, sets the label `canary` to it, and writes the share to canary.toml in the store, which the
    gateways read (their setting `canary_file`). With --gateway-metrics the command waits until all have the share. With
    --auto-rollback it then compares the canary with the stable version, and ends the canary, with exit code 4, if it
    fails more often, takes longer, or disagrees, and also when the command is interrupted.
    """
    if off == (share is not None) or (off and (version, seconds) != (None, None)):
        raise click.UsageError("give --share SHARE to begin a canary, or --off alone to end it")
    if seconds is not None and not gateways:
        raise click.UsageError("--auto-rollback needs --gateway-metrics: it compares by the gateways' metrics")
    _show_moved(moves.end_canary(desk, name) if share is None else moves.canary(desk, name, version, share=share))
    if not gateways:
        click.echo(f"gateways follow {desk.place.base}/{CANARY_FILE} (canary_file); none was asked", err=True)
        return
    asked = Gateways(opts.separated(gateways))
    try:
        count = asked.wait_share(name, share or 0.0, timeout=desk.timeout)
        click.echo(f"all {count} gateways have the share {share or 0:g}", err=True)
        if seconds is not None:
            report, problems = asked.watch(name, seconds=seconds, limits=Limits(**limits))
            values = {"model": name, "ok": not problems, "problems": problems, **dataclasses.asdict(report)}
            opts.show(values, f"{name}: {report}")
            if problems:
                raise GateError(f"the canary of {name} failed: {'; '.join(problems)}")
    except BaseException:
        if seconds is not None:
            _show_moved(moves.end_canary(desk, name))
        raise


def _show_moved(moved: Intent) -> None:
    opts.show(moved.entry, f"{moved.model}: {moved.before} → {moved.after}")


@model.command()
@_MODEL
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Versions to keep.")
@opts.at_desk(opts.moving)
def retire(desk: Desk, name: str, keep: int) -> None:
    """Delete all versions except the newest N, those that are labelled, pinned or loaded, and rollback's target."""
    gone, left = moves.retire(desk, name, keep=keep), desk.store.versions(name)
    told = f"{name}: deleted {', '.join(map(str, gone)) or 'nothing'}; left: {', '.join(map(str, left))}"
    opts.show({"model": name, "retired": gone, "left": left}, told)


@model.command()
@click.option("--to", "target", required=True, metavar="DIR", type=click.Path(file_okay=False, path_type=Path),
              help="Folder of the local store to fill.")  # fmt: skip
@click.option("--latest", type=click.IntRange(1), metavar="N", help="Only each model's newest N, and labelled ones.")
@opts.at_desk(opts.public_key_option)
def pull(desk: Desk, target: Path, latest: int | None) -> None:
    """Copy versions that a local store lacks, each checked by its digests before it appears.

    For stores that TensorFlow Serving can't read, such as s3://. Run it before the server starts (an init container).
    """
    copied = moves.pull(desk.store, LocalStore(target), latest=latest, public_key=desk.public_key)
    for name, version in copied:
        opts.show({"model": name, "version": version}, f"{name}: version {version} copied")
