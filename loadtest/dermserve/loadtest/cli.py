"""`dermserve-loadtest`: run, worker, report, capacity.

Exit codes: 0 all thresholds kept, 1 a threshold breached or the test failed, 2 wrong usage, 3 no server, 4 thresholds
kept, but the generator did not keep its rate, so that they prove nothing, 130 interrupted.
"""

import contextlib
import functools
import json
import pathlib
import re
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import click
import pydantic

from dermserve.cli.lazy import Entry, LazyGroup
from dermserve.cli.server import TLS_OPTIONS, tls_options
from dermserve.loadtest.drive import Generator, Server, check_server, run, run_worker, say, server_under_test
from dermserve.loadtest.result import Result, table, write_csv
from dermserve.loadtest.scenario import (
    MODES,
    SHAPES,
    Scenario,
    ScenarioError,
    first_fault,
    load_photos,
    parse_mix,
    parse_seconds,
)
from dermserve.loadtest.slo import Finding, check, findings_table, read_slos
from dermserve.local import DEFAULT_STORE
from dermserve.local.child import ends_by_interrupt
from dermserve.models.options import Number, add_options

BREACHED = 1
RATE_NOT_KEPT = 4
_RESULT = "result.json"
_REPORT = "report.html"
_HERE = "dermserve.loadtest.cli"
_ENTRIES = {
    "run": Entry(f"{_HERE}:run_command", "Put load on a gateway and report."),
    "worker": Entry(f"{_HERE}:worker", "Generate load for a run on another machine."),
    "report": Entry(f"{_HERE}:report", "Write the report of a recorded result again."),
    "capacity": Entry("dermserve.loadtest.capacity_cli:capacity", "Find the highest rate that keeps a threshold."),
}


