"""`dermserve classify`."""

import pathlib
from typing import Any

import click

from dermserve.cli.photos import STDIN, expand, read_stdin, shown
from dermserve.cli.results import Results, print_json, print_text
from dermserve.cli.server import server_options
from dermserve.client import Answer, Client, TtaMode
from dermserve.client._request import preparer

_FILE = click.Path(dir_okay=False, path_type=pathlib.Path)


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO|DIR...", type=click.Path())
@click.option("--model", default="resnet50", show_default=True, help="Model to ask.")
@click.option("--version", type=click.IntRange(1), metavar="N", help="Version to ask; the latest when not given.")
@click.option("--label", help='Label to ask, for example "stable".')
@click.option(
    "--tta", type=click.Choice([mode.value for mode in TtaMode]), default=TtaMode.NONE.value, show_default=True,
    help="Test-time augmentation: one view of each photo, all ten, or ten where it matters.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each photo, on a line of its own.")
@click.option(
    "--in-flight", type=click.IntRange(1, 1000), default=4, show_default=True, metavar="N", help="Photos at once."
)
@click.option("--csv", "table", type=_FILE, help="Write a row for each photo to this file, at the end or on Ctrl-C.")
@click.option("--resume", type=_FILE, help="Keep answers in this file, and skip photos that have an answer in it.")
@server_options
@click.pass_context
def classify(
    ctx: click.Context, /, *, photos: tuple[str, ...], as_json: bool, in_flight: int, table: pathlib.Path | None,
    resume: pathlib.Path | None, client: Client, **asked: Any,
) -> None:  # fmt: skip
    """Classify photos: JPEG, PNG or WebP files, - for standard input, or folders with all files in them, at any depth.

    Answers are printed as they come, with a summary at the end if there are several. Every file of a folder is
    answered, or reported with a reason; files of macOS and Windows are skipped. With --resume, a stopped run continues:
    photos with an answer are not sent again, failed ones are. Exit codes: 0 all answered, 1 some failed, 2 wrong usage,
    3 no server.
    """
    try:
        preparer(**asked)
    except ValueError as wrong:
        raise click.UsageError(str(wrong)) from wrong
    found = expand(photos, written=filter(None, (table, resume)))
    for name, what in found.skipped:
        click.echo(shown(f"{name}: skipped: {what}"), err=True)
    with Results(asked, print_json if as_json else print_text, table=table, journal=resume) as results:
        files = results.remaining(found.photos)
        if before := len(found.photos) - len(files):
            click.echo(f"{resume} has the answers for {before} of {len(found.photos)} photos", err=True)
        results.expect(len(files) + len(found.refused))
        for position, (name, error) in enumerate(found.refused):
            results.add(Answer(position, name, error=error))
        named = [(name, read_stdin() if name == STDIN else name) for name in files]
        for answer in client.classify_many(named, in_flight=in_flight, **asked):
            results.add(answer)
        if not as_json and len(found.photos) + len(found.refused) > 1:
            click.echo(shown(results.summary(), keep="\n"))
    ctx.exit(results.exit_code)
