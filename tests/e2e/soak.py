"""Mixed work on one gateway: does its memory, its open files or its threads grow?

Callers ask in every TTA mode, one by one and in streams, send photos that are damaged, name models that do not exist,
cancel, and allow too little time. They work in rounds, each compared with the one before, until one shows no growth:
how long a gateway takes to warm up depends on the machine; what leaks grows in every round. It is sampled every
second. What is compared is the least memory, which no garbage on its way to be collected is part of, and the medians of
files and threads.
"""

import asyncio
import contextlib
import dataclasses
import random
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Self

import grpc
import grpc.aio
import psutil
from grpc_status import rpc_status

from dermserve.local import Stack
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc
from tests.drawing import draw_lesion

_ROUNDS = 6
_MORE_BYTES = 5e6
_MORE_SHARE = 0.03
"""What the gateway's memory may grow by in a round, whichever is more."""
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def run(self, callers: int, seconds: float) -> None:
        """Work for so long."""
        ends = time.monotonic() + seconds
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
        await self._stub.Classify(self._request(), timeout=300)

    async def _stream(self) -> None:
        async def photos() -> AsyncIterator[classifier_pb2.ClassifyStreamRequest]:
            for number in range(5):
                yield classifier_pb2.ClassifyStreamRequest(id=str(number), request=self._request())

        answers = [answer async for answer in self._stub.ClassifyStream(photos(), timeout=300)]
        if len(answers) != 5:
            raise AssertionError(f"{len(answers)} answers to 5 photos")

    async def _give_up(self) -> None:
        call = self._stub.Classify(self._request(), timeout=300)
        await asyncio.sleep(self._random.uniform(0, 0.05))
        call.cancel()
        await call

    async def _hurry(self) -> None:
        await self._stub.Classify(self._request(), timeout=self._random.uniform(0.001, 0.05))

    async def _err(self) -> None:
        cut = self._photo[: self._random.randrange(len(self._photo))]
        wrong = self._random.choice(({"image": cut}, {"image": b""}, {"model": f"none-{self._random.random()}"}))
        await self._stub.Classify(self._request(**wrong), timeout=300)


def _name(error: BaseException) -> str:
    if not isinstance(error, grpc.aio.AioRpcError):
        return "CANCELLED"
    clean = error.code() in _DISTURBED or rpc_status.from_call(error) is not None
    intended = clean and error.code() not in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    return error.code().name if intended else f"unclean {error.code().name}: {error.details()}"


async def _sample(process: psutil.Process, taken: list[Sample]) -> None:
    while True:
        await asyncio.sleep(1)
        taken.append(_look(process))


def _summed_up(samples: list[Sample]) -> Sample:
    files = statistics.median_low(each.files for each in samples)
    threads = statistics.median_low(each.threads for each in samples)
    return Sample(min(each.resident for each in samples), files, threads)


def _growth(before: Sample, after: Sample) -> list[str]:
    found = []
    if after.resident - before.resident > max(_MORE_BYTES, _MORE_SHARE * before.resident):
        found.append(f"memory grew by {(after.resident - before.resident) / 1e6:.1f} MB")
    if after.files - before.files > _MORE_FILES:
        found.append(f"open files grew from {before.files} to {after.files}")
    if after.threads - before.threads > _MORE_THREADS:
        found.append(f"threads grew from {before.threads} to {after.threads}")
    return found


async def _round(work: Work, process: psutil.Process, callers: int, seconds: float) -> Sample:
    taken: list[Sample] = []
    sampling = asyncio.create_task(_sample(process, taken))
    await work.run(callers, seconds)
    taken.append(_look(process))  # the only one where the machine stalled all the time
    sampling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sampling
    return _summed_up(taken)


async def soak(stack: Stack, models: tuple[str, ...], *, seconds: float, callers: int = 4, seed: int = 1) -> list[str]:
    """Load a gateway for rounds of so long until one shows no growth, or for six.

    Returns what grew in every round, and the requests that did not end cleanly.
    """
    process = psutil.Process(stack.pids["gateway"])
    async with Work(stack.gateway_address, models, seed) as work:
        before = await _round(work, process, callers, seconds)
        for _ in range(_ROUNDS - 1):
            after = await _round(work, process, callers, seconds)
            grown = _growth(before, after)
            if not grown:
                break
            before = after
    failures = [f"{count} requests ended {name}" for name, count in work.ended.items() if name.startswith("unclean")]
    return failures + grown + ([] if work.ended["answered"] else ["nothing was answered"])
