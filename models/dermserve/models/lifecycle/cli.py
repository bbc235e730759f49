"""`dermserve model`: the commands for the life of a version."""

import dataclasses
import json
import pathlib
import sys
from typing import Any

import click

from dermserve.models.lifecycle import moves
from dermserve.models.lifecycle.errors import GateError, LifecycleError
from dermserve.models.lifecycle.gate import TOLERANCE, Check, Requirement, verify_files, verify_version
from dermserve.models.lifecycle.manifest import load_key
from dermserve.models.lifecycle.options import (
    FAILED,
    VERSION,
    Watching,
    asking_servers,
    config_option,
    fails_clearly,
    json_option,
    moving,
    parse_requirement,
    parse_share,
    public_key_option,
    store_option,
    unchecked_option,
    watching,
)
from dermserve.models.lifecycle.pull import pull_versions
from dermserve.models.lifecycle.rollout import Intent, pending
from dermserve.models.lifecycle.server_config import CANARY_FILE, ConfigMap, Desk
from dermserve.models.lifecycle.servers import Servers
from dermserve.models.lifecycle.stores import LocalStore, entries, known_version, manifest_of, open_store
from dermserve.models.lifecycle.view import live, live_text, stored, stored_line
from dermserve.models.lifecycle.watch import Gateways


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def model() -> None:
    """Publish, verify, promote, roll back and retire versions of the models.

    A store holds versions; model servers serve them; the labels `stable` and `canary` say which is for whom. What a
    command changes goes to the servers, to models.config, so that a restart keeps it, and to the store's audit log.
    docs/versions.md tells more.

    Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 a server does not answer, 4 a version does not meet what
    is required of it and was not promoted, or did not do well as a canary.
    """


def _show(as_json: bool, values: dict[str, Any], text: str) -> None:
    click.echo(json.dumps(values) if as_json else text)


@model.command()
@click.argument("run", metavar="RUN", type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path))
@click.option(
    "--sign", "key", metavar="KEY", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="Sign it with this private key: a PEM file, elliptic curve, without a password (extra `sign`).",
)  # fmt: skip
@store_option
@json_option
@fails_clearly
def publish(run: pathlib.Path, key: pathlib.Path | None, base: str, as_json: bool) -> None:
    """Export what RUN trained as a new version, checked before it appears.

    RUN is the folder of a finished and evaluated `dermserve train`. Servers that follow the newest version load it at
    once; those with a stable version keep that until `promote` or `canary`.
    """
    try:
        from dermserve.models.exporter import ExportError, export_run
        from dermserve.models.quiet import native_stderr_held
        from dermserve.models.training.train.finished import FinishedRun
    except ImportError as error:
        raise click.UsageError(
            f"`dermserve model publish` needs more ({error}): pip install 'dermserve[models]'"
        ) from error

    if key is not None:
        load_key(key)  # before minutes of work
    click.echo(f"exporting {run} (TensorFlow takes a while to start)", err=True)
    store = open_store(base)
    try:
        with native_stderr_held(unless=(ExportError, OSError, LifecycleError)):
            version = export_run(run, base, sign=key)
    except ExportError as error:
        raise click.ClickException(str(error)) from error
    name = FinishedRun(run).model
    manifest = manifest_of(store, name, version)
    digest = manifest.digest if manifest else None
    told = f"{name}: version {version} published to {base} (sha256 {digest})"
    _show(as_json, {"model": name, "version": version, "store": base, "digest": digest}, told)
    if not as_json:
        click.echo(f"next: dermserve model promote {name} {version}, or canary first", err=True)


@model.command(name="list")
@click.argument("name", metavar="MODEL", required=False)
@store_option
@config_option
@json_option
@fails_clearly
def list_versions(name: str | None, base: str, config_file: pathlib.Path | ConfigMap | None, as_json: bool) -> None:
    """List the versions in a store, with labels, pins and digests. No server is asked."""
    store = open_store(base)
    if name is not None:
        known_version(store, name, None)
    for row in stored(store, config_file, name):
        _show(as_json, row, stored_line(row))


