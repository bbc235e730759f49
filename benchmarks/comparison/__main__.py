"""The gateway beside other ways to serve the same weights, on one machine, in one run (see README.md).

make comparison        # everything, three rounds: two hours or more on two idle cores
python -m benchmarks.comparison --quick --contender fastapi --contender fastapi-given
"""

import datetime
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click

from benchmarks.comparison.environments import make_environments, versions
from benchmarks.comparison.field import FIELD, OURS, ROOT, Contender
from benchmarks.comparison.measuring import VIEWS, Plan, Visit, references, visit
from benchmarks.comparison.outcome import figures, to_json
from benchmarks.comparison.running import ContenderError
from benchmarks.figures import NAME
from benchmarks.serving import MODELS
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.scenario import load_photos
from dermserve.local import StackError
from dermserve.local.signals import ends_by_interrupt


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--contender", "names", multiple=True, type=click.Choice([each.name for each in FIELD]),
              help="Whom to compare with dermserve; repeatable. [default: all]")  # fmt: skip
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="Repeatable. [default: both]")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5), default=10.0, show_default=True, help="Of each cell.")
@click.option("--callers", default="2,8,32", show_default=True, help="Numbers of callers.")
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(VIEWS)), help="Views a call asks for.")
@click.option("--photos", default="", help="Folder of photos. [default: eight drawn ones]")
@click.option("--side", type=click.IntRange(64, 8000), default=1024, show_default=True, help="Longer side of photos.")
@click.option("--quick", is_flag=True, help="One round of a second a cell, 1 and 2 callers, MobileNetV3Small alone.")
@click.option("--out", type=click.Path(file_okay=False, path_type=pathlib.Path), default="build/comparison",
              show_default=True, help="Folder for environments, weights and results.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def main(
    names: tuple[str, ...], models: tuple[str, ...], rounds: int, seconds: float, callers: str, kinds: tuple[str, ...],
    photos: str, side: int, quick: bool, out: pathlib.Path, as_json: bool,
) -> None:  # fmt: skip
    """Compare dermserve with other ways to serve the same weights, on this machine."""
    try:
        counts = tuple(int(part) for part in callers.split(","))
    except ValueError:
        raise click.UsageError(f"--callers {callers}: write 2,8,32") from None
    if quick:
        rounds, seconds, counts, models = 1, 1.0, (1, 2), models or ("mobilenet_v3_small",)
    contenders = [each for each in FIELD if not names or each.name in {*names, OURS}]
    folder = str(pathlib.Path(photos).resolve()) if photos else ""
    plan = Plan(
        callers=counts, kinds=kinds or tuple(VIEWS), seconds=seconds, warm_up=min(2.0, seconds),
        weights=out.resolve() / "weights", photos=tuple(load_photos(folder, (side,))[:8]),
        environments=out.resolve() / "venvs",
    )  # fmt: skip
    with ends_by_interrupt():
        _prepare(contenders, models or MODELS, plan)
        about = _about(contenders, plan, rounds=rounds)
        try:
            visits = _measure(contenders, models or MODELS, plan, rounds)
        except (ContenderError, StackError) as error:
            raise click.ClickException(str(error)) from error
    _report(visits, about, out, as_json=as_json)


def _prepare(contenders: Sequence[Contender], models: Sequence[str], plan: Plan) -> None:
    make_environments(contenders, plan.environments, _say)
    lacking = [model for model in models if not (plan.weights / f"{model}.weights.h5").exists()]
    if lacking:
        _say("making the weights (TensorFlow takes a while to start)")
        plan.weights.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.comparison.weights", str(plan.weights), *lacking]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})


def _about(contenders: Sequence[Contender], plan: Plan, *, rounds: int) -> dict[str, Any]:
    cores = str(os.cpu_count() or 1)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "rounds": rounds,
        "seconds": plan.seconds,
        "photo_kb": round(sum(map(len, plan.photos)) / len(plan.photos) / 1000),
        "contenders": {
            each.name: {
                "configuration": each.configuration.replace("CORES", cores),
                "versions": versions(each, plan.environments),
            }
            for each in contenders
        },
    }


def _measure(contenders: Sequence[Contender], models: Sequence[str], plan: Plan, rounds: int) -> list[Visit]:
    _say("asking dermserve for the probabilities that all with its graph and decoder must give")
    reference = references(plan, next(each for each in contenders if each.name == OURS), models)
    visits = []
    for index in range(rounds):
        # Each round begins with another, so that a machine that warms up or fills disturbs nobody in particular.
        turn = index % len(contenders)
        for model in models:
            for contender in (*contenders[turn:], *contenders[:turn]):
                _say(f"round {index + 1} of {rounds}, {model}, {contender.title}")
                visits.append(visit(contender, model, plan, reference, _say))
    order = [contender.name for contender in contenders]
    return sorted(visits, key=lambda each: (list(models).index(each.model), order.index(each.contender)))


def _report(visits: list[Visit], about: dict[str, Any], out: pathlib.Path, *, as_json: bool) -> None:
    found = figures(visits, about, command=shlex.join(["python", "-m", "benchmarks.comparison", *sys.argv[1:]]))
    (out / "comparison.json").write_text(to_json(visits, about))
    (out / NAME).write_text(found.to_json(), encoding="utf-8")
    click.echo(to_json(visits, about) if as_json else found.to_markdown())


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.comparison")
