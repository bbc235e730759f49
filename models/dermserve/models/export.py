"""`dermserve export`, also `python -m dermserve.models.export`: put versions of the models into a store."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dermserve.models.catalogue import SPECS
from dermserve.models.lifecycle.errors import LifecycleError
from dermserve.models.lifecycle.stores import Entry, open_store
from dermserve.models.options import store_option

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SHIPPED = Path(__file__).parent / "shipped"  # folder of the runs whose weights dermserve ships, by model


@click.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@store_option
@click.option("--model", "models", type=click.Choice(list(SPECS)), multiple=True, help="Repeatable. [default: all]")
@click.option("--weights", type=_FILE, help="Weights of the whole network (.weights.h5 or .keras).")
@click.option(
    "--init-weights", metavar="FILE|imagenet",
    type=lambda text: text if text == "imagenet" else str(_FILE.convert(text, None, None)),
    help="ImageNet weights of the backbone alone, from a file or as Keras downloads them; the head is random.",
)  # fmt: skip
@click.option("--random", "random_weights", is_flag=True, help="Random weights, always the same, to try things out.")
@click.option(
    "--graph", type=click.Choice(["frozen", "folded-variables"]),
    help="Weights as constants, which is fastest, or as variables, which takes less memory. [default: frozen]",
)  # fmt: skip
def export(
    run: Path | None, base: str, models: tuple[str, ...], weights: Path | None, init_weights: str | None,
    random_weights: bool, graph: str | None,
) -> None:  # fmt: skip
    """Export models as SavedModels that TensorFlow Serving can load, each checked before it appears.

    With RUN, the folder of a finished and evaluated `dermserve train`, export its model. Otherwise export the models
    that the store lacks, with the weights that dermserve ships; with other weights or a --graph, also those that it
    has. A model whose weights were not trained on skin lesions says so in its card, and answers UNCERTAIN to
    everything.
    """
    sources = {"RUN": run, "--weights": weights, "--init-weights": init_weights, "--random": random_weights}
    given = [name for name, value in sources.items() if value]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} exclude each other")
    if run is not None and models:
        raise click.UsageError("--model is for models without a RUN: the run knows its own")
    if (weights or init_weights) and len(models) != 1:
        raise click.UsageError(f"{given[0]} is for one model: say which with --model")
    anew, graph = bool(given or graph), graph or "frozen"
    try:
        if run is not None:
            export_version(run.name, base, run=run, graph=graph)
            return
        for model in models or tuple(SPECS):
            present = open_store(base).versions(model)
            if present and not anew:
                click.echo(f"{model}: version {present[-1]} is in {base}", err=True)
            elif not given and (SHIPPED / model).is_dir():
                export_version(model, base, run=SHIPPED / model, graph=graph)
            else:
                export_version(model, base, weights=weights, backbone=init_weights, graph=graph)
    except OSError as error:
        raise click.ClickException(str(error)) from error


def export_version(what: str, store: str, *, run: Path | None = None, **how: Any) -> Entry:
    """Make a version of a run or a model and report it; show TensorFlow's own messages only if it fails."""
    started = time.monotonic()
    click.echo(f"{what}: exporting (TensorFlow takes a while to start)", err=True)
    with _native_stderr_held():
        from dermserve.models import exporter

        entry = exporter.export(run or what, store, **how)
    click.echo(f"{what}: version {entry['to']} written to {store} in {time.monotonic() - started:.0f} s", err=True)
    return entry


@contextlib.contextmanager
def _native_stderr_held() -> Iterator[None]:
    """Hold back what native code writes to descriptor 2, such as TensorFlow's hints; show it after an odd error."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except (ImportError, LifecycleError, OSError):
            raise
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


if __name__ == "__main__":
    export()