@model.command()
@click.argument("name", metavar="MODEL", required=False)
@store_option
@config_option
@asking_servers
@json_option
@fails_clearly
def status(
    name: str | None, base: str, config_file: pathlib.Path | ConfigMap | None, servers: Servers, as_json: bool
) -> None:
    """Show what the servers say now: the state of each version, and where the labels lead.

    Exit code 1 when a server has no version of a model that can answer, or its labels are not those in models.config.
    """
    store = open_store(base)
    with servers:
        rows = list(live(store, servers, config_file, name))
    if (intent := pending(store)) is not None:
        click.echo(f"half done, the next command finishes or undoes it: {intent}", err=True)
    for row in rows:
        _show(as_json, row, live_text(row))
    if not all(row["ok"] for row in rows):
        sys.exit(FAILED)


@model.command()
@click.argument("name", metavar="MODEL", required=False)
@click.argument("version", type=VERSION, required=False)
@store_option
@asking_servers
@click.option(
    "--tolerance", type=click.FloatRange(0), default=TOLERANCE, show_default=True,
    help="Largest difference from a golden prediction, relative to its largest value or 1.",
)  # fmt: skip
@click.option(
    "--offline", is_flag=True,
    help="Ask no server: check the files alone, of every version, or of every one of MODEL, or of VERSION.",
)  # fmt: skip
@public_key_option
@json_option
@fails_clearly
def verify(
    name: str | None,
    version: int | None,
    base: str,
    servers: Servers,
    tolerance: float,
    offline: bool,
    public_key: pathlib.Path | None,
    as_json: bool,
) -> None:
    """Replay a version's warm-up and golden predictions against live servers, and check its files by their digests.

    VERSION is the newest in the store when it is not given. The servers must have it loaded. With --offline no server
    is asked: for an init container, before they start.
    """
    store, failed = open_store(base), 0
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
        sys.exit(FAILED)


def _show_check(check: Check, as_json: bool) -> None:
    values: dict[str, Any] = {"server": check.server or None, "what": check.what, "ok": not check.problem}
    values |= {"problem": check.problem or None, "difference": check.difference}
    how = check.problem or ("ok" if not check.difference else f"ok, differs by {check.difference:.1g}")
    _show(as_json, values, f"{check.server or 'store':<22} {check.what}: {how}")


@model.command()
@click.argument("name", metavar="MODEL")
@click.argument("version", type=VERSION, required=False)
@click.option(
    "--require", type=parse_requirement, multiple=True, metavar="'FIGURE>=VALUE'",
    help="What the version's evaluation must have come to, for example accuracy>=0.8; repeatable.",
)  # fmt: skip
@unchecked_option
@moving
def promote(
    desk: Desk,
    name: str,
    version: int | None,
    require: tuple[Requirement, ...],
    unchecked: bool,
    note: str,
    as_json: bool,
) -> None:
    """Make a version the stable one on every server: the newest in the store when none is given.

    It is loaded beside the one that serves, and its golden predictions are replayed; then the label moves; then the old
    one is unloaded. No request fails.
    """
    _show_moved(moves.promote(desk, name, version, require=require, checked=not unchecked, note=note), as_json)


@model.command()
@click.argument("name", metavar="MODEL")
@click.option("--to", "version", type=VERSION, metavar="VERSION", help="Which; by default the stable one before.")
@moving
def rollback(desk: Desk, name: str, version: int | None, note: str, as_json: bool) -> None:
    """Make the version stable again that was so before the last promotion."""
    _show_moved(moves.rollback(desk, name, version, note=note), as_json)


@model.command()
@click.argument("name", metavar="MODEL")
@click.argument("version", type=VERSION, required=False)
@click.option("--share", type=parse_share, metavar="SHARE", help="Of the callers who name no version: 5% or 0.05.")
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
    how: Watching,
    note: str,
    as_json: bool,
) -> None:
    """Give a share of the callers another version beside the stable one: the newest when none is given.

    This loads it, points the label `canary` at it, and writes the share to canary.toml in the store, which the gateways
    follow (their setting `canary_file`). With --gateway-metrics it waits until all have it. With --watch it then
    compares the canary with the stable version, and ends with exit code 4 when it fails more often, takes longer, or
    disagrees; with --auto-rollback the canary is ended then, and whenever the watch can't go on.
    """
    if off == (share is not None) or (off and version is not None):
        raise click.UsageError("give --share SHARE to begin a canary, or --off alone to end it")
    if off and how.seconds is not None:
        raise click.UsageError("there is nothing to --watch after --off")
    if share is None:
        moved = moves.end_canary(desk, name, note=note)
    else:
        moved = moves.canary(desk, name, version, share=share, checked=not unchecked, note=note)
    _show_moved(moved, as_json)
    if not how.gateways:
        click.echo(f"gateways follow {desk.place.base}/{CANARY_FILE} (canary_file); none was asked", err=True)
        return
    try:
        _watch(how, name, share or 0.0, timeout=desk.timeout, as_json=as_json)
    except (LifecycleError, KeyboardInterrupt) as error:
        if how.auto_rollback:
            _show_moved(moves.end_canary(desk, name, note=str(error) or "the watch was interrupted"), as_json)
        raise


