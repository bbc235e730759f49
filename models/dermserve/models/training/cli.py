"""`dermserve train`, `evaluate`, `pack` and `tflite`; options and errors that all training commands share."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dermserve.models.catalogue import SPECS
from dermserve.models.training.terminal import say

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW_FOLDER = click.Path(file_okay=False, path_type=Path)

DATA = click.option(
    "--data", type=_FOLDER, required=True,
    help="Folder of the photos: HAM10000 as ISIC or Kaggle ships it, a folder a class, or a table of paths and labels.",
)  # fmt: skip
CACHE = click.option(
    "--cache", type=_NEW_FOLDER, default=Path(".dermserve/cache"), show_default=True,
    help="Folder for decoded photos and the outputs of networks.",
)  # fmt: skip
OUT = click.option("--out", type=_NEW_FOLDER, required=True, help="Folder of the results.")
_RUN = click.argument("run", type=_FOLDER)
_ALSO = click.option("--also", type=_FOLDER, help="The same photos at another resolution, with the same file names.")


@contextlib.contextmanager
def error_messages() -> Iterator[None]:
    """Print errors of files as one line; on Ctrl-C, say how to continue."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default without AVX-512: half the speed
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error  # h5py's own text takes lines
        raise click.ClickException(f"{error.filename or 'a file'}: {why}") from error
    except KeyboardInterrupt:
        click.echo("interrupted: the same command continues, a training after its last whole epoch", err=True)
        raise click.Abort from None


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[Any]:
    """Open a finished run, and let no other command change it meanwhile."""
    from dermserve.models.training.errors import locked
    from dermserve.models.training.train.finished import FinishedRun

    run = FinishedRun(folder)
    with locked(folder):
        yield run


def read_backbone(weights: str | None) -> Path | str | None:
    """Read --weights: a file, "imagenet", or None for random weights."""
    if weights in (None, "imagenet", "random"):
        return None if weights == "random" else weights
    if not Path(weights).is_file():
        raise click.BadParameter(f"{weights}: no such file", param_hint="--weights")
    return Path(weights)


@click.command()
@click.argument("model", type=click.Choice(list(SPECS)))
@DATA
@OUT
@click.option("--experiment", help="Name of an experiment, or a .toml file. [default: the paper's]")
@click.option("--weights", help='Initial backbone: "imagenet" (downloaded by Keras), a file, or "random".')
@click.option("--start", type=_FOLDER, help="A finished run to continue from, with its split; not with --weights.")
@click.option(
    "--teacher", "teachers", type=_FOLDER, multiple=True,
    help="A finished run of the same model to distil from, beside the labels; repeatable: their mean.",
)  # fmt: skip
@click.option("--others", type=_FOLDER, help="HAM10000, whose other lesions are an experiment's outliers.")
@_ALSO
@CACHE
@error_messages()
def train(
    model: str, data: Path, out: Path, experiment: str | None, weights: str | None, start: Path | None,
    teachers: tuple[Path, ...], others: Path | None, also: Path | None, cache: Path,
) -> None:  # fmt: skip
    """Train a model on labelled photos. After Ctrl-C the same command continues after the last epoch."""
    from dermserve.models.training.data.layouts import joined_provenance
    from dermserve.models.training.train import dataset
    from dermserve.models.training.train.experiment import load_experiment
    from dermserve.models.training.train.finished import FinishedRun
    from dermserve.models.training.train.run import run_training

    chosen = load_experiment(experiment or model)
    if chosen.model != model:
        raise click.UsageError(f"experiment {chosen.name} is for {chosen.model}, not {model}")
    if start is not None and weights is not None:
        raise click.UsageError("--start brings its own weights: leave --weights out")
    begun = None if start is None else FinishedRun(start)
    if begun is not None and (begun.model, begun.experiment.teacher) != (model, chosen.teacher):
        raise click.UsageError(
            f"{start} is a run of {begun.experiment.teacher or begun.model}, not {chosen.teacher or model}"
        )
    backbone = read_backbone(weights)
    say(f"{chosen.name}: reading {data}")
    provenance = joined_provenance(data, also, begun.summary if begun else None)
    prepared = (
        dataset.prepare(chosen, data, cache=cache) if begun is None else dataset.finished_data(begun, data, cache=cache)
    )
    if also is not None:
        prepared = dataset.with_also(prepared, also)
    recorded = (begun.folder if begun else out) / dataset.OTHERS
    outliers = None if others is None else dataset.read_others(prepared, others, recorded=recorded)
    say(f"training data: {provenance['data']}")
    how: dict[str, Any] = {"stated": provenance, "start": begun, "teachers": [*map(FinishedRun, teachers)]}
    run_training(chosen, prepared, out, backbone=backbone, others=outliers, **how)
    say(f"finished: dermserve evaluate {out} --data {data}")


