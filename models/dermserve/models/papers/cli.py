"""`dermserve scenarios` and `dermserve backbones`: the papers' grid and their comparison of backbones."""

from pathlib import Path

import click

from dermserve.models.training import cli as common

_BACKBONES = ("mobilenet", "inception_v3", "resnet50", "mobilenet_v3_small")


@click.command()
@common.DATA
@common.OUT
@click.option("--experiment", default="resnet50", show_default=True, help="Experiment to vary.")
@click.option("--weights", help='Initial backbone: "imagenet" (Keras downloads it), a file, or "random".')
@common.CACHE
@common.error_messages()
def scenarios(data: Path, out: Path, experiment: str, weights: str | None, cache: Path) -> None:
    """Train over the papers' grid: training share 70 and 80 %, dropout 0.4 to 0.6, batches of 16, 32 and 64.

    The backbone stays frozen; each cell trains a head. A stopped command continues with the cells that it lacks.
    """
    from dermserve.models.papers import heads
    from dermserve.models.training.train.experiment import load_experiment

    chosen, table = load_experiment(experiment), out / "scenarios.csv"
    backbone = {str(chosen.model): common.read_backbone(weights)}
    heads.fill_table(chosen, data, table, backbones=backbone, settings=heads.GRID, cache=cache)
    click.echo(str(table))


@click.command()
@common.DATA
@common.OUT
@click.option("--experiment", default="resnet50", show_default=True, help="Experiment whose head and split are used.")
@click.option(
    "--weights", type=(click.Choice(_BACKBONES), str), metavar="NAME WEIGHTS", multiple=True,
    help='A backbone to compare: mobilenet, inception_v3, resnet50 or mobilenet_v3_small, and "imagenet" (Keras '
    'downloads it), a file, or "random". Repeatable; all four with imagenet when not given.',
)  # fmt: skip
@common.CACHE
@common.error_messages()
def backbones(data: Path, out: Path, experiment: str, weights: tuple[tuple[str, str], ...], cache: Path) -> None:
    """Compare backbones: the same head on the frozen features of each. A stopped command continues."""
    from dermserve.models.papers import heads
    from dermserve.models.training.train.experiment import load_experiment

    chosen, table = load_experiment(experiment), out / "backbones.csv"
    share = round(1 - chosen.validation / (1 - chosen.test), 4)
    setting = (share, 0.4 if chosen.dropout is None else chosen.dropout, chosen.stages[0].batch)
    asked = dict(weights) or dict.fromkeys(_BACKBONES, "imagenet")
    each = {name: common.read_backbone(how) for name, how in asked.items()}
    heads.fill_table(chosen, data, table, backbones=each, settings=[setting], cache=cache)
    click.echo(str(table))
