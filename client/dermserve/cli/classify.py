"""`dermserve classify`."""

from collections.abc import Iterator

import click

from dermserve.cli.photos import expand, load
from dermserve.cli.report import Report, print_json, print_text
from dermserve.cli.server import Server, server_options
from dermserve.client import Answer, Client, DermserveError, TtaMode

DEFAULT_MODEL = "resnet50"


@click.command()
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO|DIR...", type=click.Path())
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Model to ask.")
@click.option("--version", type=click.IntRange(1), metavar="N", help="Version to ask; the latest when not given.")
@click.option("--label", help='Label to ask, for example "stable".')
@click.option(
    "--tta",
    type=click.Choice([mode.value for mode in TtaMode]),
    default=TtaMode.NONE.value,
    show_default=True,
    help="Test-time augmentation: one view of each photo, all ten, or ten where it matters.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line and photo.")
@click.option(
    "--in-flight", type=click.IntRange(1), default=4, show_default=True, metavar="N", help="Photos to send at once."
)
@server_options
@click.pass_context
def classify(
    ctx: click.Context,
    /,
    *,
    photos: tuple[str, ...],
    model: str,
    version: int | None,
    label: str | None,
    tta: str,
    as_json: bool,
    in_flight: int,
    server: Server,
) -> None:
    """Classify photos: JPEG, PNG or WebP files, - for standard input, or folders with all photos in them.

    Answers are printed as they come. Exit codes: 0 all answered, 1 some failed, 2 wrong usage, 3 no server.
    """
    if version is not None and label is not None:
        raise click.UsageError("give --version or --label, not both")
    if not model:
        raise click.BadParameter("it is empty", param_hint="--model")
    files = expand(photos)
    asked = {"model": model, "version": version, "label": label, "tta": tta}
    show = print_json if as_json else print_text
    with server.client() as client, Report(show, total=len(files)) as report:
        for answer in _ask(client, files, in_flight=in_flight, **asked):
            report.add(answer)
    ctx.exit(report.exit_code)


def _ask(client: Client, files: list[str], *, in_flight: int, **asked: object) -> Iterator[Answer]:
    """Ask for one photo by a call of its own, whose deadline the gateway learns; for more over one stream."""
    if len(files) > 1:
        yield from client.classify_many(load(files), in_flight=in_flight, **asked)  # type: ignore[arg-type]
        return
    ((name, photo),) = load(files)
    try:
        yield Answer(0, name, prediction=client.classify(photo, **asked))  # type: ignore[arg-type]
    except DermserveError as error:
        yield Answer(0, name, error=error)
