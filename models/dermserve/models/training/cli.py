"""`dermserve train`, `evaluate`, `report`, `pack` and `tflite`; options and errors that all training commands share."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dermserve.models.catalogue import SPECS
from dermserve.models.options import Number
from dermserve.models.training.errors import DataError, ExperimentError, TrainingError

if TYPE_CHECKING:
    from dermserve.models.training.train.finished import Kind
    from dermserve.models.training.train.loop import Epoch

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_NEW_FOLDER = click.Path(file_okay=False, path_type=Path)

DATA = click.option(
    "--data", type=_FOLDER, required=True,
    help="Folder of the photos: HAM10000 as ISIC or Kaggle ships it, a folder a class, or labels.csv.",
)  # fmt: skip
CACHE = click.option(
    "--cache", type=_NEW_FOLDER, default=Path(".dermserve/cache"), show_default=True,
    help="Folder for decoded photos and the outputs of networks.",
)  # fmt: skip
PRECISION = click.option(
    "--precision", type=click.Choice(["float32", "mixed_bfloat16"]), default="float32", show_default=True,
    help="Arithmetic; mixed_bfloat16 is about twice as fast on CPUs that support it.",
)  # fmt: skip
_RUN = click.argument("run", type=_FOLDER)
_PAPER = click.option("--paper", type=_FOLDER, help="An evaluated run, split by image, to show beside this one.")
_ALSO = click.option(
    "--also",
    type=_FOLDER,
    help="The same photos at another resolution, with the same file names.",
)


class _InputError(click.ClickException):
    """An argument can't be used: exits with the code of a wrong command line."""

    exit_code = 2


