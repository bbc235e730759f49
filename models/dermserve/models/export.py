"""`dermserve export`, also `python -m dermserve.models.export`: put versions of the models into a store."""

import pathlib
import time

import click

from dermserve.models.catalogue import SPECS
from dermserve.models.exporter import ExportError, export_model
from dermserve.models.quiet import native_stderr_held
from dermserve.models.store import versions

_FILE = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)


@click.command()
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    default=pathlib.Path(".dermserve/store"),
    envvar="DERMSERVE_STORE",
    show_default=True,
    help="Folder of the versioned store.",
)
@click.option("--model", "models", type=click.Choice(list(SPECS)), multiple=True, help="Which; all when not given.")
@click.option("--weights", type=_FILE, help="Weights of the whole network (.weights.h5 or .keras).")
@click.option("--init-weights", type=_FILE, help="ImageNet weights of the backbone alone; the head is random.")
@click.option("--imagenet", is_flag=True, help="Like --init-weights, with the weights Keras downloads.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is random.")
@click.option("--new-version", is_flag=True, help="Export even where the store has a version already.")
def export(
    store: pathlib.Path,
    models: tuple[str, ...],
    weights: pathlib.Path | None,
    init_weights: pathlib.Path | None,
    imagenet: bool,
    seed: int,
    new_version: bool,
) -> None:
    """Export models as SavedModels that TensorFlow Serving can load, each checked before it appears.

    Without a source of weights, models that the store lacks get seeded random ones, which their card says: such a model
    is served, and answers "uncertain" to everything.
    """
    given = [name for name, value in (("--weights", weights), ("--init-weights", init_weights)) if value]
    given += ["--imagenet"] if imagenet else []
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other")
    if (weights or init_weights) and len(models) != 1:
        raise click.UsageError(f"{given[0]} is for one model: say which with --model")
    for model in models or tuple(SPECS):
        present = versions(store, model)
        if present and not (given or new_version):
            click.echo(f"{model}: version {present[-1]} is in {store}", err=True)
            continue
        _export(model, store, weights, init_weights or ("imagenet" if imagenet else None), seed)


def _export(
    model: str, store: pathlib.Path, weights: pathlib.Path | None, backbone: pathlib.Path | str | None, seed: int
) -> None:
    started = time.monotonic()
    click.echo(f"{model}: exporting (TensorFlow takes a while to start)", err=True)
    try:
        with native_stderr_held(unless=(ExportError, OSError)):
            version = export_model(model, store, weights=weights, backbone_weights=backbone, seed=seed)
    except (ExportError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{model}: version {version} written to {store} in {time.monotonic() - started:.0f} s", err=True)


if __name__ == "__main__":
    export()
