"""Where the processor time of a photo goes, by process and thread, under a closed loop of callers.

    python benchmarks/processor_time.py                                      # MobileNetV3Small, one view, 8 callers
    python benchmarks/processor_time.py --flame build/flame.png              # and a flame graph; needs py-spy

Two cores that are full give 2000 ms of processor time a second: what a photo takes of it is what bounds the rate, and
whoever wants a higher one has to find it in these rows. Linux alone (/proc). Decoding is measured by itself, in this
process, and subtracted from the gateway's. The flame graph has the Python frames of the gateway's threads while they
work, as py-spy samples them (`pip install py-spy`; on some systems it needs root), wide where time is spent.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass

import click
import grpc

from dermserve.imaging import decode
from dermserve.loadtest.photos import load_photos
from dermserve.local import Stack
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc

_WARM_UP = 2.0
_MODES = {
    "none": classifier_pb2.TTA_MODE_NONE,
    "full": classifier_pb2.TTA_MODE_FULL,
    "adaptive": classifier_pb2.TTA_MODE_ADAPTIVE,
}
_STARTED = 9
"""Frames of the main thread before its event loop."""
_WAITING = ("_serve (gateway/workers.py", "wait (threading.py", "Thread.run (threading.py")
"""Frames at the end of a stack that mean that a thread waits."""


@dataclass(slots=True)
class Callers:
    """Threads that call again at once, with a connection each."""

    address: str
    model: str
    mode: int
    photos: list[bytes]
    answers: int = 0
    stop: bool = False

    def run(self, number: int) -> None:
        """Call until told to stop."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
        with grpc.insecure_channel(self.address, options=options) as channel:
            stub = classifier_pb2_grpc.ClassifierStub(channel)
            while not self.stop:
                number += 1
                photo = self.photos[number % len(self.photos)]
                request = classifier_pb2.ClassifyRequest(
                    model=classifier_pb2.ModelSelector(name=self.model), image=photo, tta=self.mode
                )
                stub.Classify(request, timeout=60)
                self.answers += 1


def _threads(pid: int | str) -> Counter[str]:
    """Read the milliseconds that threads have had of a processor, by name."""
    spent: Counter[str] = Counter()
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            spent[(task / "comm").read_text().strip()] += int((task / "schedstat").read_text().split()[0]) / 1e6
        except OSError:  # it has just ended
            continue
    return spent


def _decoding(photos: list[bytes]) -> float:
    """Measure the milliseconds of processor time that decoding a photo takes."""
    rounds = 10
    for photo in photos:
        decode(photo, height=224, width=224)
    before = time.process_time()
    for photo in photos * rounds:
        decode(photo, height=224, width=224)
    return (time.process_time() - before) * 1e3 / (len(photos) * rounds)


def _rows(spent: dict[str, Counter[str]], answers: int, decoding: float) -> dict[str, float]:
    """Turn threads' milliseconds into a photo's, by what they were for."""
    each = {process: sum(threads.values()) / answers for process, threads in spent.items()}
    model = sum(time for name, time in spent["modelserver"].items() if name.startswith("tf_")) / answers
    return {
        "the model itself (TensorFlow's threads)": model,
        "decoding the photo": decoding,
        "the gateway, but for decoding": each["gateway"] - decoding,
        "the model server, but for the model": each["modelserver"] - model,
        "the caller": each["caller"],
    }


def _profile(pid: int, seconds: float) -> Counter[tuple[str, ...]]:
    """Sample a process's Python stacks, outermost frame first, those that wait left out."""
    with tempfile.NamedTemporaryFile(suffix=".raw") as file:
        command = f"py-spy record -p {pid} -d {seconds:.0f} -r 200 -f raw -o {file.name} --threads --function".split()
        subprocess.run(command, check=True, capture_output=True)
        lines = pathlib.Path(file.name).read_text().splitlines()
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in lines:
        frames, _, count = line.rpartition(" ")
        stack = tuple(frames.split(";"))
        stack = (stack[0], *stack[_STARTED:]) if "MainThread" in stack[0] else stack
        if not any(waiting in stack[-1] for waiting in _WAITING):
            stacks[stack] += int(count)
    return stacks


