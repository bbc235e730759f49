"""`dermserve train`, `evaluate`, `report`, `pack`, `tflite`, `scenarios` and `backbones`."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from dermserve.models.catalogue import SPECS
from dermserve.models.training.errors import DataError, ExperimentError, TrainingError

if TYPE_CHECKING:
    from dermserve.models.training.loop import Epoch
    from dermserve.models.training.scenarios import Cell

_DATA = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the photos: HAM10000 as ISIC or Kaggle ships it, a folder a class, or labels.csv.",
)
_CACHE = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".dermserve/cache"),
    show_default=True,
    help="Where decoded photos are kept, and what networks said of them.",
)
_PRECISION = click.option(
    "--precision",
    type=click.Choice(["float32", "mixed_bfloat16"]),
    default="float32",
    show_default=True,
    help="Arithmetic; mixed_bfloat16 is about twice as fast on a CPU that knows it.",
)
_PAPER = click.option(
    "--paper",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An evaluated random-by-image run to set beside.",
)
_ALSO = click.option(
    "--also",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The same photos at another resolution, under the same file names: each is for what its lesion is for.",
)
_RUN = click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command()
@click.argument("model", type=click.Choice(list(SPECS)))
@_DATA
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run.")
@click.option("--experiment", help="One of dermserve's experiments or a .toml file; the paper's when not given.")
@click.option("--weights", help='Initial backbone: "imagenet" (Keras downloads it), a file, or "random".')
@click.option(
    "--start",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A finished run whose weights to go on from, by its split; instead of --weights.",
)
@click.option(
    "--teacher",
    "teachers",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="A finished run of the same model to learn from beside the labels (distillation); several: their mean.",
)
@_ALSO
@click.option("--data-name", help="What the data set is called, for the card; else as its dataset.toml says.")
@click.option("--data-license", help="Under which licence the photos may be used; else as its dataset.toml says.")
@click.option("--data-source", help="Where the photos come from; else as its dataset.toml says.")
@_CACHE
def train(
    model: str,
    data: Path,
    out: Path,
    experiment: str | None,
    weights: str | None,
    start: Path | None,
    teachers: tuple[Path, ...],
    also: Path | None,
    data_name: str | None,
    data_license: str | None,
    data_source: str | None,
    cache: Path,
) -> None:
    """Train a model on labelled photos. Stopped with Ctrl-C, the same command goes on from the last epoch."""
    with _said():
        from dermserve.models.training.experiment import load_experiment
        from dermserve.models.training.finished import FinishedRun
        from dermserve.models.training.provenance import read_provenance
        from dermserve.models.training.run import finished_data, prepare, read_also, run_training, with_also

        chosen = load_experiment(experiment or model)
        if chosen.model != model:
            raise click.UsageError(f"experiment {chosen.name} is for {chosen.model}, not {model}")
        if start is not None and weights is not None:
            raise click.UsageError("--start brings its own weights: leave --weights out")
        begun = None if start is None else FinishedRun(start)
        if begun is not None and begun.model != model:
            raise click.UsageError(f"{start} is a run of {begun.model}, not {model}")
        backbone = _backbone(weights)
        click.echo(f"{chosen.name}: reading {data}", err=True)
        stated = read_provenance(data, name=data_name, license=data_license, source=data_source)
        if begun is None:
            prepared = prepare(chosen, data, cache=cache, say=_say)
        else:
            prepared = finished_data(begun.experiment, data, begun.split, cache=cache)
        if also is not None:
            more = read_also(prepared, also, SPECS[model], cache=cache, say=_say)
            prepared = with_also(prepared, more, SPECS[model], cache=cache)
        click.echo(f"training data: {stated.data}", err=True)
        how: Any = {"backbone": backbone, "start": begun, "progress": _progress(), "report": _report_epoch}
        how["teachers"] = [FinishedRun(teacher) for teacher in teachers]
        run_training(chosen, prepared, out, provenance=stated, **how)
        click.echo(f"finished: dermserve evaluate {out} --data {data}", err=True)


@click.command()
@_RUN
@_DATA
@click.option(
    "--other", metavar="NAME", help="Data is not the run's own: measure on it under this name, calibrate nothing."
)
@_PAPER
@click.option(
    "--thin",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    show_default=True,
    help="Take ten views of every Nth photo alone, and one of all: ten of all take ResNet-50 half an hour on a PC.",
)
@click.option(
    "--recall-price",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="What of the accuracy on validation photos may be given for a melanoma recall of 0.65, as a share.",
)
@click.option(
    "--others",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="HAM10000, for a model that does not know all its classes: fit and measure its scope. With --other: measure.",
)
@_ALSO
@click.option(
    "--again",
    metavar="REASON",
    help="Fit and measure although test photos were measured with other weights or rules; run.json keeps the reason.",
)
@_PRECISION
@_CACHE
def evaluate(
    run: Path,
    data: Path,
    other: str | None,
    paper: Path | None,
    thin: int,
    recall_price: float,
    others: Path | None,
    also: Path | None,
    again: str | None,
    precision: str,
    cache: Path,
) -> None:
    """Calibrate a run on its validation photos, measure it on its test photos, and write RUN/report."""
    with _said():
        from dermserve.models.training import evaluate as evaluation
        from dermserve.models.training.finished import FinishedRun
        from dermserve.models.training.report import keep_figures, write_report

        finished = FinishedRun(run)
        options: dict[str, Any] = {"cache": cache, "precision": precision, "progress": _progress(), "others": others}
        if other is not None:
            measured = evaluation.evaluate_other(finished, data, name=other, **options)
            _say_figures(other, measured)
            return
        how: Any = {"thin": thin, "price": recall_price, "also": also, "again": again}
        result = evaluation.evaluate_own(finished, data, **how, **options)
        keep_figures(finished, result["figures"])
        page = write_report(finished, paper=None if paper is None else FinishedRun(paper))
        _say_figures("test", result["metrics"]["test"])
        click.echo(str(page))


@click.command()
@_RUN
@_PAPER
def report(run: Path, paper: Path | None) -> None:
    """Write RUN/report again: after measuring on other data, or with another run beside it."""
    with _said():
        from dermserve.models.training.finished import FinishedRun
        from dermserve.models.training.report import write_report

        click.echo(str(write_report(FinishedRun(run), paper=None if paper is None else FinishedRun(paper))))


@click.command()
@_RUN
@_DATA
@_CACHE
@click.option(
    "--kind",
    type=click.Choice(["int8", "float16"]),
    default="int8",
    show_default=True,
    help="What kernels become; int8 is too coarse for MobileNet's.",
)
def pack(run: Path, data: Path, cache: Path, kind: Literal["int8", "float16"]) -> None:
    """Make a run's weights compact and measure what that costs. Evaluate the run again afterwards."""
    with _said():
        from dermserve.models.training.finished import FinishedRun
        from dermserve.models.training.pack import pack as pack_run

        found = pack_run(FinishedRun(run), data, kind=kind, cache=cache, progress=_progress())
        click.echo(
            f"{found['bytes'] / 1e6:.1f} MB; accuracy {found['accuracy_full']:.4f} → {found['accuracy_compact']:.4f}, "
            f"the same answer for {found['agreement']:.2%}"
        )


