"""`dermserve-loadtest capacity`."""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import click
import psutil

from dermserve.loadtest.bisect import Found
from dermserve.loadtest.capacity import SHARES, Aim, Capacity, Prober
from dermserve.loadtest.drive import check_server
from dermserve.loadtest.errors import ScenarioError
from dermserve.loadtest.gateways import more_gateways
from dermserve.loadtest.local import server_under_test
from dermserve.loadtest.machine import describe_machine
from dermserve.loadtest.options import DURATION, progress, read_metadata, read_tls, reading_errors, server_options
from dermserve.loadtest.photos import find_photos
from dermserve.loadtest.scenario import Part, Scenario, parse_mix, parse_seconds
from dermserve.local.signals import ends_by_interrupt


@click.command()
@server_options
@click.option("--slo", "slo", default="p99=500ms", show_default=True, help="Threshold to keep: p50, p95 or p99.")
@click.option(
    "--mix",
    "mix",
    multiple=True,
    default=("all",),
    show_default=True,
    metavar="MODEL[:MODE]",
    help="What to find the capacity of, each on its own; repeatable.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.999),
    default=0.9,
    show_default=True,
    help="With which a rate is judged; a p99 at 0.9 takes 230 calls at least.",
)
@click.option(
    "--precision",
    type=click.FloatRange(0.01, 0.5),
    default=0.05,
    show_default=True,
    help="Share of the rate to find it to.",
)
@click.option(
    "--probe",
    type=DURATION,
    default="20s",
    show_default=True,
    help="Length of one probe; longer where a rate is so low that all its probes would not suffice to judge it.",
)
@click.option(
    "--probes",
    type=click.IntRange(1),
    default=6,
    show_default=True,
    help="Of one rate at most, before it counts as not kept.",
)
@click.option(
    "--callers", default="1,2,4,8,16,32", show_default=True, help="Of the closed loops, for the scalability law."
)
@click.option(
    "--gateways",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    help="With --local: the law for 1 to so many gateway processes.",
)
@click.option("--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="Generating processes.")
@click.option("--photos", default="", help="Folder of photos. [default: eight drawn ones]")
@click.option("--warm-up", type=DURATION, default="3s", show_default=True, help="Left out of each probe.")
@click.option("--deadline", type=DURATION, default="10s", show_default=True, help="Of a call.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=pathlib.Path),
    default="build/capacity",
    show_default=True,
    help="Folder for capacity.json and capacity.png.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def capacity(
    server: str | None, local: bool, store: pathlib.Path, metrics: str, tls_ca: pathlib.Path | None,
    tls_cert: pathlib.Path | None, tls_key: pathlib.Path | None,
    metadata: tuple[str, ...], slo: str, mix: tuple[str, ...], confidence: float, precision: float, probe: float,
    probes: int, callers: str, gateways: int, processes: int, photos: str, warm_up: float, deadline: float,
    out: pathlib.Path, as_json: bool,
) -> None:  # fmt: skip
    """Find the highest rate that keeps a threshold, for each model and mode.

    For each: closed loops of 1 to N callers, to which the universal scalability law is fitted, then open loops at
    rates found by bisection. Says what is the limit from how busy each process is.
    """
    say = progress()
    with reading_errors(), ends_by_interrupt():
        parts = parse_mix(mix)
        if any(part.stream for part in parts):
            raise ScenarioError("capacity is found for single calls: leave streams out of --mix")
        limit, milliseconds = _threshold(slo)
        tls = read_tls(tls_ca, tls_cert, tls_key)
        if photos:
            find_photos(pathlib.Path(photos))
        aim = Aim(
            limit=limit, milliseconds=milliseconds, confidence=confidence, precision=precision,
            probe_seconds=probe, probes=probes,
            callers=_counts(callers),
        )  # fmt: skip
        base = Scenario(
            target=server or "local", mix=parts, users=1, photos=str(pathlib.Path(photos).resolve()) if photos else "",
            run_time=probe + warm_up, warm_up=warm_up, deadline=deadline,
            tls_ca=tls.tls_ca, tls_cert=tls.tls_cert, tls_key=tls.tls_key, metadata=read_metadata(metadata),
        )  # fmt: skip
        if gateways > 1 and not local:
            raise ScenarioError("--gateways needs --local, which can start them")
        with (
            server_under_test(server, local=local, store=store, metrics=metrics, parts=parts, say=say) as alone,
            more_gateways(alone, models=[part.model for part in parts], most=gateways, say=say) as servers,
        ):
            check_server(dataclasses.replace(base, target=servers[1].target))
            found = _find_all(Prober(base, servers, processes=processes, cores=psutil.cpu_count() or 1, say=say),
                              parts, aim, out, say)  # fmt: skip
    click.echo(json.dumps([each.to_json() for each in found]) if as_json else _table(found, slo))
    say(f"plot: {out / 'capacity.png'}")


def _find_all(
    prober: Prober, parts: tuple[Part, ...], aim: Aim, out: pathlib.Path, say: Callable[[str], None]
) -> list[Capacity]:
    """Find each; what is known so far is on disk after each."""
    from dermserve.loadtest.capacity_plot import write_plot

    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    found = []
    for part in parts:
        say(f"{part.model} {part.mode}")
        found.append(prober.find(part, aim))
        content = {"machine": machine, "capacity": [each.to_json() for each in found]}
        (out / "capacity.json").write_text(json.dumps(content, indent=1))
        write_plot(found, aim, out / "capacity.png")
    return found


def _threshold(text: str) -> tuple[str, float]:
    limit, _, value = text.partition("=")
    if limit not in SHARES or not value:
        raise ScenarioError(f"{text!r} is no threshold: write p99=500ms; there are {', '.join(SHARES)}")
    return limit, parse_seconds(value) * 1000


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        counts = ()
    if not counts or counts[0] < 1:
        raise ScenarioError(f"{text!r} are no numbers of callers: write 1,2,4,8")
    return counts


def _table(found: list[Capacity], slo: str) -> str:
    lines = [f"{'':32}{'rate with ' + slo:>24}{'most answers/s':>16}{'callers at peak':>17}"]
    for each in found:
        law = each.laws.get(1)
        best = max(point.answers for point in each.closed_points)
        peak = f"{law.peak:.0f}" if law and law.peak < 10_000 else "–"
        lines.append(f"{each.model + ' ' + each.mode:32}{_interval(each.found):>24}{best:>16.2f}{peak:>17}")
        lines.append(f"  {each.why}")
        if each.photos_per_core:
            costs = ", ".join(f"{name.replace('_', ' ')} {ms:.3g}" for name, ms in each.core_ms.items())
            lines.append(f"  {each.photos_per_core:.2f} photos/s a core; core-ms a photo: {costs}")
        lines += [
            f"  {gateways} gateway(s): λ {law.rate:.2f}/s, σ {law.contention:.3f}, κ {law.coherence:.5f}, "
            f"R² {law.r_squared:.2f}"
            for gateways, law in each.laws.items()
        ]
    return "\n".join(lines)


def _interval(found: Found) -> str:
    if not found.kept:
        return "none found"
    return f"{found.kept:.2f} to {found.broken:.2f}/s" if found.broken < float("inf") else f"{found.kept:.2f}/s or more"