def _draw(stacks: Counter[tuple[str, ...]], title: str, file: pathlib.Path) -> None:
    """Draw a flame graph, the outermost frames below."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots()
    colours = colormaps["YlOrRd"]
    highest = _bars(axes, stacks, left=0.0, depth=0, whole=stacks.total(), colours=colours)
    axes.set(xlim=(0, 1), ylim=(0, highest + 1), yticks=[], title=title, xlabel="share of the time that threads work")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def _bars(axes, stacks, *, left, depth, whole, colours) -> int:  # type: ignore[no-untyped-def]
    """Draw the frames of one depth and what they call; gives the greatest depth."""
    groups: dict[str, Counter[tuple[str, ...]]] = {}
    for stack, count in stacks.items():
        if stack:
            groups.setdefault(stack[0], Counter())[stack[1:]] += count
    highest = depth
    for name, inner in sorted(groups.items()):
        width = inner.total() / whole
        if width >= 0.002:
            shade = 0.15 + 0.4 * (_number(name) % 97) / 97
            axes.barh(
                depth + 0.5, width, left=left, height=0.94, color=colours(shade), edgecolor="white", linewidth=0.3
            )
            if room := int(width * 190):
                axes.text(
                    left + width / 2, depth + 0.5, name[:room] if room > 3 else "", ha="center", va="center", fontsize=6
                )
            highest = max(highest, _bars(axes, inner, left=left, depth=depth + 1, whole=whole, colours=colours))
        left += width
    return highest


def _number(text: str) -> int:
    """Give a number for a text, the same in every run."""
    return sum(ord(letter) * (index + 1) for index, letter in enumerate(text))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=pathlib.Path(".dermserve/store"), show_default=True
)
@click.option("--model", default="mobilenet_v3_small", show_default=True)
@click.option("--tta", type=click.Choice(list(_MODES)), default="none", show_default=True)
@click.option("--callers", type=click.IntRange(1), default=8, show_default=True)
@click.option("--seconds", type=click.FloatRange(1), default=10.0, show_default=True)
@click.option("--side", type=click.IntRange(64, 8000), default=1024, show_default=True, help="Of photos, in pixels.")
@click.option("--photos", "folder", default="", help="Folder of photos. [default: eight drawn ones]")
@click.option("--flame", type=click.Path(dir_okay=False, path_type=pathlib.Path), help="PNG of a flame graph to draw.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    store: pathlib.Path, model: str, tta: str, callers: int, seconds: float, side: int, folder: str,
    flame: pathlib.Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Show where the processor time of a photo goes."""
    if flame and not shutil.which("py-spy"):
        raise click.UsageError("--flame needs py-spy: pip install py-spy")
    photos = load_photos(folder, (side,))[:8]
    decoding = _decoding(photos)
    with Stack(store=store, models=[model], port=0, tfs_port=0) as stack:
        work = Callers(stack.gateway_address, model, _MODES[tta], photos)
        threads = [threading.Thread(target=work.run, args=(number,), daemon=True) for number in range(callers)]
        for thread in threads:
            thread.start()
        time.sleep(_WARM_UP)
        processes: dict[str, int | str] = {**stack.pids, "caller": "self"}
        before, answered = {name: _threads(pid) for name, pid in processes.items()}, work.answers
        time.sleep(seconds)
        spent = {name: _threads(pid) - before[name] for name, pid in processes.items()}
        answers = work.answers - answered
        stacks = _profile(stack.pids["gateway"], seconds) if flame else None
        work.stop = True
        for thread in threads:
            thread.join()
    rows = _rows(spent, answers, decoding)
    if as_json:
        click.echo(json.dumps({"answers_per_second": answers / seconds, "milliseconds": rows}))
    else:
        size = sum(map(len, photos)) / len(photos) / 1000
        click.echo(
            f"{model} {tta.upper()}, {callers} callers, photos of {size:.0f} kB: {answers / seconds:.1f} answers/s\n"
        )
        click.echo("| processor time of a photo | ms | share |\n|---|---|---|")
        for name, milliseconds in rows.items():
            click.echo(f"| {name} | {milliseconds:.1f} | {milliseconds / sum(rows.values()):.0%} |")
        click.echo(f"| together | {sum(rows.values()):.1f} | |")
    if flame and stacks:
        _draw(stacks, f"The gateway's threads at work: {model} {tta.upper()}, {callers} callers", flame)
        click.echo(f"written: {flame}", err=True)


if __name__ == "__main__":
    sys.exit(main())
