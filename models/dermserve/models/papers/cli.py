"""`dermserve scenarios` and `dermserve backbones`: the papers' grid and their comparison of backbones."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from dermserve.models.catalogue import SPECS
from dermserve.models.training.options import (
    CACHE,
    DATA,
    PRECISION,
    draw_progress,
    error_messages,
    print_line,
    read_backbone,
)

if TYPE_CHECKING:
    from dermserve.models.papers.scenarios import Cell


@click.command()
@DATA
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the table.")
@click.option("--experiment", default="resnet50", show_default=True, help="What to vary.")
@click.option("--weights", help='Initial backbone: "imagenet" (Keras downloads it), a file, or "random".')
@PRECISION
@CACHE
def scenarios(data: Path, out: Path, experiment: str, weights: str | None, precision: str, cache: Path) -> None:
    """Train over the papers' grid: training share 70 and 80 %, dropout 0.4 to 0.6, batches of 16, 32 and 64.

    The backbone stays frozen, and each cell trains a head on its features. Goes on where it was stopped: cells that
    --out has already are not trained again.
    """
    with error_messages():
        from dermserve.models.papers import scenarios as grid
        from dermserve.models.training.train.experiment import load_experiment
        from dermserve.models.training.train.run import initial_network, prepare

        chosen, backbone = load_experiment(experiment), read_backbone(weights)
        prepared = prepare(chosen, data, cache=cache, say=print_line)
        out.mkdir(parents=True, exist_ok=True)
        table = out / "scenarios.csv"
        network = initial_network(chosen, backbone)
        features = grid.compute_features(network, prepared, cache=cache, precision=precision, progress=draw_progress())
        cells = grid.run_grid(chosen, prepared, features, table, report=_report_cell)
        best = grid.measure_best(chosen, prepared, features, cells)
        click.echo(
            f"best on validation photos: {best.cell.training_share:.0%} training, dropout {best.cell.dropout}, "
            f"batch {best.cell.batch}; on its test photos: accuracy {best.accuracy:.4f}, balanced "
            f"{best.balanced_accuracy:.4f}",
            err=True,
        )
        click.echo(str(table))


@click.command()
@DATA
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the table.")
@click.option("--experiment", default="resnet50", show_default=True, help="Whose head and split to take.")
@click.option(
    "--weights",
    metavar="NAME=WEIGHTS",
    multiple=True,
    help='A backbone to compare: mobilenet, inception_v3, resnet50 or mobilenet_v3_small, and "imagenet" (Keras '
    'downloads it), a file, or "random". Repeatable; all four with imagenet when not given.',
)
@CACHE
def backbones(data: Path, out: Path, experiment: str, weights: tuple[str, ...], cache: Path) -> None:
    """Compare backbones: the same head on the frozen features of each."""
    with error_messages():
        from dermserve.models.papers import backbones as comparison
        from dermserve.models.papers.scenarios import write_table
        from dermserve.models.training.train.experiment import load_experiment
        from dermserve.models.training.train.run import prepare

        names = list(comparison.BACKBONES)
        asked = [_named(item, names) for item in weights] or [(name, "imagenet") for name in names]
        chosen = load_experiment(experiment)
        side = SPECS[chosen.model].input_side
        networks = [comparison.load(name, read_backbone(source), side=side) for name, source in asked]
        prepared = prepare(chosen, data, cache=cache, say=print_line)
        rows = comparison.compare(chosen, prepared, networks, progress=draw_progress())
        out.mkdir(parents=True, exist_ok=True)
        write_table(rows, out / "backbones.csv")
        for row in rows:
            click.echo(
                f"{row.backbone}: accuracy {row.accuracy:.4f}, balanced {row.balanced_accuracy:.4f}; features "
                f"{row.features_minutes:.1f} min, head {row.head_minutes:.1f} min"
                + ("" if row.test_accuracy is None else f"; on test photos {row.test_accuracy:.4f}"),
                err=True,
            )
        click.echo(str(out / "backbones.csv"))


def _named(item: str, names: list[str]) -> tuple[str, str]:
    """Split NAME=WEIGHTS."""
    name, _, source = item.partition("=")
    if name not in names or not source:
        known = ", ".join(names)
        raise click.BadParameter(f"{item!r} is not NAME=WEIGHTS with a NAME of {known}", param_hint="--weights")
    return name, source


def _report_cell(cell: "Cell") -> None:
    click.echo(
        f"{cell.training_share:.0%} training, dropout {cell.dropout}, batch {cell.batch}: "
        f"accuracy {cell.accuracy:.4f}, balanced {cell.balanced_accuracy:.4f}, {cell.minutes:.1f} min",
        err=True,
    )