@click.command()
@_RUN
@_DATA
@_CACHE
def tflite(run: Path, data: Path, cache: Path) -> None:
    """Convert an evaluated run to TensorFlow Lite, float16 and int8, and compare each with it on validation photos."""
    with _said():
        from dermserve.models.training.finished import FinishedRun
        from dermserve.models.training.lite import convert_run
        from dermserve.models.training.run import finished_data
        from dermserve.models.training.splits import Part

        finished = FinishedRun(run)
        photos = finished_data(finished.experiment, data, finished.split, cache=cache)
        photos = photos.without_test()
        found = convert_run(finished, photos.part(Part.TRAIN), photos.part(Part.VALIDATION), progress=_progress())
        for kind, row in found.items():
            click.echo(
                f"{kind}: {row['bytes'] / 1e6:.1f} MB, the same answer for {row['agreement']:.2%}, "
                f"the same side of the gate for {row['gate_agreement']:.2%}, accuracy {row['accuracy']:.4f}, "
                f"{row['milliseconds']:.1f} ms a photo"
            )


@click.command()
@_DATA
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the table.")
@click.option("--experiment", default="resnet50", show_default=True, help="What to vary.")
@click.option("--weights", help='Initial backbone: "imagenet" (Keras downloads it), a file, or "random".')
@click.option("--full", is_flag=True, help="Train every cell whole: days without a GPU. Else heads on frozen features.")
@_PRECISION
@_CACHE
def scenarios(
    data: Path, out: Path, experiment: str, weights: str | None, full: bool, precision: str, cache: Path
) -> None:
    """Train over the papers' grid: training share 70 and 80 %, dropout 0.4 to 0.6, batches of 16, 32 and 64.

    Goes on where it was stopped: cells that --out has already are not trained again.
    """
    with _said():
        from dermserve.models.training import scenarios as grid
        from dermserve.models.training.experiment import load_experiment
        from dermserve.models.training.run import initial_network, prepare

        chosen, backbone = load_experiment(experiment), _backbone(weights)
        prepared = prepare(chosen, data, cache=cache, say=_say)
        out.mkdir(parents=True, exist_ok=True)
        table = out / "scenarios.csv"
        if full:
            cells = grid.run_full(chosen, prepared, out, backbone=backbone, progress=_progress(), report=_report_cell)
            grid.write_table(cells, table)
            best = grid.measure_full(chosen, prepared, out, cells)
        else:
            network = initial_network(chosen, backbone)
            features = grid.compute_features(network, prepared, cache=cache, precision=precision, progress=_progress())
            cells = grid.run_reduced(chosen, prepared, features, table, report=_report_cell)
            best = grid.measure_reduced(chosen, prepared, features, cells)
        click.echo(
            f"best on validation photos: {best.cell.training_share:.0%} training, dropout {best.cell.dropout}, "
            f"batch {best.cell.batch}; on its test photos: accuracy {best.accuracy:.4f}, balanced "
            f"{best.balanced_accuracy:.4f}",
            err=True,
        )
        click.echo(str(table))


