"""The report of a test as one HTML file that needs nothing else."""

import datetime
import importlib.resources
import json
import pathlib
from collections.abc import Sequence

import jinja2

from dermserve.loadtest.plots import plots, png, settings, stage_means
from dermserve.loadtest.result import Result
from dermserve.loadtest.slo import Finding


def write_report(result: Result, file: pathlib.Path, *, findings: Sequence[Finding] = ()) -> None:
    """Write the report, whole or not at all.

    Args:
        result: what was measured.
        file: where to.
        findings: of the gate, if there was one.
    """
    template = importlib.resources.files("dermserve.loadtest").joinpath("report.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    with settings():
        pictures = {title: png(figure) for title, figure in plots(result).items()}
    page = environment.from_string(template).render(
        result=result,
        rows=[*result.rows, result.all],
        findings=findings,
        pictures=pictures,
        stages=stage_means(result),
        scenario=json.dumps(result.data["scenario"], indent=1),
        machine=result.data["machine"],
        messages=result.data["messages"],
        started=datetime.datetime.fromtimestamp(result.data["started"], datetime.UTC).isoformat(timespec="seconds"),
    )
    beside = file.with_name(file.name + ".part")
    beside.write_text(page)
    beside.replace(file)