@contextlib.contextmanager
def error_messages() -> Iterator[None]:
    """Print intended errors as one line; on Ctrl-C, say how to continue."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off by default without AVX-512: half the speed
    try:
        yield
    except TrainingError as error:
        wrong_input = isinstance(error, DataError | ExperimentError)
        raise (_InputError if wrong_input else click.ClickException)(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        click.echo("interrupted: the same command continues after the last epoch", err=True)
        raise click.Abort from None


def read_backbone(weights: str | None) -> Path | str | None:
    """Read --weights: a file, "imagenet", or None for random weights."""
    if weights in (None, "random"):
        return None
    if weights == "imagenet":
        return weights
    path = Path(str(weights))
    if not path.is_file():
        raise click.BadParameter(f"{path}: no such file", param_hint="--weights")
    return path


def draw_progress() -> Callable[[str, int, int], None]:
    """Make a progress function that draws bars on stderr, if it is a terminal."""
    bar: Any = None

    def advance(what: str, done: int, whole: int) -> None:
        nonlocal bar
        if bar is None or bar.label != what:
            bar = click.progressbar(length=whole, label=what, file=sys.stderr)
            bar.render_progress()
        bar.update(done - bar.pos)
        if done >= whole:
            bar.render_finish()

    return advance


print_line = functools.partial(click.echo, err=True)


@click.command()
@click.argument("model", type=click.Choice(list(SPECS)))
@DATA
@click.option("--out", type=_NEW_FOLDER, required=True, help="Folder of the run.")
@click.option("--experiment", help="Name of an experiment, or a .toml file. [default: the paper's]")
@click.option("--weights", help='Initial backbone: "imagenet" (downloaded by Keras), a file, or "random".')
@click.option(
    "--start", type=_FOLDER, help="A finished run to continue from, with its weights and split; not with --weights."
)
@click.option(
    "--teacher", "teachers", type=_FOLDER, multiple=True,
    help="A finished run of the same model to distil from, beside the labels; repeatable: their mean.",
)  # fmt: skip
@_ALSO
@click.option("--data-name", "name", help="Name of the data set, for the card. [default: from its dataset.toml]")
@click.option("--data-license", "license", help="Licence of the photos. [default: from its dataset.toml]")
@click.option("--data-source", "source", help="Source of the photos. [default: from its dataset.toml]")
@CACHE
@error_messages()
def train(
    model: str,
    data: Path,
    out: Path,
    experiment: str | None,
    weights: str | None,
    start: Path | None,
    teachers: tuple[Path, ...],
    also: Path | None,
    cache: Path,
    **stated: str | None,
) -> None:
    """Train a model on labelled photos. After Ctrl-C the same command continues after the last epoch."""
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
    if begun is not None and begun.model != model:
        raise click.UsageError(f"{start} is a run of {begun.model}, not {model}")
    backbone = read_backbone(weights)
    print_line(f"{chosen.name}: reading {data}")
    provenance = dataset.read_provenance(data, **stated)
    if begun is not None and provenance == dataset.UNSTATED:
        provenance = {key: begun.summary[key] for key in dataset.UNSTATED}
    if begun is None:
        prepared = dataset.prepare(chosen, data, cache=cache, say=print_line)
    else:
        prepared = dataset.finished_data(begun.experiment, data, begun.split, cache=cache)
    if also is not None:
        more = dataset.read_also(prepared, also, SPECS[model], cache=cache, say=print_line)
        prepared = dataset.with_also(prepared, more, SPECS[model], cache=cache)
        if (second := dataset.read_provenance(also)) not in (dataset.UNSTATED, provenance):
            provenance = {key: f"{provenance[key]}; {second[key]}" for key in provenance}
    print_line(f"training data: {provenance['data']}")
    run_training(
        chosen,
        prepared,
        out,
        backbone=backbone,
        progress=draw_progress(),
        report=_report_epoch,
        stated=provenance,
        start=begun,
        teachers=[FinishedRun(teacher) for teacher in teachers],
    )
    print_line(f"finished: dermserve evaluate {out} --data {data}")


def _report_epoch(epoch: "Epoch") -> None:
    print_line(
        f"{epoch.stage} {epoch.epoch}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f}; validation loss "
        f"{epoch.validation_loss:.3f}, accuracy {epoch.validation_accuracy:.3f}, balanced "
        f"{epoch.validation_balanced_accuracy:.3f}; {epoch.seconds:.0f} s"
    )


@click.command()
@_RUN
@DATA
@click.option(
    "--other", metavar="NAME", help="Only measure, on other data than the run's own, and store the figures under NAME."
)
@_PAPER
@click.option(
    "--thin", type=click.IntRange(min=1), default=1, metavar="N", show_default=True,
    help="Run ten views of every Nth photo only, and one view of all; ten of all take ResNet-50 half an hour on a PC.",
)  # fmt: skip
@click.option(
    "--recall-price", "price", type=Number(0, 1), default=0.0, show_default=True,
    help="Most validation accuracy, as a share, to give up for a melanoma recall of 0.65.",
)  # fmt: skip
@click.option(
    "--others",
    type=_FOLDER,
    help="HAM10000, for a model without some of its classes: fits and measures the out-of-scope score.",
)
@_ALSO
@click.option(
    "--again",
    metavar="REASON",
    help="Measure test photos that were already measured with other weights or rules; run.json keeps REASON.",
)
@PRECISION
@CACHE
@error_messages()
def evaluate(run: Path, data: Path, other: str | None, paper: Path | None, **how: Any) -> None:
    """Calibrate a run on its validation photos, measure it on its test photos, and write RUN/report."""
    ignored = {"--paper": paper, "--thin": how["thin"] > 1, "--recall-price": how["price"]}
    ignored |= {f"--{name}": how[name] for name in ("also", "again")}
    if other is not None and (given := [option for option, value in ignored.items() if value]):
        raise click.UsageError(f"--other only measures: leave out {' and '.join(given)}")
    from dermserve.models.training.evaluate import evaluation
    from dermserve.models.training.evaluate.report import write_report
    from dermserve.models.training.train.finished import FinishedRun

    finished = FinishedRun(run)
    how["progress"] = draw_progress()
    if other is not None:
        common = {key: how[key] for key in ("cache", "precision", "others", "progress")}
        _say_figures(other, evaluation.evaluate_other(finished, data, name=other, **common))
        return
    metrics = evaluation.evaluate_own(finished, data, **how)
    page = write_report(finished, paper=None if paper is None else FinishedRun(paper))
    _say_figures("test", metrics["test"])
    click.echo(str(page))


def _say_figures(name: str, measured: dict[str, Any]) -> None:
    for views, key in (("one view", "single"), ("ten views", "tta")):
        found = measured[key]
        click.echo(
            f"{name}, {views}: accuracy {found['accuracy']:.4f}, balanced {found['balanced_accuracy']:.4f}, "
            f"ECE {found['ece']:.4f} on {found['photos']} photos"
        )
    found = measured["verdict"]
    missed = found["malignant_confidently_benign"]
    click.echo(
        f"{name}, one view: confident {found['confident']:.1%}, bad quality {found['bad_quality']:.1%}, rejected "
        f"{found['rejected']:.1%}, malignant confidently benign {'none there' if missed is None else f'{missed:.1%}'}"
    )


@click.command()
@_RUN
@_PAPER
@error_messages()
def report(run: Path, paper: Path | None) -> None:
    """Write RUN/report again, for example after `evaluate --other`, or with --paper."""
    from dermserve.models.training.evaluate.report import write_report
    from dermserve.models.training.train.finished import FinishedRun

    click.echo(str(write_report(FinishedRun(run), paper=None if paper is None else FinishedRun(paper))))


@click.command()
@_RUN
@DATA
@CACHE
@click.option(
    "--kind", type=click.Choice(["int8", "float16"]), default="int8", show_default=True,
    help="Type of the kernels; int8 is too coarse for MobileNetV3Small.",
)  # fmt: skip
@error_messages()
def pack(run: Path, data: Path, cache: Path, kind: "Kind") -> None:
    """Make a run's weights compact, and measure the loss of accuracy. Evaluate the run again afterwards."""
    from dermserve.models.training import conversion
    from dermserve.models.training.train.finished import FinishedRun

    found = conversion.pack(FinishedRun(run), data, kind=kind, cache=cache, progress=draw_progress())
    click.echo(
        f"{found['bytes'] / 1e6:.1f} MB; accuracy {found['accuracy_full']:.4f} → {found['accuracy_compact']:.4f}, "
        f"the same answer for {found['agreement']:.2%}"
    )


@click.command()
@_RUN
@DATA
@CACHE
@error_messages()
def tflite(run: Path, data: Path, cache: Path) -> None:
    """Convert an evaluated run to TensorFlow Lite, float16 and int8, and compare each with it on validation photos."""
    from dermserve.models.training.conversion import convert_run
    from dermserve.models.training.train.finished import FinishedRun

    for kind, row in convert_run(FinishedRun(run), data, cache=cache, progress=draw_progress()).items():
        click.echo(
            f"{kind}: {row['bytes'] / 1e6:.1f} MB, the same answer for {row['agreement']:.2%}, "
            f"the same side of the limits for {row['gate_agreement']:.2%}, accuracy {row['accuracy']:.4f}, "
            f"{row['milliseconds']:.1f} ms a photo"
        )
