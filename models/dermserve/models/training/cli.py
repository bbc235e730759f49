"""`dermserve train`, `evaluate`, `report`, `pack` and `tflite`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    from dermserve.models.training.train.loop import Epoch

_PAPER = click.option(
    "--paper",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="An evaluated random-by-image run to set beside.",
)
_ALSO = click.option(
    "--also",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The same photos at another resolution, under the same file names; each in the part of its lesion.",
)
_RUN = click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command()
@click.argument("model", type=click.Choice(list(SPECS)))
@DATA
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
@CACHE
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
    with error_messages():
        from dermserve.models.training.data.provenance import read_provenance
        from dermserve.models.training.train.experiment import load_experiment
        from dermserve.models.training.train.finished import FinishedRun
        from dermserve.models.training.train.run import finished_data, prepare, read_also, run_training, with_also

        chosen = load_experiment(experiment or model)
        if chosen.model != model:
            raise click.UsageError(f"experiment {chosen.name} is for {chosen.model}, not {model}")
        if start is not None and weights is not None:
            raise click.UsageError("--start brings its own weights: leave --weights out")
        begun = None if start is None else FinishedRun(start)
        if begun is not None and begun.model != model:
            raise click.UsageError(f"{start} is a run of {begun.model}, not {model}")
        backbone = read_backbone(weights)
        click.echo(f"{chosen.name}: reading {data}", err=True)
        stated = read_provenance(data, name=data_name, license=data_license, source=data_source)
        if begun is None:
            prepared = prepare(chosen, data, cache=cache, say=print_line)
        else:
            prepared = finished_data(begun.experiment, data, begun.split, cache=cache)
        if also is not None:
            more = read_also(prepared, also, SPECS[model], cache=cache, say=print_line)
            prepared = with_also(prepared, more, SPECS[model], cache=cache)
        click.echo(f"training data: {stated.data}", err=True)
        how: Any = {"backbone": backbone, "start": begun, "progress": draw_progress(), "report": _report_epoch}
        how["teachers"] = [FinishedRun(teacher) for teacher in teachers]
        run_training(chosen, prepared, out, provenance=stated, **how)
        click.echo(f"finished: dermserve evaluate {out} --data {data}", err=True)


@click.command()
@_RUN
@DATA
@click.option(
    "--other", metavar="NAME", help="Only measure, on data that is not the run's own, and store the figures under NAME."
)
@_PAPER
@click.option(
    "--thin",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    show_default=True,
    help="Run ten views of every Nth photo only, and one view of all: ten of all take ResNet-50 half an hour on a PC.",
)
@click.option(
    "--recall-price",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Loss of accuracy on validation photos, as a share, that is allowed for a melanoma recall of 0.65.",
)
@click.option(
    "--others",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="HAM10000, for a model that does not know all its classes: fit and measure the out-of-scope score.",
)
@_ALSO
@click.option(
    "--again",
    metavar="REASON",
    help="Measure test photos again, although they were measured with other weights or rules; run.json keeps REASON.",
)
@PRECISION
@CACHE
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
    with error_messages():
        from dermserve.models.training.evaluate import evaluation
        from dermserve.models.training.evaluate.report import keep_figures, write_report
        from dermserve.models.training.train.finished import FinishedRun

        finished = FinishedRun(run)
        options: dict[str, Any] = {"cache": cache, "precision": precision, "others": others}
        options["progress"] = draw_progress()
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
    with error_messages():
        from dermserve.models.training.evaluate.report import write_report
        from dermserve.models.training.train.finished import FinishedRun

        click.echo(str(write_report(FinishedRun(run), paper=None if paper is None else FinishedRun(paper))))


@click.command()
@_RUN
@DATA
@CACHE
@click.option(
    "--kind",
    type=click.Choice(["int8", "float16"]),
    default="int8",
    show_default=True,
    help="What kernels become; int8 is too coarse for MobileNet's.",
)
def pack(run: Path, data: Path, cache: Path, kind: Literal["int8", "float16"]) -> None:
    """Make a run's weights compact and measure what that costs. Evaluate the run again afterwards."""
    with error_messages():
        from dermserve.models.training.export.pack import pack as pack_run
        from dermserve.models.training.train.finished import FinishedRun

        found = pack_run(FinishedRun(run), data, kind=kind, cache=cache, progress=draw_progress())
        click.echo(
            f"{found['bytes'] / 1e6:.1f} MB; accuracy {found['accuracy_full']:.4f} → {found['accuracy_compact']:.4f}, "
            f"the same answer for {found['agreement']:.2%}"
        )


@click.command()
@_RUN
@DATA
@CACHE
def tflite(run: Path, data: Path, cache: Path) -> None:
    """Convert an evaluated run to TensorFlow Lite, float16 and int8, and compare each with it on validation photos."""
    with error_messages():
        from dermserve.models.training.data.splits import Part
        from dermserve.models.training.export.lite import convert_run
        from dermserve.models.training.train.finished import FinishedRun
        from dermserve.models.training.train.run import finished_data

        finished = FinishedRun(run)
        photos = finished_data(finished.experiment, data, finished.split, cache=cache)
        photos = photos.without_test()
        found = convert_run(finished, photos.part(Part.TRAIN), photos.part(Part.VALIDATION), progress=draw_progress())
        for kind, row in found.items():
            click.echo(
                f"{kind}: {row['bytes'] / 1e6:.1f} MB, the same answer for {row['agreement']:.2%}, "
                f"the same side of the gate for {row['gate_agreement']:.2%}, accuracy {row['accuracy']:.4f}, "
                f"{row['milliseconds']:.1f} ms a photo"
            )


def _report_epoch(epoch: "Epoch") -> None:
    click.echo(
        f"{epoch.stage} {epoch.epoch}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f}; validation loss "
        f"{epoch.validation_loss:.3f}, accuracy {epoch.validation_accuracy:.3f}, balanced "
        f"{epoch.validation_balanced_accuracy:.3f}; {epoch.seconds:.0f} s",
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
