"""The gateway beside other ways to serve the same weights, on one machine, in one run (see README.md).

make comparison        # everything, three rounds: an hour or more on two idle cores
python -m benchmarks.comparison --quick --contender fastapi --contender fastapi-given
"""

import pathlib
from collections.abc import Iterator, Sequence

import click

from benchmarks.comparison.contenders import FIELD, OURS, Contender, ContenderError, make_environment
from benchmarks.comparison.measuring import Plan, Visit, reference_of, tables, visit
from benchmarks.figures import report
from benchmarks.networks import ensure_networks
from benchmarks.serving import MODELS
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.scenario import load_photos
from dermserve.local import StackError
from dermserve.local.child import ends_by_interrupt


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--contender", "names", multiple=True, type=click.Choice([each.name for each in FIELD]),
              help="Whom to compare with dermserve; repeatable. [default: all]")  # fmt: skip
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), help="Repeatable. [default: both]")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.5), default=10.0, show_default=True, help="Of each cell.")
@click.option("--callers", multiple=True, type=click.IntRange(1), default=(2, 8, 32), show_default=True)
@click.option("--photos", default="", help="Folder of photos. [default: eight drawn ones]")
@click.option("--quick", is_flag=True, help="One round of a second a cell, 1 and 2 callers, MobileNetV3Small alone.")
@click.option("--out", type=click.Path(file_okay=False, path_type=pathlib.Path), default="build/comparison",
              show_default=True, help="Folder for environments, weights and figures.json.")  # fmt: skip
def main(
    names: tuple[str, ...], models: tuple[str, ...], rounds: int, seconds: float, callers: tuple[int, ...], photos: str,
    quick: bool, out: pathlib.Path,
) -> None:  # fmt: skip
    """Compare dermserve with other ways to serve the same weights, on this machine."""
    if quick:
        rounds, seconds, callers, models = 1, 1.0, (1, 2), models or ("mobilenet_v3_small",)
    contenders = [each for each in FIELD if not names or each.name in {*names, OURS}]
    folder = str(pathlib.Path(photos).resolve()) if photos else ""
    plan = Plan(
        callers=callers, seconds=seconds, photos=tuple(load_photos(folder, (1024,))[:8]),
        weights=out.resolve() / "weights", environments=out.resolve() / "venvs",
    )  # fmt: skip
    machine = describe_machine()
    with ends_by_interrupt():
        for contender in contenders:
            if contender.environment:
                _say(f"the environment of {contender.title} (when it is new: minutes, 2 GB)")
                make_environment(contender, plan.environments)
        ensure_networks(plan.weights, models or MODELS)
        try:
            visits = list(_measure(contenders, models or MODELS, plan, rounds))
        except (ContenderError, StackError) as error:
            raise click.ClickException(str(error)) from error
    visits.sort(key=lambda each: [one.name for one in FIELD].index(each.contender))
    told = f"{rounds} rounds, {seconds:g} s a cell"
    notes = [f"{each.title}: {each.configuration}" for each in contenders]
    click.echo(report("comparison", tables(visits), machine, plan=told, notes=notes, out=out))


def _measure(contenders: Sequence[Contender], models: Sequence[str], plan: Plan, rounds: int) -> Iterator[Visit]:
    references = {model: reference_of(model, plan) for model in models}
    for index in range(rounds):
        # Each round begins with another, so that a machine that warms up or fills disturbs nobody in particular.
        turn = index % len(contenders)
        for model in models:
            for contender in (*contenders[turn:], *contenders[:turn]):
                _say(f"round {index + 1} of {rounds}, {model}, {contender.title}")
                yield visit(contender, model, plan, references[model], _say)


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks.comparison")
