"""`dermserve model`: the commands for the life of a version."""

import dataclasses
import pathlib
from typing import Any

import click

from dermserve.models.export import export_version
from dermserve.models.lifecycle import moves
from dermserve.models.lifecycle.errors import GateError
from dermserve.models.lifecycle.gate import Requirement
from dermserve.models.lifecycle.manifest import load_key
from dermserve.models.lifecycle.options import (
    VERSION,
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
from dermserve.models.lifecycle.pull import pull_versions
from dermserve.models.lifecycle.rollout import Intent
from dermserve.models.lifecycle.server_config import CANARY_FILE, Desk
from dermserve.models.lifecycle.stores import LocalStore, Store, manifest_of
from dermserve.models.lifecycle.view import list_versions, log, status, verify
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


for _command in (list_versions, status, verify, log):
    model.add_command(_command)


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
    """Delete all versions except the newest N and those that are labelled, pinned or loaded."""
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
    for name, version in pull_versions(store, LocalStore(target), models=names, latest=latest, public_key=public_key):
        show(as_json, {"model": name, "version": version}, f"{name}: version {version} copied")
