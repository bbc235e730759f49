"""Compare ways of serving the same network: speed, memory and how far their answers differ, side by side in one run.

Each variant is served by a fresh process of the local model server, one after the other, again and again: a machine
that gets slower for a while slows all of them. A cell of the table is the median over the rounds.

    python benchmarks/served_graph.py --out build/served_graph --docs docs/performance.md

A run that was interrupted goes on where it was; `--fresh` begins again.
"""

import dataclasses
import functools
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import platform
import re
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import click
import grpc
import numpy as np
import psutil
from numpy.typing import NDArray

from dermserve.contract import Input, Output, Signature
from dermserve.local.child import Child
from dermserve.tfserving.v1 import serving_pb2, tensor_pb2

MODELS = ("resnet50", "mobilenet_v3_small")
BATCHES = (1, 10)
CALLERS = (1, 2, 8)
_SIDE = 224
_PATCHES = 7
PREDICT = "/tensorflow.serving.PredictionService/Predict"
UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_READY = re.compile(r"Running gRPC ModelServer at (\S+:\d+)")
_STARTING = 180.0
_MEGABYTE = 1e6
_BEGIN, _END = "<!-- served_graph: begin -->", "<!-- served_graph: end -->"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of serving."""

    name: str
    graph: str
    """Of served_variants."""
    flags: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = (("MALLOC_ARENA_MAX", "1"),)


def variants() -> tuple[Variant, ...]:
    """Name all variants; what they are called is what the table says."""
    one = ("--tensorflow_intra_op_parallelism=1", f"--tensorflow_inter_op_parallelism={_cores()}")
    arena = ("MALLOC_ARENA_MAX", "1")
    lite = ("--prefer_tflite_model=true", f"--tensorflow_intra_op_parallelism={_cores()}")
    return (
        Variant("variables", "variables"),
        Variant("variables, batch norm folded", "folded"),
        Variant("variables, folded, intra-op 1", "folded", one),
        Variant("frozen", "frozen"),
        Variant("frozen, intra-op 1", "frozen", one),
        Variant("frozen, intra-op 1, many arenas", "frozen", one, ()),
        Variant("frozen, intra-op 1, no oneDNN", "frozen", one, (arena, ("TF_ENABLE_ONEDNN_OPTS", "0"))),
        Variant("frozen, intra-op 1, batching", "frozen", (*one, "--enable_batching=true")),
        Variant("TFLite float32", "float32", lite),
        Variant("TFLite float16", "float16", lite),
        Variant("TFLite int8", "int8", lite),
    )


@dataclasses.dataclass(frozen=True)
class Cell:
    """One load on one variant in one round."""

    batch: int
    callers: int
    images_per_second: float
    p50_ms: float
    p99_ms: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """One variant in one round."""

    model: str
    variant: str
    round: int
    start_seconds: float
    resident_mb: float
    """After all loads."""
    peak_mb: float
    probabilities: list[list[float]]
    """Of two made-up pictures, to see how far the variants' answers differ."""
    cells: list[Cell]
    error: str = ""


class Notebook:
    """What was measured so far, in a file that is whole at any time."""

    def __init__(self, path: pathlib.Path, settings: Mapping[str, object]) -> None:
        self._path, self._settings = path, dict(settings)
        self.measured: list[Measured] = []
        if path.exists():
            content = json.loads(path.read_text())
            if content["settings"] != self._settings:
                raise click.UsageError(f"{path} is of a run with other settings: --fresh begins again, --out elsewhere")
            self.measured = [_measured(one) for one in content["measured"]]

    def has(self, model: str, variant: str, turn: int) -> bool:
        """Tell whether a variant was measured in a round."""
        return any((one.model, one.variant, one.round) == (model, variant, turn) for one in self.measured)

    def add(self, measured: Measured) -> None:
        """Write down a variant."""
        self.measured.append(measured)
        content = {"settings": self._settings, "measured": [dataclasses.asdict(one) for one in self.measured]}
        fresh = self._path.with_suffix(".fresh")
        fresh.write_text(json.dumps(content, indent=1))
        fresh.replace(self._path)


