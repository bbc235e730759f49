"""What the commands of training share: options, progress on stderr, and errors as one line."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from dermserve.models.training.errors import DataError, ExperimentError, TrainingError

DATA = click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the photos: HAM10000 as ISIC or Kaggle ships it, a folder a class, or labels.csv.",
)
CACHE = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".dermserve/cache"),
    show_default=True,
    help="Folder for decoded photos and the outputs of networks.",
)
PRECISION = click.option(
    "--precision",
    type=click.Choice(["float32", "mixed_bfloat16"]),
    default="float32",
    show_default=True,
    help="Arithmetic; mixed_bfloat16 is about twice as fast on a CPU that supports it.",
)


class _InputError(click.ClickException):
    """What was passed can't be used: the exit code is that of a wrong command line."""

    exit_code = 2


@contextlib.contextmanager
def error_messages() -> Iterator[None]:
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


def print_line(line: str) -> None:
    """Print a line on stderr."""
    click.echo(line, err=True)
