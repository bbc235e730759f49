"""The gateway beside other ways to serve the same weights, on one machine, in one run.

    make comparison                                     # everything, three rounds: about 75 minutes on two idle cores
    python -m benchmarks.comparison --quick                # whether everyone starts and answers alike: minutes
    python -m benchmarks.comparison --write-docs           # and put the tables and the plot into docs/comparison.md

Every contender gets an environment of its own under build/comparison, from pinned requirements, the same weights and
photos, and photo bytes in and class probabilities out. One server runs at a time; within a round all are visited, each
round in another order, and ratios are taken within a round. A contender whose probabilities differ is an error.
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

from benchmarks.comparison.calling import VIEWS
from benchmarks.comparison.environments import make_environments, megabytes, versions
from benchmarks.comparison.field import FIELD, MODELS, OURS, ROOT, Contender
from benchmarks.comparison.journal import Journal
from benchmarks.comparison.measuring import Plan, Reference, Visit, references, visit
from benchmarks.comparison.outcome import draw, tables, to_json, write_docs
from benchmarks.comparison.running import ContenderError
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.photos import load_photos
from dermserve.local import StackError
from dermserve.local.signals import ends_by_interrupt

_DOCS = ROOT / "docs"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--contender",
    "names",
    multiple=True,
    type=click.Choice([each.name for each in FIELD]),
    help="Whom to compare with dermserve; repeatable. [default: all]",
)
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="Repeatable. [default: both]")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5), default=10.0, show_default=True, help="Of each cell.")
@click.option("--callers", default="1,2,8,32", show_default=True, help="Numbers of callers.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(list(VIEWS)),
    help="Views a call asks for; repeatable. Visits that --resume finds stay as they are. [default: all]",
)
@click.option("--photos", default="", help="Folder of photos. [default: eight drawn ones]")
@click.option(
    "--side",
    type=click.IntRange(64, 8000),
    default=1024,
    show_default=True,
    help="Longer side in pixels to scale photos to; 1024 makes files of some 200 kB.",
)
@click.option("--quick", is_flag=True, help="One round of a second a cell, 1 and 2 callers, MobileNetV3Small alone.")
@click.option("--resume", is_flag=True, help="Go on with a run of the same plan that ended early.")
@click.option("--check-only", is_flag=True, help="Only whether everyone starts and answers alike.")
@click.option(
    "--write-docs", "docs", is_flag=True, help="Put tables and plot into docs/comparison.md; not with --quick."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    default="build/comparison",
    show_default=True,
    help="Folder for environments, weights and results.",
)
def main(
    names: tuple[str, ...], models: tuple[str, ...], rounds: int, seconds: float, callers: str, kinds: tuple[str, ...],
    photos: str, side: int,
    quick: bool, resume: bool, check_only: bool, docs: bool, out: pathlib.Path,
) -> None:  # fmt: skip
    """Compare dermserve with other ways to serve the same weights, on this machine."""
    if docs and (quick or check_only or names):
        raise click.UsageError("--write-docs wants a whole run: leave --quick, --check-only and --contender out")
    try:
        counts = tuple(int(part) for part in callers.split(","))
    except ValueError:
        raise click.UsageError(f"--callers {callers}: write 1,2,8,32") from None
    if check_only:
        rounds = 1
    if quick:
        rounds, seconds, counts, models = 1, 1.0, (1, 2), models or ("mobilenet_v3_small",)
    contenders = [each for each in FIELD if not names or each.name in {*names, OURS}]
    out = out.resolve()
    plan = Plan(
        callers=() if check_only else counts, kinds=kinds or tuple(VIEWS),
        seconds=seconds, warm_up=min(2.0, seconds), weights=out / "weights",
        photos=tuple(load_photos(str(pathlib.Path(photos).resolve()) if photos else "", (side,))[:8]),
        environments=out / "venvs",
    )  # fmt: skip
    with ends_by_interrupt():
        _prepare(contenders, plan)
        about = _about(contenders, plan, rounds=rounds)
        try:
            journal = Journal(out / "visits.jsonl", plan, resume=resume)
            visits = _measure(contenders, models or MODELS, plan, rounds, journal)
        except (ContenderError, StackError) as error:
            raise click.ClickException(str(error)) from error
    _report(visits, about, out, docs=docs)


def _prepare(contenders: Sequence[Contender], plan: Plan) -> None:
    make_environments(contenders, plan.environments, _say)
    if not all((plan.weights / f"{model}.weights.h5").exists() for model in MODELS):
        _say("making the weights (TensorFlow takes a while to start)")
        command = [sys.executable, "-m", "benchmarks.comparison.weights", str(plan.weights)]
        plan.weights.mkdir(parents=True, exist_ok=True)
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
                "versions": versions(plan.environments / each.environment, each.versions),
                "installed_mb": megabytes(plan.environments / each.environment),
            }
            for each in contenders
        },
    }


def _measure(
    contenders: Sequence[Contender], models: Sequence[str], plan: Plan, rounds: int, journal: Journal
) -> list[Visit]:
    ours = next(each for each in contenders if each.name == OURS)
    _say("asking dermserve for the probabilities that all must give")
    reference: Reference = references(plan, ours, models)
    visits = []
    for index in range(rounds):
        # Each round begins with another, so that a machine that warms up or fills disturbs nobody in particular.
        turned = [*contenders[index % len(contenders) :], *contenders[: index % len(contenders)]]
        for model in models:
            for contender in turned:
                _say(f"round {index + 1} of {rounds}, {model}, {contender.title}")
                if (made := journal.find(index, model, contender.name)) is None:
                    made = visit(contender, model, plan, reference, _say)
                    journal.add(index, made)
                visits.append(made)
    order = [contender.name for contender in contenders]
    return sorted(visits, key=lambda each: (list(models).index(each.model), order.index(each.contender)))


def _report(visits: list[Visit], about: dict[str, Any], out: pathlib.Path, *, docs: bool) -> None:
    if not any(visit.loops for visit in visits):
        click.echo("everyone starts, and answers alike")
        return
    text = tables(visits, about, command=shlex.join(["python", "-m", "benchmarks.comparison", *sys.argv[1:]]))
    (out / "comparison.json").write_text(to_json(visits, about))
    (out / "comparison.md").write_text(text + "\n")
    draw(visits, out / "comparison.png")
    click.echo(text)
    _say(f"written: {out}/comparison.json, .md and .png")
    if docs:
        (_DOCS / "images").mkdir(exist_ok=True)
        draw(visits, _DOCS / "images" / "comparison.png")
        write_docs(_DOCS / "comparison.md", f"{text}\n\n![Throughput and p99 against callers](images/comparison.png)")
        _say("written: docs/comparison.md and its plot")


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.comparison")
