"""`dermserve-loadtest run`, `worker` and `report`."""

import json
import os
import pathlib
import sys

import click

from dermserve.loadtest.drive import Generator, check_server, run, worker_command
from dermserve.loadtest.local import server_under_test
from dermserve.loadtest.options import DURATION, progress, read_metadata, read_tls, reading_errors, server_options
from dermserve.loadtest.photos import find_photos
from dermserve.loadtest.result import Result, row_json, table, write_csv
from dermserve.loadtest.scenario import MODES, Scenario, parse_mix
from dermserve.loadtest.shapes import SHAPES
from dermserve.loadtest.slo import Finding, check, findings_table, read_slos
from dermserve.local.signals import ends_by_interrupt

BREACHED = 1
RATE_NOT_KEPT = 4
_RESULT = "result.json"
_REPORT = "report.html"


_SLO = click.option(
    "--slo",
    "slo_file",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="TOML file of thresholds; a breach exits with 1.",
)


_MAX_ERROR_RATE = click.option(
    "--max-error-rate",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of calls that may fail, more exits with 1.",
)


@click.command("run")
@server_options
@click.option(
    "--mix",
    "mix",
    multiple=True,
    default=("all",),
    show_default=True,
    metavar="MODEL[:MODE[:N]][=WEIGHT]",
    help=f"What to call; repeatable. MODE is {', '.join(MODES).lower()}; N photos make one stream. `all`: everything.",
)
@click.option(
    "--users", type=click.IntRange(0), default=0, help="Users at the peak. [default: 8, or what --rate needs]"
)
@click.option("--rate", type=float, help="Calls due a second, over all users, whatever the answers do (open loop).")
@click.option("--run-time", type=DURATION, default="1m", show_default=True, help="How long.")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="steady", show_default=True, help="Load over time.")
@click.option(
    "--warm-up", type=DURATION, default="5s", show_default=True, help="Left out of the numbers, at the start."
)
@click.option("--photos", default="", help="Folder of photos. [default: eight drawn ones]")
@click.option(
    "--side",
    "sides",
    multiple=True,
    type=click.IntRange(64, 8000),
    help="Longer side in pixels to scale photos to; repeatable.",
)
@click.option("--deadline", type=DURATION, default="10s", show_default=True, help="Of a call.")
@click.option("--connections", type=click.IntRange(1), default=4, show_default=True, help="Of each process.")
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Generating processes.")
@click.option("--expect-workers", type=click.IntRange(0), default=0, help="Wait for so many `worker`s elsewhere.")
@click.option("--bind", default="0.0.0.0:5557", show_default=True, help="HOST:PORT where those find this one.")
@click.option(
    "--web",
    default="",
    metavar="HOST:PORT",
    is_flag=False,
    flag_value="127.0.0.1:8089",
    help="Locust's web UI starts the test, instead of starting at once. [without a value: 127.0.0.1:8089]",
)
@click.option(
    "-f",
    "--locustfile",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="A locustfile of your own, with users made from dermserve.loadtest.ClassifyUser; it ignores --mix and --rate.",
)
@_SLO
@_MAX_ERROR_RATE
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Also write a row for each kind of call to this CSV file.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    default="build/loadtest",
    show_default=True,
    help=f"Folder for {_REPORT} and {_RESULT}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def run_command(
    server: str | None, local: bool, store: pathlib.Path, metrics: str, tls_ca: pathlib.Path | None,
    tls_cert: pathlib.Path | None, tls_key: pathlib.Path | None,
    metadata: tuple[str, ...], mix: tuple[str, ...], users: int, rate: float | None, run_time: float, shape: str,
    warm_up: float, photos: str, sides: tuple[int, ...], deadline: float, connections: int, processes: int,
    expect_workers: int, bind: str, web: str, locustfile: pathlib.Path | None, slo_file: pathlib.Path | None,
    max_error_rate: float, csv_file: pathlib.Path | None, out: pathlib.Path, as_json: bool,
) -> None:  # fmt: skip
    """Put load on a gateway and report; compare with thresholds where there are any.

    Ctrl-C ends the test and reports what there is; a server that --local started is stopped, too.
    """
    if processes > 1 and expect_workers:
        raise click.UsageError("--processes starts workers here, --expect-workers waits for others: choose one")
    say = progress()
    generator = Generator(processes=processes, expect_workers=expect_workers, bind=bind, web=web, locustfile=locustfile)
    with reading_errors():
        slos = read_slos(slo_file) if slo_file else []
        parts = parse_mix(mix)
        tls = read_tls(tls_ca, tls_cert, tls_key)
        if photos and not expect_workers:  # those of other machines are there
            find_photos(pathlib.Path(photos))

        def scenario(target: str) -> Scenario:
            return Scenario(
                target=target, mix=parts, photos=str(pathlib.Path(photos).resolve()) if photos else "", sides=sides,
                rate=rate, users=users or (0 if rate else 8), run_time=run_time, shape=shape, warm_up=warm_up,
                deadline=deadline, connections=connections, tls_ca=tls.tls_ca, tls_cert=tls.tls_cert,
                tls_key=tls.tls_key, metadata=read_metadata(metadata),
            )  # fmt: skip

        scenario("checked before anything starts")
        with (
            ends_by_interrupt(),
            server_under_test(server, local=local, store=store, metrics=metrics, parts=parts, say=say) as up,
        ):
            check_server(scenario(up.target))
            result = run(scenario(up.target), up, generator, say=say)
    findings = check(result, slos)
    _write(result, out, findings)
    if csv_file:
        write_csv(result, csv_file)
    _show(result, findings, out, as_json=as_json)
    sys.exit(_exit_code(result, findings, max_error_rate=max_error_rate))


