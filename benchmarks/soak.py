"""Hours of mixed work on one gateway: does its memory, its open files or its threads grow?

    python benchmarks/soak.py --minutes 20
    python benchmarks/soak.py --minutes 1 --json

The local stack runs both servers as processes. Callers ask in every TTA mode, one by one and in streams, send photos
that are none, name models that do not exist, give up, and allow too little time. The gateway's and the model server's
memory, open files and threads are sampled every second. The first third is the warm-up; over the rest, the gateway's
medians of the first and the last third are compared. The model server's are shown, and not judged: it is TensorFlow's.

Exit codes: 0 flat and every request answered or cleanly refused, 1 not (the last lines say what).
"""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import pathlib
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator

import click
import grpc
import grpc.aio
import psutil
from grpc_status import rpc_status

from dermserve.local import Stack
from dermserve.local.picture import draw_lesion
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc

_MORE_BYTES = 5e6
_MORE_SHARE = 0.03
"""What the gateway's memory may grow by, whichever is more."""
_MORE_FILES = 4
_MORE_THREADS = 2
_DISTURBED = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
"""How calls end, without details, that this program gives up itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What a process holds at a moment."""

    resident: float
    """Bytes."""
    files: int
    threads: int


def _look(process: psutil.Process) -> Sample:
    with process.oneshot():
        return Sample(process.memory_info().rss, process.num_fds(), process.num_threads())


class Work:
    """Callers that do everything callers do, and what became of it."""

    def __init__(self, address: str, models: tuple[str, ...], seed: int) -> None:
        self.ended: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._models = models
        self._photo = draw_lesion()
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.max_send_message_length", -1)])
        self._stub = classifier_pb2_grpc.ClassifierStub(self._channel)

    async def run(self, callers: int, seconds: float) -> None:
        """Work for so long."""
        ends = time.monotonic() + seconds
        async with self._channel:
            await asyncio.gather(*(self._caller(ends) for _ in range(callers)))

    async def _caller(self, ends: float) -> None:
        kinds = (self._classify, self._classify, self._classify, self._stream, self._give_up, self._hurry, self._err)
        while time.monotonic() < ends:
            try:
                await self._random.choice(kinds)()
                self.ended["answered"] += 1
            except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
                self.ended[_name(error)] += 1

    def _request(self, image: bytes | None = None, model: str | None = None) -> classifier_pb2.ClassifyRequest:
        selector = classifier_pb2.ModelSelector(name=model or self._random.choice(self._models))
        tta = self._random.choice(classifier_pb2.TtaMode.values())
        return classifier_pb2.ClassifyRequest(model=selector, image=self._photo if image is None else image, tta=tta)

    async def _classify(self) -> None:
        await self._stub.Classify(self._request(), timeout=60)

    async def _stream(self) -> None:
        async def photos() -> AsyncIterator[classifier_pb2.ClassifyStreamRequest]:
            for number in range(5):
                yield classifier_pb2.ClassifyStreamRequest(id=str(number), request=self._request())

        answers = [answer async for answer in self._stub.ClassifyStream(photos(), timeout=60)]
        if len(answers) != 5:
            raise AssertionError(f"{len(answers)} answers to 5 photos")

    async def _give_up(self) -> None:
        call = self._stub.Classify(self._request(), timeout=60)
        await asyncio.sleep(self._random.uniform(0, 0.05))
        call.cancel()
        await call

    async def _hurry(self) -> None:
        await self._stub.Classify(self._request(), timeout=self._random.uniform(0.001, 0.05))

    async def _err(self) -> None:
        cut = self._photo[: self._random.randrange(len(self._photo))]
        wrong = self._random.choice(({"image": cut}, {"image": b""}, {"model": f"none-{self._random.random()}"}))
        await self._stub.Classify(self._request(**wrong), timeout=60)


def _name(error: BaseException) -> str:
    if not isinstance(error, grpc.aio.AioRpcError):
        return "CANCELLED"
    clean = error.code() in _DISTURBED or rpc_status.from_call(error) is not None
    intended = clean and error.code() not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    return error.code().name if intended else f"unclean {error.code().name}: {error.details()}"