def _measured(values: dict[str, object]) -> Measured:
    cells = [Cell(**cell) for cell in values.pop("cells")]  # type: ignore[attr-defined]
    return Measured(cells=cells, **values)  # type: ignore[arg-type]


def measure(
    variant: Variant, model: str, turn: int, *, graphs: pathlib.Path, seconds: float, log: Callable[[str], None]
) -> Measured:
    """Start a server, load it in every way, end it."""
    base = graphs / variant.graph / model
    flags = ["--port=0", f"--model_name={model}", f"--model_base_path={base.resolve()}", "--grpc_max_threads=64"]
    flags += [*variant.flags, *_batching(variant, graphs)]
    command = [sys.executable, "-m", "dermserve.modelserver", *flags]
    started = time.perf_counter()
    with _environment_without("MALLOC_ARENA_MAX", "TF_ENABLE_ONEDNN_OPTS"):
        env = {**dict(variant.env), "PYTHONUNBUFFERED": "1"}
        server = Child(command, name="model server", log=log, ready=_READY, env=env, asking=signal.SIGTERM)
    try:
        address = server.wait_ready(timeout=_STARTING)[1]
        start = time.perf_counter() - started
        probabilities = _probabilities(address, model)
        cells = [
            _load(address, model, batch, callers, seconds) for batch, callers in itertools.product(BATCHES, CALLERS)
        ]
        resident, peak = _memory(server.pid)
    finally:
        server.stop(grace=30)
    return Measured(model, variant.name, turn, start, resident, peak, probabilities, cells)


class _environment_without:  # noqa: N801 - used as a function
    """Take variables out of this process's environment while the block lasts."""

    def __init__(self, *names: str) -> None:
        self._names = names
        self._kept: dict[str, str] = {}

    def __enter__(self) -> None:
        self._kept = {name: os.environ.pop(name) for name in self._names if name in os.environ}

    def __exit__(self, *_: object) -> None:
        os.environ.update(self._kept)


def _batching(variant: Variant, graphs: pathlib.Path) -> list[str]:
    if "--enable_batching=true" not in variant.flags:
        return []
    path = graphs / "batching.config"
    values = {"max_batch_size": 32, "batch_timeout_micros": 1000, "num_batch_threads": _cores()}
    path.write_text("".join(f"{name} {{ value: {value} }}\n" for name, value in values.items()))
    return [f"--batching_parameters_file={path.resolve()}"]


def _images(count: int) -> NDArray[np.uint8]:
    """Make pictures of coloured patches: noise would be nothing a quantised model was ever made for."""
    patches = np.random.default_rng(0).integers(0, 256, (count, _PATCHES, _PATCHES, 3), np.uint8)
    side = _SIDE // _PATCHES
    return patches.repeat(side, axis=1).repeat(side, axis=2)


@functools.cache
def predict_request(model: str, batch: int) -> bytes:
    """Write a Predict on a batch of pictures, as bytes."""
    pixels = _images(batch)
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_UINT8, tensor_content=pixels.tobytes())
    tensor.tensor_shape.dim.extend(tensor_pb2.TensorShapeProto.Dim(size=size) for size in pixels.shape)
    spec = serving_pb2.ModelSpec(name=model, signature_name=Signature.SERVING_DEFAULT)
    return serving_pb2.PredictRequest(model_spec=spec, inputs={Input.IMAGES.value: tensor}).SerializeToString()


def _probabilities(address: str, model: str) -> list[list[float]]:
    with grpc.insecure_channel(address, options=UNLIMITED) as channel:
        answer = channel.unary_unary(PREDICT)(predict_request(model, 2), timeout=_STARTING)
    tensor = serving_pb2.PredictResponse.FromString(answer).outputs[Output.PROBABILITIES.value]
    values = np.frombuffer(tensor.tensor_content, "<f4") if tensor.tensor_content else np.array(tensor.float_val)
    return [[float(value) for value in row] for row in values.reshape(2, -1)]


