"""Whether the gateway has become slower: its ratio to direct Predict, beside a committed one.

    make regression                                # compares; exits with 1 when it is over 30 % slower than it was
    python -m benchmarks.regression --write        # makes today's ratio the one to compare with, for this processor

The ratio is the gateway's median time over that of direct Predict and decoding, in one run of alternating rounds on one
machine (`benchmarks.gateway`), so that what slows the machine slows both. It still depends on the processor, on which
the model takes more or less of the time: benchmarks/baseline.json has one for each kind, and its noise band, which is
how far apart the blocks of rounds were that it is the median of. On a processor without one nothing is judged.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import sys
from typing import Any

import click
import grpc
import psutil

from benchmarks.gateway import UNLIMITED, Asked, measure
from dermserve.client import Client
from dermserve.loadtest.machine import describe_machine
from dermserve.local import Stack
from dermserve.local.picture import draw_lesion

BASELINE = pathlib.Path(__file__).parent / "baseline.json"
_MODEL = "mobilenet_v3_small"
_BLOCKS = 5
_WARN, _FAIL = 0.10, 0.30


@dataclasses.dataclass(frozen=True, slots=True)
class Measured:
    """The ratio of one TTA mode."""

    ratio: float
    """Median of the blocks."""
    band: float
    """Half of the distance between the lowest and the highest block, as a share of the ratio."""


def judge(now: Measured, before: Measured) -> tuple[str, float]:
    """Tell how much slower it is, and whether that matters.

    Returns:
        "ok", "warning" (over 10 %, and more than noise explains) or "failure" (over 30 %), and the change as a share.
    """
    change = now.ratio / before.ratio - 1
    if change > _FAIL:
        return "failure", change
    noise = max(now.band, before.band)
    return ("warning" if change > _WARN and change > noise else "ok"), change


def _measure(store: pathlib.Path, rounds: int) -> dict[str, Measured]:
    photo = draw_lesion()
    os.environ.setdefault("DERMSERVE_METRICS_LISTEN", "127.0.0.1:0")
    with contextlib.ExitStack() as running:
        stack = running.enter_context(Stack(store=store, models=[_MODEL], port=0, tfs_port=0))
        channel = running.enter_context(grpc.insecure_channel(stack.tfs_address, options=UNLIMITED))
        client = running.enter_context(Client(stack.gateway_address))
        gateway = Asked(client, psutil.Process(stack.pids["gateway"]))
        return {
            tta: _summary([measure(channel, gateway, None, _MODEL, tta, photo, rounds).ratio for _ in range(_BLOCKS)])
            for tta in ("none", "full")
        }


def _summary(ratios: list[float]) -> Measured:
    ratio = statistics.median(ratios)
    return Measured(round(ratio, 3), round((max(ratios) - min(ratios)) / 2 / ratio, 3))


def _kind() -> str:
    """Name the processor by what decides how fast the model is beside everything else."""
    machine = describe_machine()
    flags = pathlib.Path("/proc/cpuinfo").read_text() if pathlib.Path("/proc/cpuinfo").exists() else ""
    widest = next((name for name in ("amx_tile", "avx512f", "avx2") if name in flags), "plain")
    return f"{machine['processor']}, {widest}, {machine['usable_cores']} cores"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=pathlib.Path(".dermserve/store"), show_default=True
)
@click.option("--rounds", type=click.IntRange(10), default=30, show_default=True, help=f"Of each of {_BLOCKS} blocks.")
@click.option("--write", is_flag=True, help="Make the result the one to compare with, and judge nothing.")
def main(store: pathlib.Path, rounds: int, write: bool) -> None:
    """Compare the gateway's ratio to direct Predict with the committed one."""
    kept: dict[str, Any] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    kind, now = _kind(), _measure(store, rounds)
    if write:
        kept[kind] = {tta: dataclasses.asdict(measured) for tta, measured in now.items()}
        BASELINE.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")
    before = {tta: Measured(**values) for tta, values in kept.get(kind, {}).items()}
    worst = [_print(tta, measured, before.get(tta)) for tta, measured in now.items()]
    if not before:
        click.echo(f"nothing to compare with on this processor ({kind}): `python -m benchmarks.regression --write`")
    sys.exit("failure" in worst)


def _print(tta: str, now: Measured, before: Measured | None) -> str:
    text = f"{_MODEL} {tta.upper()}: {now.ratio:.3f} times direct Predict and decoding (± {now.band:.1%})"
    if before is None:
        click.echo(text)
        return "ok"
    verdict, change = judge(now, before)
    click.echo(f"{text}; was {before.ratio:.3f} (± {before.band:.1%}), {change:+.1%}: {verdict}")
    return verdict


if __name__ == "__main__":
    main()
