"""`dermserve models`."""

import json
from collections.abc import Iterator

import click

from dermserve.cli.lazy import Exit
from dermserve.cli.server import Server, server_options
from dermserve.client import DermserveError, Model, Unavailable
from dermserve.v1 import card_pb2


@click.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each model, on a line of its own.")
@server_options
@click.pass_context
def models(ctx: click.Context, /, *, name: str | None, as_json: bool, server: Server) -> None:
    """List the models a gateway serves; with NAME, show that one and the card of each version that can answer.

    Exit codes: 0 answered, 1 no such model or failed, 2 wrong usage, 3 no server.
    """
    try:
        with server.client() as client:
            found = client.models() if name is None else (client.model(name),)
    except DermserveError as error:
        click.echo(f"{error.message} ({error.reason}: {error.help})", err=True)
        ctx.exit(Exit.NO_SERVER if isinstance(error, Unavailable) else Exit.FAILED)
    for model in found:
        click.echo(json.dumps(model.to_dict()) if as_json else "\n".join(_lines(model)))


def _lines(model: Model) -> Iterator[str]:
    yield f"{model.name}{'' if model.versions else ': no versions'}"
    for version in model.versions:
        labels = f" [{', '.join(version.labels)}]" if version.labels else ""
        yield f"  version {version.version}: {version.state}, {'ready' if version.ready else 'not ready'}{labels}"
        if version.card is not None:
            yield from (f"    {line}" for line in _card_lines(version.card))


def _card_lines(card: card_pb2.Card) -> Iterator[str]:
    classes = (f"{info.name} ({info.code}{', malignant' if info.malignant else ''})" for info in card.classes)
    yield f"classes: {'; '.join(classes)}"
    yield f"input: {card.input.height}×{card.input.width} RGB, {len(card.views)} standard views"
    yield f"parameters: {card.parameters:,}"
    yield from _provenance_lines(card.provenance)
    yield from _calibration_lines(card)
    yield f"weights: SHA-256 {card.weights_digest}"


def _provenance_lines(provenance: card_pb2.Provenance) -> Iterator[str]:
    trained = provenance.training == card_pb2.TRAINING_TRAINED
    yield f"trained: {f'on {provenance.data}' if trained else 'never: its predictions mean nothing'}"
    yield f"initialised from: {provenance.initialization}"
    if provenance.license:
        yield f"licence: {provenance.license}"
    if provenance.metrics:
        yield f"held out: {', '.join(f'{key} {value:.4g}' for key, value in sorted(provenance.metrics.items()))}"
    yield f"exported: {provenance.exported_at} by {provenance.exporter}"


def _calibration_lines(card: card_pb2.Card) -> Iterator[str]:
    if not card.HasField("calibration"):
        yield "calibration: none, so no answer is ever confident"
        return
    fields = ("min_confidence", "max_view_std", "adaptive_margin", "max_ood_score")
    fitted = [f"{field} {getattr(card.calibration, field):.4g}" for field in fields if card.calibration.HasField(field)]
    looks = [f"margin {look.margin:.4g} at {look.views} views" for look in card.calibration.adaptive_looks]
    yield f"calibration: {', '.join((f'temperature {card.calibration.temperature:.4g}', *fitted, *looks))}"