def _load(address: str, model: str, batch: int, callers: int, seconds: float) -> Cell:
    """Ask from several threads for some seconds, at least once each."""
    request = predict_request(model, batch)
    begin = threading.Barrier(callers + 1)
    times: list[list[float]] = [[] for _ in range(callers)]

    def ask(mine: list[float]) -> None:
        with grpc.insecure_channel(address, options=[*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]) as channel:
            predict = channel.unary_unary(PREDICT)
            grpc.channel_ready_future(channel).result(_STARTING)
            if callers == 1:  # the first load of a size warms the server for it
                predict(request, timeout=_STARTING)
            begin.wait()
            until = time.perf_counter() + seconds
            while not mine or time.perf_counter() < until:
                started = time.perf_counter()
                predict(request, timeout=_STARTING)
                mine.append(time.perf_counter() - started)

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in times]
    for thread in threads:
        thread.start()
    begin.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    every = np.array([one for mine in times for one in mine]) * 1000
    p50, p99 = np.percentile(every, [50, 99])
    return Cell(batch, callers, len(every) * batch / took, float(p50), float(p99))


def _memory(pid: int) -> tuple[float, float]:
    """Return resident and highest resident memory of a process, in MB."""
    resident = psutil.Process(pid).memory_info().rss / _MEGABYTE
    status = pathlib.Path(f"/proc/{pid}/status")
    if not status.exists():
        return resident, resident
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    return resident, int(peak[1]) * 1024 / _MEGABYTE if peak else resident


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant over all rounds: medians."""

    model: str
    variant: str
    start_seconds: float
    resident_mb: float
    peak_mb: float
    difference: float
    """Largest difference of a probability from the frozen graph's."""
    cells: Mapping[tuple[int, int], Cell]
    """By batch and callers."""
    error: str = ""


def summarise(measured: Sequence[Measured], models: Sequence[str], names: Sequence[str]) -> list[Row]:
    """Take medians over the rounds."""
    rows = []
    for model, name in itertools.product(models, names):
        of = [one for one in measured if (one.model, one.variant) == (model, name)]
        good = [one for one in of if not one.error]
        if good:
            base = next(
                (one for one in measured if (one.model, one.variant) == (model, "frozen") and not one.error), good[0]
            )
            rows.append(_row(good, base))
        elif of:
            rows.append(Row(model, name, math.nan, math.nan, math.nan, math.nan, {}, of[0].error))
    return rows


def _row(good: Sequence[Measured], base: Measured) -> Row:
    def median(get: Callable[[Measured], float]) -> float:
        return statistics.median(get(one) for one in good)

    cells = {}
    for index, first in enumerate(good[0].cells):
        rate, p50, p99 = (
            statistics.median(getattr(one.cells[index], field) for one in good)
            for field in ("images_per_second", "p50_ms", "p99_ms")
        )
        cells[first.batch, first.callers] = Cell(first.batch, first.callers, rate, p50, p99)
    difference = np.abs(np.array(good[0].probabilities) - np.array(base.probabilities)).max()
    return Row(
        good[0].model, good[0].variant, median(lambda one: one.start_seconds), median(lambda one: one.resident_mb),
        median(lambda one: one.peak_mb), float(difference), cells,
    )  # fmt: skip


def tables(rows: Sequence[Row]) -> str:
    """Write a table for each model: images a second, p50/p99 in ms, memory."""
    text = []
    for model in dict.fromkeys(row.model for row in rows):
        heads = [f"{batch} × {callers}" for batch, callers in itertools.product(BATCHES, CALLERS)]
        text += [f"**{model}**: images/s (p50 / p99 in ms) for images a request × callers", ""]
        text.append(f"| variant | {' | '.join(heads)} | MB | peak MB | start s | differs by |")
        text.append(f"|---|{'---|' * (len(heads) + 4)}")
        text += [_table_line(row) for row in rows if row.model == model]
        text.append("")
    return "\n".join(text)