@click.group(cls=LazyGroup, entries=_ENTRIES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dermserve", prog_name="dermserve-loadtest")
def main() -> None:
    """Load tests of a dermserve gateway: throughput, latency, errors and capacity.

    Exit codes: 0 all thresholds kept, 1 one breached or the test failed, 2 wrong usage, 3 no server, 4 the generator
    did not keep its rate, 130 interrupted.
    """


def duration(text: str) -> float:
    """Read a duration such as 500ms, 90s, 2m or 1m30s; return seconds."""
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _address(text: str) -> str:
    """Read HOST:PORT."""
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        raise click.BadParameter(f"{text!r} is not HOST:PORT")
    return text


def _url(text: str) -> str:
    """Read an option of http://HOST:PORT/PATH, or nothing."""
    if text and not text.startswith(("http://", "https://")):
        raise click.BadParameter(f"{text!r} is no URL: write http://HOST:PORT/metrics")
    return text


_FILE = click.Path(exists=True, dir_okay=False, path_type=pathlib.Path)
FOLDER = click.Path(file_okay=False, path_type=pathlib.Path)
CALL_OPTIONS = add_options(
    click.option("--server", metavar="HOST:PORT", envvar="DERMSERVE_SERVER", show_envvar=True, help="The gateway."),
    click.option("--local", is_flag=True, help="Start a model server and a gateway here, and stop them afterwards."),
    click.option(
        "--store", type=FOLDER, default=DEFAULT_STORE, envvar="DERMSERVE_STORE", show_default=True, show_envvar=True,
        help="Store of --local.",
    ),
    click.option("--metrics", type=_url, default="", metavar="URL", help="The gateway's metrics, http://HOST:PORT/metrics."),
    *TLS_OPTIONS,
    click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Sent with every call; repeatable."),
    click.option(
        "--mix", multiple=True, default=("all",), show_default=True, metavar="MODEL[:MODE[:N]][=WEIGHT]",
        help=f"What to call; repeatable. MODE is {', '.join(MODES).lower()}; with N, a stream of N photos. "
        "`all`: everything.",
    ),
    click.option("--photos", type=click.Path(resolve_path=True), help="Folder of photos. [default: eight drawn ones]"),
    click.option("--deadline", type=duration, default="10s", show_default=True, help="Of a call."),
    click.option(
        "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Generating processes."
    ),
)  # fmt: skip
_JUDGED = add_options(
    click.option("--slo", "slo_file", type=_FILE, help="TOML file of thresholds; a breach exits with 1."),
    click.option(
        "--max-error-rate", type=Number(0, 1), default=0.01, show_default=True,
        help="Share of calls that may fail, more exits with 1.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON."),
)  # fmt: skip
_LOCUSTFILE = (
    "A locustfile of your own, with users made from dermserve.loadtest.ClassifyUser; it ignores --mix and --rate."
)


@click.command("run")
@CALL_OPTIONS
@add_options(
    click.option(
        "--users", type=click.IntRange(0), default=0, help="Users at the peak. [default: 8, or what --rate needs]"
    ),
    click.option(
        "--rate", type=Number(0, min_open=True),
        help="Calls due a second, over all users, however late the answers are (open loop).",
    ),
    click.option("--run-time", type=duration, default="1m", show_default=True, help="How long."),
    click.option(
        "--shape", type=click.Choice(list(SHAPES)), default="steady", show_default=True, help="Load over time."
    ),
    click.option(
        "--warm-up", type=duration, default="5s", show_default=True, help="Time at the start that is not counted."
    ),
    click.option(
        "--side", "sides", multiple=True, type=click.IntRange(64, 8000),
        help="Longer side in pixels to scale photos to; repeatable.",
    ),
    click.option("--connections", type=click.IntRange(1), default=4, show_default=True, help="Of each process."),
    click.option("--expect-workers", type=click.IntRange(0), default=0, help="Wait for so many `worker`s elsewhere."),
    click.option(
        "--bind", type=_address, default="0.0.0.0:5557", show_default=True, help="HOST:PORT where those find this one."
    ),
    click.option(
        "--web", type=_address, metavar="HOST:PORT", is_flag=False, flag_value="127.0.0.1:8089",
        help="Locust's web UI starts the test, instead of starting at once. [without a value: 127.0.0.1:8089]",
    ),
    click.option("-f", "--locustfile", type=_FILE, help=_LOCUSTFILE),
)  # fmt: skip
@_JUDGED
@click.option(
    "--csv", "csv_file", type=click.Path(dir_okay=False, path_type=pathlib.Path),
    help="Also write a row for each kind of call to this CSV file.",
)  # fmt: skip
@click.option(
    "--out", type=FOLDER, default="build/loadtest", show_default=True, help=f"Folder for {_REPORT} and {_RESULT}."
)
def run_command(
    slo_file: pathlib.Path | None, max_error_rate: float, csv_file: pathlib.Path | None, out: pathlib.Path,
    as_json: bool, processes: int, expect_workers: int, bind: str, web: str | None, locustfile: pathlib.Path | None,
    **options: Any,
) -> None:  # fmt: skip
    """Put load on a gateway, report, and compare with thresholds if there are any.

    Ctrl-C ends the test, reports what was measured so far, and stops the servers of --local.
    """
    if processes > 1 and expect_workers:
        raise click.UsageError("give --processes, which starts workers, or --expect-workers, which waits for some")
    generator = Generator(processes=processes, expect_workers=expect_workers, bind=bind, web=web, locustfile=locustfile)
    if csv_file and csv_file.parent != out and not csv_file.parent.is_dir():
        raise ScenarioError(f"--csv {csv_file}: there is no folder {csv_file.parent}")
    make_folder(out)
    if expect_workers:
        _check_bind(bind)
    slos = read_slos(slo_file) if slo_file else []
    with under_test(options, photos_here=not expect_workers) as (scenario, server):
        result = run(scenario, server, generator)
    _conclude(result, check(result, slos), out, max_error_rate=max_error_rate, as_json=as_json, csv_file=csv_file)


def _check_bind(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host.strip("*"), int(port))).close()
    except OSError as error:
        raise ScenarioError(f"--bind {address}: workers can't be waited for there: {error}") from error


@click.command()
@click.argument("master", type=_address, metavar="HOST:PORT")
@click.option("-f", "--locustfile", type=_FILE, help="The master's, if it has one of its own.")
def worker(master: str, locustfile: pathlib.Path | None) -> None:
    """Generate load for a `run --expect-workers` at HOST:PORT, until it ends."""
    with ends_by_interrupt():
        say(f"waiting for a run at {master}")
        sys.exit(run_worker(master, locustfile))