@click.command()
@_RUN
@DATA
@click.option("--other", metavar="NAME", help="Only measure other data than the run's own; keep the figures by NAME.")
@click.option("--paper", type=_FOLDER, help="An evaluated run, split by image, to show beside this one in the report.")
@click.option(
    "--thin", type=click.IntRange(min=1), default=1, metavar="N", show_default=True,
    help="Run ten views of every Nth photo only, and one view of all; ten of all take ResNet-50 half an hour on a PC.",
)  # fmt: skip
@click.option("--others", type=_FOLDER, help="HAM10000, for a model without some of its classes: fits the scope.")
@_ALSO
@click.option("--again", metavar="REASON", help="Measure test photos again by other weights or rules; REASON is kept.")
@CACHE
@error_messages()
def evaluate(run: Path, data: Path, other: str | None, cache: Path, **own: Any) -> None:
    """Calibrate a run on its validation photos, measure it on its test photos, and write RUN/report."""
    if other is not None and (given := [f"--{option}" for option, value in own.items() if value not in (None, 1)]):
        raise click.UsageError(f"--other only measures: leave out {' and '.join(given)}")
    from dermserve.models.training.evaluate.evaluation import evaluate_other, evaluate_own

    with _held(run) as finished:
        if other is not None:
            measured = evaluate_other(finished, data, name=other, cache=cache)
        else:
            measured = evaluate_own(finished, data, cache=cache, **own)["test"]
    name, verdict = other or "test", measured["verdict"]
    for views, found in (("one view", measured["single"]), ("ten views", measured["tta"])):
        scores = f"accuracy {found['accuracy']:.4f}, balanced {found['balanced_accuracy']:.4f}"
        click.echo(f"{name}, {views}: {scores}, ECE {found['ece']:.4f} on {found['photos']} photos")
    missed = verdict["malignant_confidently_benign"]
    click.echo(
        f"{name}, one view: confident {verdict['confident']:.1%}, bad quality {verdict['bad_quality']:.1%}, rejected "
        f"{verdict['rejected']:.1%}, malignant confidently benign {'none there' if missed is None else f'{missed:.1%}'}"
    )
    if other is None:
        click.echo(str(run / "report" / "index.html"))


@click.command()
@_RUN
@DATA
@CACHE
@error_messages()
def pack(run: Path, data: Path, cache: Path) -> None:
    """Make a run's weights compact, and measure the loss of accuracy. Evaluate the run again afterwards."""
    from dermserve.models.training import conversion

    with _held(run) as finished:
        found = conversion.pack(finished, data, cache=cache)
    change = f"accuracy {found['accuracy_full']:.4f} → {found['accuracy_compact']:.4f}"
    click.echo(f"{found['bytes'] / 1e6:.1f} MB; {change}, the same answer for {found['agreement']:.2%}")


@click.command()
@_RUN
@DATA
@CACHE
@error_messages()
def tflite(run: Path, data: Path, cache: Path) -> None:
    """Convert an evaluated run to TensorFlow Lite, and compare it with the network on validation photos."""
    from dermserve.models.training import conversion

    with _held(run) as finished:
        found = conversion.convert_run(finished, data, cache=cache)
    click.echo(
        f"{found['bytes'] / 1e6:.1f} MB, the same answer for {found['agreement']:.2%}, the same side of the limits for "
        f"{found['gate_agreement']:.2%}, accuracy {found['accuracy']:.4f}, {found['milliseconds']:.1f} ms a photo"
    )