def _table_line(row: Row) -> str:
    if row.error:
        return f"| {row.variant} | can't be served: {row.error} |{' |' * (len(BATCHES) * len(CALLERS) + 3)}"
    cells = [
        f"{_short(cell.images_per_second)} ({_short(cell.p50_ms)} / {_short(cell.p99_ms)})"
        for cell in row.cells.values()
    ]
    rest = [f"{row.resident_mb:.0f}", f"{row.peak_mb:.0f}", f"{row.start_seconds:.1f}", f"{row.difference:.1g}"]
    return f"| {' | '.join([row.variant, *cells, *rest])} |"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def plot(rows: Sequence[Row], model: str, path: pathlib.Path) -> None:
    """Draw a model's variants: throughput under load, a lone caller's latency, memory."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    mine = [row for row in rows if row.model == model and not row.error][::-1]
    panels: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("images/s, 10 a request, 2 callers", lambda row: row.cells[10, 2].images_per_second),
        ("images/s, 1 a request, 8 callers", lambda row: row.cells[1, 8].images_per_second),
        ("ms (p50), 1 image, 1 caller", lambda row: row.cells[1, 1].p50_ms),
        ("MB resident afterwards", lambda row: row.resident_mb),
    )
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(16, 0.38 * len(mine) + 1.4), sharey=True, layout="constrained"
    )
    for axis, (title, value) in zip(axes, panels, strict=True):
        bars = axis.barh([row.variant for row in mine], [value(row) for row in mine], color="#4477aa")
        axis.bar_label(bars, fmt="%.4g", padding=2, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.margins(x=0.18)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(model)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write_docs(document: pathlib.Path, rows: Sequence[Row], out: pathlib.Path, how: str) -> None:
    """Put the tables and the plots between the markers of a document.

    Raises:
        click.UsageError: it has no markers.
    """
    text = document.read_text(encoding="utf-8")
    if text.count(_BEGIN) != 1 or text.count(_END) != 1 or text.index(_BEGIN) > text.index(_END):
        raise click.UsageError(f"{document} must have the lines {_BEGIN} and {_END}, in this order, once each")
    images = []
    for model in dict.fromkeys(row.model for row in rows):
        name = f"served_graph_{model}.png"
        shutil.copyfile(out / name, document.parent / name)
        images.append(f"![{model}: the variants side by side]({name})")
    block = "\n".join([_BEGIN, how, "", tables(rows).rstrip(), "", *images, _END])
    fresh = document.with_suffix(".fresh")
    fresh.write_text(text[: text.index(_BEGIN)] + block + text[text.index(_END) + len(_END) :], encoding="utf-8")
    fresh.replace(document)


def _write_graphs(graphs: pathlib.Path, models: Iterable[str], say: Callable[[str], None]) -> dict[str, dict[str, str]]:
    """Export the graphs that are missing, each model in a process of its own; return what could not be converted."""
    faults = {}
    for model in models:
        done = graphs / f"{model}.json"
        if not done.exists():
            say(f"{model}: exporting its graphs")
            process = multiprocessing.get_context("spawn").Process(target=_export, args=(model, graphs))
            process.start()
            process.join()
            if process.exitcode:
                raise click.ClickException(f"{model} can't be exported; see above")
        faults[model] = json.loads(done.read_text())
    return faults


def _export(model: str, graphs: pathlib.Path) -> None:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from served_variants import write_variants

    from dermserve.models.quiet import native_stderr_held

    scratch = graphs / f".{model}"
    shutil.rmtree(scratch, ignore_errors=True)
    with native_stderr_held(unless=()):
        faults = write_variants(model, scratch)
    for graph in scratch.iterdir():
        (graphs / graph.name).mkdir(exist_ok=True)
        shutil.rmtree(graphs / graph.name / model, ignore_errors=True)
        (graph / model).rename(graphs / graph.name / model)
    shutil.rmtree(scratch)
    (graphs / f"{model}.json").write_text(json.dumps(faults))


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=pathlib.Path), show_default=True,
              default=pathlib.Path("build/served_graph"), help="Folder for graphs, results, plots.")  # fmt: skip
@click.option("--model", "models", type=click.Choice(MODELS), multiple=True, default=MODELS, show_default=True)
@click.option("--variant", "only", multiple=True, metavar="NAME", help="Only this one; repeatable. As in the table.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=0.8, show_default=True, help="Of each load."
)
@click.option("--quick", is_flag=True, help="One round of 0.2 s loads: to see that it works, not to learn from.")
@click.option("--fresh", is_flag=True, help="Forget what an earlier run measured.")
@click.option("--docs", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path),
              help="Write the tables and plots between the markers of this document, too.")  # fmt: skip
def main(
    out: pathlib.Path, models: tuple[str, ...], only: tuple[str, ...], rounds: int, seconds: float, quick: bool,
    fresh: bool, docs: pathlib.Path | None,
) -> None:  # fmt: skip
    """Compare ways of serving both models; results.json, results.md and a plot a model go to the folder."""
    began = time.monotonic()

    def say(line: str) -> None:
        click.echo(f"[{time.monotonic() - began:6.1f} s] {line}", err=True)

    rounds, seconds = (1, 0.2) if quick else (rounds, seconds)
    chosen = [variant for variant in variants() if not only or variant.name in only]
    if unknown := sorted(set(only) - {variant.name for variant in variants()}):
        raise click.UsageError(
            f"no such variant: {', '.join(unknown)}; there are {'; '.join(v.name for v in variants())}"
        )
    graphs = out / "graphs"
    graphs.mkdir(parents=True, exist_ok=True)
    results = out / "results.json"
    if fresh:
        results.unlink(missing_ok=True)
    notebook = Notebook(results, {"seconds": seconds, "cores": _cores(), "machine": platform.machine()})
    faults = _write_graphs(graphs, models, say)
    todo = [
        (turn, model, variant)
        for turn, model, variant in itertools.product(range(rounds), models, chosen)
        if not notebook.has(model, variant.name, turn)
    ]
    with (out / "servers.log").open("a") as log:
        for number, (turn, model, variant) in enumerate(todo, start=1):
            say(f"{number} of {len(todo)}: round {turn + 1}, {model}, {variant.name}")
            notebook.add(_try(variant, model, turn, faults[model], graphs, seconds, lambda line: print(line, file=log)))
    rows = summarise(notebook.measured, models, [variant.name for variant in chosen])
    _report(out, rows, rounds=rounds, seconds=seconds, docs=docs)


def _try(
    variant: Variant, model: str, turn: int, faults: Mapping[str, str], graphs: pathlib.Path, seconds: float,
    log: Callable[[str], None],
) -> Measured:  # fmt: skip
    """Measure; a variant that can't be served is a result, too."""
    nothing = Measured(model, variant.name, turn, math.nan, math.nan, math.nan, [], [])
    if variant.graph in faults:
        return dataclasses.replace(nothing, error=faults[variant.graph])
    try:
        return measure(variant, model, turn, graphs=graphs, seconds=seconds, log=log)
    except grpc.RpcError as error:
        return dataclasses.replace(nothing, error=f"{error.code().name}: {error.details()[:120]}")


def _report(out: pathlib.Path, rows: Sequence[Row], *, rounds: int, seconds: float, docs: pathlib.Path | None) -> None:
    command = f"python benchmarks/served_graph.py --rounds {rounds} --seconds {seconds:g}"
    how = (
        f"`{command}` on {_cores()} cores of {platform.machine()}, which the callers share; medians of {rounds}"
        " alternating rounds, each in a fresh process of the local model server. `differs by`: largest difference of a"
        " probability from the frozen graph's."
    )
    (out / "results.md").write_text(f"{how}\n\n{tables(rows)}", encoding="utf-8")
    for model in dict.fromkeys(row.model for row in rows):
        plot(rows, model, out / f"served_graph_{model}.png")
    click.echo(tables(rows))
    click.echo(f"{out}: results.json, results.md and a plot a model", err=True)
    if docs is not None:
        write_docs(docs, rows, out, how)


if __name__ == "__main__":
    main()