@click.command()
@click.argument("master", metavar="HOST:PORT")
@click.option(
    "-f",
    "--locustfile",
    type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
    help="The master's, if it has one of its own.",
)
def worker(master: str, locustfile: pathlib.Path | None) -> None:
    """Generate load for a `run --expect-workers` at HOST:PORT; ends when it does."""
    if not master.rpartition(":")[2].isdigit() or ":" not in master:
        raise click.BadParameter(f"{master} is not HOST:PORT")
    command = worker_command(master, locustfile)
    os.execv(command[0], command)  # noqa: S606 - Locust, with our own arguments


@click.command()
@click.argument("result_file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@_SLO
@_MAX_ERROR_RATE
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    help="Folder for the report. [default: beside the result]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def report(
    result_file: pathlib.Path, slo_file: pathlib.Path | None, max_error_rate: float, out: pathlib.Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Write the report of a recorded result again, with other thresholds perhaps."""
    with reading_errors():
        result = Result.read(result_file)
        findings = check(result, read_slos(slo_file)) if slo_file else []
    folder = out or result_file.parent
    _write(result, folder, findings)
    _show(result, findings, folder, as_json=as_json)
    sys.exit(_exit_code(result, findings, max_error_rate=max_error_rate))


def _write(result: Result, out: pathlib.Path, findings: list[Finding]) -> None:
    from dermserve.loadtest.report import write_report

    out.mkdir(parents=True, exist_ok=True)
    result.write(out / _RESULT)
    write_report(result, out / _REPORT, findings=findings)


def _show(result: Result, findings: list[Finding], out: pathlib.Path, *, as_json: bool) -> None:
    if as_json:
        summary = {
            "calls": [row_json(row) for row in (*result.rows, result.all)],
            "slo": [
                {"name": each.name, "limit": each.limit, "allowed": each.allowed, "kept": each.kept,
                 "measured": None if each.measured != each.measured else each.measured}
                for each in findings
            ],
            "kept_rate": result.kept_rate,
            "warnings": result.warnings,
        }  # fmt: skip
        click.echo(json.dumps(summary))
    else:
        click.echo(table([*result.rows, result.all]))
        if findings:
            click.echo(f"\n{findings_table(findings)}")
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"report: {out / _REPORT}", err=True)


def _exit_code(result: Result, findings: list[Finding], *, max_error_rate: float) -> int:
    faults = list(result.worker_faults)
    if not result.all.calls:
        faults.append("no call was made after the warm-up")
    if result.all.calls and result.all.error_rate > max_error_rate:
        faults.append(f"{result.all.error_rate:.2%} of the calls failed; --max-error-rate allows {max_error_rate:.2%}")
    for fault in faults:
        click.echo(f"failed: {fault}", err=True)
    if faults or any(not each.kept for each in findings):
        return BREACHED
    return 0 if result.kept_rate else RATE_NOT_KEPT
