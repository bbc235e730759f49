"""`dermserve models`."""

import json
from collections.abc import Iterator

import click
from google.protobuf import text_format

from dermserve.cli.photos import shown
from dermserve.cli.root import Exit
from dermserve.cli.server import server_options
from dermserve.client import Client, DermserveError, Model, Unavailable


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each model, on a line of its own.")
@server_options
@click.pass_context
def models(ctx: click.Context, /, *, name: str | None, as_json: bool, client: Client) -> None:
    """List the models a gateway serves; with NAME, show that one and the card of each version that can answer.

    Exit codes: 0 answered, 1 no such model or failed, 2 wrong usage, 3 no server.
    """
    try:
        found = client.models() if name is None else (client.model(name),)
    except ValueError as error:  # not text
        raise click.UsageError(str(error)) from error
    except DermserveError as error:
        click.echo(shown(f"{error.message} ({error.reason}: {error.help})"), err=True)
        ctx.exit(Exit.NO_SERVER if isinstance(error, Unavailable) else Exit.FAILED)
    for model in found:
        click.echo(json.dumps(model.to_dict()) if as_json else shown("\n".join(_lines(model)), keep="\n"))


def _lines(model: Model) -> Iterator[str]:
    yield f"{model.name}{'' if model.versions else ': no versions'}"
    for version in model.versions:
        labels = f" [{', '.join(version.labels)}]" if version.labels else ""
        yield f"  version {version.version}: {version.state}, {'ready' if version.ready else 'not ready'}{labels}"
        if version.card is not None:
            yield from (f"    {line}" for line in text_format.MessageToString(version.card, as_utf8=True).splitlines())