@click.command()
@click.argument("result_file", type=_FILE)
@_JUDGED
@click.option("--out", type=FOLDER, help="Folder for the report. [default: beside the result]")
def report(
    result_file: pathlib.Path, slo_file: pathlib.Path | None, max_error_rate: float, out: pathlib.Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Write the report of a recorded result again, also with other thresholds."""
    result = Result.read(result_file)
    findings = check(result, read_slos(slo_file)) if slo_file else []
    out = out or result_file.parent
    make_folder(out)
    _conclude(result, findings, out, max_error_rate=max_error_rate, as_json=as_json)


@contextlib.contextmanager
def under_test(options: Mapping[str, Any], *, photos_here: bool = True) -> Iterator[tuple[Scenario, Server]]:
    """Return the scenario of the options, and their server, which is checked or started."""
    scenario = _scenario(options)
    if scenario.photos and photos_here:
        load_photos(scenario.photos)
    models = list(dict.fromkeys(part.model for part in scenario.mix))
    chosen = {name: options[name] for name in ("local", "store", "metrics")}
    with ends_by_interrupt(), server_under_test(options["server"], **chosen, models=models) as server:
        scenario = scenario.model_copy(update={"target": server.target})
        check_server(scenario)
        yield scenario, server


def _scenario(options: Mapping[str, Any]) -> Scenario:
    metadata = {key: value for key, _, value in (pair.partition("=") for pair in options["metadata"])}
    if not all(re.fullmatch(r"[a-z0-9_.-]+=[ -~]*", pair) for pair in options["metadata"]):
        raise ScenarioError("write --metadata KEY=VALUE, the key in lower case, all in ASCII")
    given = {"target": options["server"] or "local", "mix": parse_mix(options["mix"]), "metadata": metadata}
    try:
        given["tls"] = tls_options(options)
        return Scenario(**{**options, **given})
    except pydantic.ValidationError as error:
        raise ScenarioError(first_fault(error)) from error
    except (OSError, ValueError) as error:
        raise ScenarioError(str(error)) from error


def _conclude(
    result: Result, findings: list[Finding], out: pathlib.Path, *, max_error_rate: float, as_json: bool,
    csv_file: pathlib.Path | None = None,
) -> None:  # fmt: skip
    """Write the report, print the summary, and end with the exit code."""
    from dermserve.loadtest.report import write_report

    if as_json:
        summary = {
            "calls": [asdict(row) for row in (*result.rows, result.all)],
            "slo": [asdict(each) for each in findings],
            "kept_rate": result.kept_rate,
            "warnings": result.warnings,
        }
        click.echo(json.dumps(summary))
    else:
        click.echo(table([*result.rows, result.all]))
        if findings:
            click.echo(f"\n{findings_table(findings)}")
    for warning in result.warnings:
        say(f"warning: {warning}")
    files: dict[pathlib.Path, Callable[[pathlib.Path], None]] = {out / _RESULT: result.write}
    files[out / _REPORT] = functools.partial(write_report, result, findings=findings)
    if csv_file:
        files[csv_file] = functools.partial(write_csv, result)
    failed = write_files(files)
    if out / _REPORT not in failed:
        say(f"report: {out / _REPORT}")
    faults = list(result.worker_faults)
    if not result.all.calls:
        faults.append("no call was made after the warm-up")
    elif result.all.error_rate > max_error_rate:
        faults.append(f"{result.all.error_rate:.2%} of the calls failed; --max-error-rate allows {max_error_rate:.2%}")
    for fault in faults:
        say(f"failed: {fault}")
    if failed or faults or any(not each.kept for each in findings):
        sys.exit(BREACHED)
    sys.exit(0 if result.kept_rate else RATE_NOT_KEPT)


def make_folder(folder: pathlib.Path) -> None:
    """Make the folder of a report before the test. Raises ScenarioError: it can't be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScenarioError(f"--out {folder}: {error.strerror}") from error


def write_files(files: Mapping[pathlib.Path, Callable[[pathlib.Path], None]]) -> list[pathlib.Path]:
    """Write each file; say which can't be written, and return these."""
    failed = []
    for file, write in files.items():
        try:
            write(file)
        except OSError as error:
            failed.append(file)
            say(f"failed: {file}: {error.strerror}")
    return failed