async def _sample(processes: dict[str, psutil.Process], taken: dict[str, list[Sample]], say: bool) -> None:
    for second in itertools.count(1):
        await asyncio.sleep(1)
        for name, process in processes.items():
            taken[name].append(_look(process))
        if say and second % 30 == 0:
            click.echo(f"{second:6} s  {_shown('gateway', taken['gateway'][-1])}", err=True)


def _shown(name: str, sample: Sample) -> str:
    return f"{name}: {sample.resident / 1e6:.1f} MB, {sample.files} files, {sample.threads} threads"


def _thirds(samples: list[Sample]) -> tuple[Sample, Sample]:
    """Return the medians of the first and the last third after the warm-up, which is a third, too."""
    steady = samples[len(samples) // 3 :]
    part = max(1, len(steady) // 3)
    return _median(steady[:part]), _median(steady[-part:])


def _median(samples: list[Sample]) -> Sample:
    columns = zip(*(dataclasses.astuple(sample) for sample in samples), strict=True)
    resident, files, threads = (statistics.median(column) for column in columns)
    return Sample(resident, int(files), int(threads))


def _judge(taken: list[Sample], ended: Counter[str]) -> list[str]:
    before, after = _thirds(taken)
    failures = [f"{count} requests ended {name}" for name, count in ended.items() if name.startswith("unclean")]
    if after.resident - before.resident > max(_MORE_BYTES, _MORE_SHARE * before.resident):
        failures.append(f"memory grew by {(after.resident - before.resident) / 1e6:.1f} MB")
    if after.files - before.files > _MORE_FILES:
        failures.append(f"open files grew from {before.files} to {after.files}")
    if after.threads - before.threads > _MORE_THREADS:
        failures.append(f"threads grew from {before.threads} to {after.threads}")
    return failures if ended["answered"] else [*failures, "nothing was answered"]


async def _soak(
    stack: Stack, models: tuple[str, ...], *, seconds: float, callers: int, seed: int, say: bool
) -> tuple[Counter[str], dict[str, list[Sample]]]:
    processes = {name: psutil.Process(pid) for name, pid in stack.pids.items()}
    taken: dict[str, list[Sample]] = {name: [] for name in processes}
    work = Work(stack.gateway_address, models, seed)
    sampling = asyncio.create_task(_sample(processes, taken, say))
    await work.run(callers, seconds)
    sampling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sampling
    return work.ended, taken


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1), default=20.0, show_default=True)
@click.option("--callers", type=click.IntRange(1), default=4, show_default=True)
@click.option("--model", "models", multiple=True, default=("resnet50", "mobilenet_v3_small"), show_default=True)
@click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=pathlib.Path(".dermserve/store"), show_default=True
)
@click.option("--seed", default=1, show_default=True, help="Of what the callers choose.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(minutes: float, callers: int, models: tuple[str, ...], store: pathlib.Path, seed: int, as_json: bool) -> None:
    """Let a gateway work, and see whether anything of it grows."""
    with Stack(store=store, models=models, port=0, tfs_port=0) as stack:
        run = _soak(stack, models, seconds=minutes * 60, callers=callers, seed=seed, say=not as_json)
        ended, taken = asyncio.run(run)
    failures = _judge(taken["gateway"], ended)
    thirds = {name: _thirds(samples) for name, samples in taken.items()}
    if as_json:
        shown = {name: [dataclasses.asdict(sample) for sample in pair] for name, pair in thirds.items()}
        click.echo(json.dumps({"ok": not failures, "failures": failures, "ended": ended, "medians": shown}))
    else:
        click.echo(", ".join(f"{count} {name}" for name, count in ended.most_common()))
        for name, (before, after) in thirds.items():
            click.echo(f"{_shown(name, before)}  →  {_shown('later', after)}")
        click.echo("\n".join(["FAILED:", *failures]) if failures else "OK: flat")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