@click.command()
@_DATA
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the table.")
@click.option("--experiment", default="resnet50", show_default=True, help="Whose head and split to take.")
@click.option(
    "--weights",
    metavar="NAME=WEIGHTS",
    multiple=True,
    help='A backbone to compare: mobilenet, inception_v3, resnet50 or mobilenet_v3_small, and "imagenet" (Keras '
    'downloads it), a file, or "random". Repeatable; all four with imagenet when not given.',
)
@_CACHE
def backbones(data: Path, out: Path, experiment: str, weights: tuple[str, ...], cache: Path) -> None:
    """Compare backbones: the same head on the frozen features of each."""
    with _said():
        from dermserve.models.training import backbones as comparison
        from dermserve.models.training.experiment import load_experiment
        from dermserve.models.training.run import prepare
        from dermserve.models.training.scenarios import write_table

        names = list(comparison.BACKBONES)
        asked = [_named(item, names) for item in weights] or [(name, "imagenet") for name in names]
        chosen = load_experiment(experiment)
        side = SPECS[chosen.model].input_side
        networks = [comparison.load(name, _backbone(source), side=side) for name, source in asked]
        prepared = prepare(chosen, data, cache=cache, say=_say)
        rows = comparison.compare(chosen, prepared, networks, progress=_progress())
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


class _InputError(click.ClickException):
    """What was passed can't be used: the exit code is that of a wrong command line."""

    exit_code = 2


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Turn intended errors into one line, and Ctrl-C into advice."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow leaves it off without AVX-512: half the speed
    try:
        yield
    except TrainingError as error:
        wrong_input = isinstance(error, DataError | ExperimentError)
        raise (_InputError if wrong_input else click.ClickException)(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'a file'}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        click.echo("interrupted: the same command goes on from the last epoch", err=True)
        raise click.Abort from None


def _backbone(weights: str | None) -> Path | str | None:
    if weights in (None, "random"):
        return None
    if weights == "imagenet":
        return weights
    path = Path(str(weights))
    if not path.is_file():
        raise click.BadParameter(f"{path}: no such file", param_hint="--weights")
    return path


def _progress() -> Callable[[str, int, int], None]:
    """Make a progress function that draws one bar after another on stderr, on a terminal alone."""
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


def _say(line: str) -> None:
    click.echo(line, err=True)


def _report_epoch(epoch: "Epoch") -> None:
    click.echo(
        f"{epoch.stage} {epoch.epoch}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f}; validation loss "
        f"{epoch.validation_loss:.3f}, accuracy {epoch.validation_accuracy:.3f}, balanced "
        f"{epoch.validation_balanced_accuracy:.3f}; {epoch.seconds:.0f} s",
        err=True,
    )


def _report_cell(cell: "Cell") -> None:
    click.echo(
        f"{cell.training_share:.0%} training, dropout {cell.dropout}, batch {cell.batch}: "
        f"accuracy {cell.accuracy:.4f}, balanced {cell.balanced_accuracy:.4f}, {cell.minutes:.1f} min",
        err=True,
    )


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
