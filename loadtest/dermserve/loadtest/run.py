"""`dermserve-loadtest run` and `worker`, and the options of what is called."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
import pydantic

from dermserve.cli.server import TLS_OPTIONS, tls_options
from dermserve.loadtest import drive
from dermserve.loadtest import scenario as scenarios
from dermserve.loadtest.drive import Server, say
from dermserve.loadtest.result import Finding, Result, check, findings_table, read_slos, summary
from dermserve.local import DEFAULT_STORE, StackError
from dermserve.local.child import check_free
from dermserve.models.options import Number, add_options

_BREACHED = 1
_RATE_NOT_KEPT = 4
_RESULT = "result.json"
_REPORT = "report.html"


def duration(text: str) -> float:
    """Read a duration such as 500ms, 90s, 2m or 1h; return seconds."""
    try:
        return scenarios.parse_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        raise click.BadParameter(f"{text!r} is not HOST:PORT")
    return text


_FILE = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)
FOLDER = click.Path(file_okay=False, path_type=pathlib.Path)
_PHOTOS = (
    click.option("--photos", type=click.Path(resolve_path=True), help="Folder of photos. [default: eight drawn ones]"),
    click.option("--side", "sides", multiple=True, type=click.IntRange(64, 8000),
                 help="Longer side in pixels to scale photos to; repeatable."),
)  # fmt: skip
CALL_OPTIONS = add_options(
    click.option("--server", metavar="HOST:PORT", envvar="DERMSERVE_SERVER", show_envvar=True, help="The gateway."),
    click.option("--local", is_flag=True, help="Start a model server and a gateway here, and stop them afterwards."),
    click.option("--store", type=FOLDER, default=DEFAULT_STORE, envvar="DERMSERVE_STORE", show_envvar=True,
                 help="Store of --local."),
    click.option("--metrics", default="", show_default=False, metavar="URL",
                 help="The gateway's metrics, http://HOST:PORT/metrics."),
    *TLS_OPTIONS,
    click.option(
        "--mix", multiple=True, default=("all",), metavar="MODEL[:MODE[:N]][=WEIGHT]",
        help=f"What to call; repeatable. MODE is {', '.join(scenarios.MODES).lower()}; with N, a stream of N photos. "
        "`all`: everything.",
    ),
    *_PHOTOS,
    click.option("--deadline", type=duration, default="10s", help="Of a call."),
    click.option("--warm-up", type=duration, default="5s", help="Start of a test, not counted."),
    click.option("--processes", type=click.IntRange(1, 64), default=1, help="Generating processes."),
)  # fmt: skip


@click.command()
@CALL_OPTIONS
@add_options(
    click.option("--users", type=click.IntRange(0), default=0, show_default=False,
                 help="Users at the peak. [default: 8, or what --rate needs]"),
    click.option("--rate", type=float,
                 help="Calls due a second, over all users, however late the answers are (open loop)."),
    click.option("--run-time", type=duration, default="1m", help="How long."),
    click.option("--shape", type=click.Choice(list(scenarios.SHAPES)), default="steady", help="Load over time."),
    click.option("--expect-workers", type=click.IntRange(0), default=0, show_default=False,
                 help="Wait for so many `dermserve-loadtest worker`s elsewhere."),
    click.option("--bind", type=_address, metavar="HOST:PORT", default="0.0.0.0:5557",
                 help="Where those workers connect to this one."),
    click.option(
        "--web", type=_address, metavar="HOST:PORT", is_flag=False, flag_value="127.0.0.1:8089",
        help="Locust's web UI starts the test, instead of starting at once. [without a value: 127.0.0.1:8089]",
    ),
    click.option("--slo", "slo_file", type=_FILE, help="TOML file of thresholds; a breach exits with 1."),
    click.option("--max-error-rate", type=Number(0, 1), default=0.01,
                 help="Share of calls that may fail, more exits with 1."),
    click.option("--csv", type=click.Path(resolve_path=True), metavar="PREFIX", help="Also write Locust's CSV files."),
    click.option("--out", type=FOLDER, default="build/loadtest", help=f"Folder for {_REPORT} and {_RESULT}."),
)  # fmt: skip
def run(
    slo_file: pathlib.Path | None, max_error_rate: float, csv: str | None, out: pathlib.Path, processes: int,
    expect_workers: int, bind: str, web: str | None, **options: Any,
) -> None:  # fmt: skip
    """Put load on a gateway, report, and compare with thresholds if there are any.

    Ctrl-C ends the test, reports what was measured so far, and stops the servers of --local.
    """
    if expect_workers and (processes > 1 or options["photos"] or options["sides"]):
        raise click.UsageError("with --expect-workers give --photos and --side to each worker, and no --processes")
    out.mkdir(parents=True, exist_ok=True)
    if csv:  # here, as Locust's error would be a traceback
        pathlib.Path(csv).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(f"{csv}_stats.csv").touch()
    slos = read_slos(slo_file) if slo_file else []
    for option, address in {"--bind": expect_workers and bind, "--web": web}.items():
        if address:
            check_free(int(address.rpartition(":")[2]), option=option)
    locust = drive.address_options("--web", web) if web else ["--headless"]
    locust += [f"--csv={csv}"] if csv else []
    if expect_workers:
        locust += ["--master", *drive.address_options("--master-bind", bind), f"--expect-workers={expect_workers}"]
    with under_test(options) as (scenario, server):
        if web:
            say(f"web UI: http://{web}; Ctrl-C ends it and writes the report")
        result = drive.run(scenario, server, processes=processes, locust=locust)
        _conclude(result, check(result, slos), out, max_error_rate=max_error_rate)


@click.command()
@click.argument("master", type=_address, metavar="HOST:PORT")
@add_options(*_PHOTOS)
def worker(master: str, photos: str | None, sides: tuple[int, ...]) -> None:
    """Generate load for a `run --expect-workers` at HOST:PORT, until it ends."""
    if photos:
        scenarios.load_photos(photos)
    say(f"waiting for a run at {master}")
    sys.exit(drive.run_worker(master, photos=photos, sides=sides))


@contextlib.contextmanager
def under_test(options: Mapping[str, Any]) -> Iterator[tuple[scenarios.Scenario, Server]]:
    """Return the scenario of the options, and their server, which is checked or started."""
    if options["local"] == (options["server"] is not None):
        raise scenarios.ScenarioError("name the gateway with --server HOST:PORT, or start one here with --local")
    try:
        mix, tls = scenarios.parse_mix(options["mix"]), tls_options(options)
        scenario = scenarios.Scenario(**{**options, "target": options["server"] or "local", "mix": mix, "tls": tls})
    except (OSError, ValueError) as error:
        raise scenarios.ScenarioError(
            scenarios.first_fault(error) if isinstance(error, pydantic.ValidationError) else str(error)
        ) from error
    if scenario.photos:
        scenarios.load_photos(scenario.photos)
    models = sorted({part.model for part in scenario.mix})
    try:
        with (
            drive.local_server(options["store"], models, options.get("gateways", 1))
            if options["local"]
            else contextlib.nullcontext(Server(target=options["server"], metrics_url=options["metrics"], pids={}))
        ) as server:
            scenario = scenario.model_copy(update={"target": server.target})
            drive.check_server(scenario, server)
            yield scenario, server
    except StackError as error:
        raise scenarios.ServerError(str(error)) from error


def _conclude(result: Result, findings: Sequence[Finding], out: pathlib.Path, *, max_error_rate: float) -> None:
    from dermserve.loadtest.report import write_report

    try:  # the files first: nobody may read what is printed, and the disk may be full
        result.write(out / _RESULT, slo=[asdict(each) for each in findings])
        write_report(result, findings, out / _REPORT)
    finally:
        click.echo("\n\n".join([summary(result), *([findings_table(findings)] if findings else [])]))
    for warning in result.warnings:
        say(f"warning: {warning}")
    say(f"report: {out / _REPORT}")
    faults = list(result.data["worker_faults"])
    if not result.all.calls:
        faults.append("no call was made after the warm-up")
    elif result.all.error_rate > max_error_rate:
        faults.append(f"{result.all.error_rate:.2%} of the calls failed; --max-error-rate allows {max_error_rate:.2%}")
    for fault in faults:
        say(f"failed: {fault}")
    if faults or any(not each.kept for each in findings):
        sys.exit(_BREACHED)
    sys.exit(0 if result.kept_rate else _RATE_NOT_KEPT)