def _watch(how: Watching, name: str, share: float, *, timeout: float, as_json: bool) -> None:
    gateways = Gateways(how.gateways)
    count = gateways.wait_share(name, share, timeout=timeout)
    click.echo(f"all {count} gateways have the share {share:g}", err=True)
    if how.seconds is None:
        return
    report, problems = gateways.watch(name, seconds=how.seconds, limits=how.limits)
    values = {"model": name, "ok": not problems, "problems": problems, **dataclasses.asdict(report)}
    _show(as_json, values, f"{name}: {report}")
    if problems:
        raise GateError(f"the canary of {name} does not do well: {'; '.join(problems)}")


@model.command()
@click.argument("name", metavar="MODEL")
@moving
def unpin(desk: Desk, name: str, note: str, as_json: bool) -> None:
    """Take a model's labels off: its servers follow the newest version again, as before the first promotion."""
    _show_moved(moves.unpin(desk, name, note=note), as_json)


def _show_moved(moved: Intent, as_json: bool) -> None:
    before, after = dict(moved.before.labels), dict(moved.after.labels)
    values: dict[str, Any] = {"model": moved.model, "from": before, "to": after}
    values |= {"share": moved.after.share} if moved.after.share else {}
    _show(as_json, values, f"{moved.model}: {_labels(before)} → {_labels(after)}")


def _labels(labels: dict[str, int]) -> str:
    return ", ".join(f"{label} {version}" for label, version in sorted(labels.items())) or "the newest, no labels"


@model.command()
@click.argument("name", metavar="MODEL")
@click.option("--keep", type=click.IntRange(1), default=3, show_default=True, metavar="N", help="Newest to keep.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@click.option("--offline", is_flag=True, help="Don't ask servers what they have loaded; go by models.config alone.")
@moving
def retire(desk: Desk, name: str, keep: int, dry_run: bool, offline: bool, note: str, as_json: bool) -> None:
    """Delete the oldest versions, but for the newest N and all that are labelled, pinned or loaded."""
    gone = moves.retire(desk, name, keep=keep, offline=offline, dry=dry_run, note=note)
    left = [version for version in desk.store.versions(name) if version not in gone]
    what, verb = ", ".join(map(str, gone)) or "nothing", "would delete" if dry_run else "deleted"
    values = {"model": name, "retired": gone, "left": left, "dry_run": dry_run}
    _show(as_json, values, f"{name}: {verb} {what}; left: {', '.join(map(str, left))}")


@model.command()
@click.argument("name", metavar="MODEL", required=False)
@store_option
@json_option
@fails_clearly
def log(name: str | None, base: str, as_json: bool) -> None:
    """Show the audit log, oldest first: when, who, what, from, to."""
    for entry in entries(open_store(base), name):
        why = f"  ({entry.more['note']})" if "note" in entry.more else ""
        text = f"{entry.when}  {entry.who}  {entry.what:<8} {entry.model}  {entry.change()}{why}"
        click.echo(entry.json() if as_json else text)


@model.command()
@click.argument("names", metavar="[MODEL]...", nargs=-1)
@store_option
@click.option("--to", "target", required=True, metavar="DIR", type=click.Path(file_okay=False, path_type=pathlib.Path),
              help="Folder of the local store to fill.")  # fmt: skip
@click.option(
    "--latest", type=click.IntRange(1), metavar="N", help="Only the newest N of each model, and labelled ones."
)
@public_key_option
@json_option
@fails_clearly
def pull(
    names: tuple[str, ...],
    base: str,
    target: pathlib.Path,
    latest: int | None,
    public_key: pathlib.Path | None,
    as_json: bool,
) -> None:
    """Copy the versions of a store that a local one lacks, each checked by its digests before it appears.

    For what TensorFlow Serving can't read itself, such as s3://: run it before the server starts (an init container).
    """
    store, local = open_store(base), LocalStore(target)
    for name, version in pull_versions(store, local, models=names, latest=latest, public_key=public_key):
        _show(as_json, {"model": name, "version": version}, f"{name}: version {version} copied")
