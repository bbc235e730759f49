"""Batching inside the server (`--enable_batching`): requests of one signature that come together run together.

Rule: each signature and choice of outputs has a queue of batches, of which the last is open. A request joins it, or
opens a new one when it does not fit. A batch runs when it is full, when another was opened after it, or when its first
request has waited for `batch_timeout_micros`. All queues share `num_batch_threads` threads.
"""

import collections
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from dermserve.modelserver.batching_parameters import BatchingParameters, read_parameters
from dermserve.modelserver.errors import ServingError, internal, invalid_argument, stopping
from dermserve.modelserver.merging import concatenate, count_rows, merge, padded_size, part, part_rows
from dermserve.modelserver.predict import Runner
from dermserve.modelserver.tensors import Tensor, Value, parse, proto_of


@dataclass
class _Task:
    """A request, or a part of one, in a batch."""

    feeds: Mapping[str, Value]
    size: int
    deadline: float
    answer: Future[list[Value]] = field(default_factory=Future)


@dataclass
class _Batch:
    tasks: list[_Task] = field(default_factory=list)
    opened: float = 0.0

    @property
    def size(self) -> int:
        return sum(task.size for task in self.tasks)


class _Queue:
    """The batches of one signature. The scheduler's lock guards it."""

    def __init__(self, run: Runner, *, fetches: list[str], parameters: BatchingParameters) -> None:
        self._run = run
        self._fetches = fetches
        self._parameters = parameters
        self.batches = collections.deque([_Batch()])

    def add(self, task: _Task) -> list[_Task]:
        """Take a request in, in parts if it has to be split.

        Raises:
            ServingError: INVALID_ARGUMENT, it is too large; UNAVAILABLE, the queue is full.
        """
        self._check_room(task.size)
        parts = self._split(task)
        for one in parts:
            if self.batches[-1].size + one.size > self._parameters.execution_size:
                self.batches.append(_Batch())
            if not self.batches[-1].tasks:
                self.batches[-1].opened = time.monotonic()
            self.batches[-1].tasks.append(one)
        return parts

    def due(self) -> float:
        """When the first batch may run, in monotonic seconds. One of no rows waits for company, as in TF Serving."""
        batch = self.batches[0]
        if len(self.batches) > 1 or batch.size >= self._parameters.execution_size:
            return 0.0
        return batch.opened + self._parameters.batch_timeout_s if batch.size else float("inf")

    def pop(self) -> _Batch:
        """Close the first batch and take it out."""
        batch = self.batches.popleft()
        if not self.batches:
            self.batches.append(_Batch())
        return batch

    def process(self, batch: _Batch) -> None:
        """Run a batch and answer its requests, all with the same error if it fails."""
        try:
            answers = self._answers(batch)
        except ServingError as error:
            _fail(batch.tasks, error)
        except Exception as error:
            _fail(batch.tasks, internal(error))
        else:
            for task, answer in zip(batch.tasks, answers, strict=True):
                task.answer.set_result(answer)

    def _answers(self, batch: _Batch) -> list[list[Value]]:
        remaining = max(task.deadline for task in batch.tasks) - time.monotonic()
        if remaining <= 0:
            raise _timed_out()
        size = padded_size(batch.size, allowed=self._parameters.allowed_batch_sizes)
        pad = self._parameters.pad_variable_length_inputs
        feeds = {
            name: parse(
                proto_of(merge([task.feeds[name] for task in batch.tasks], name=name, size=size, pad=pad)), alias=name
            )
            for name in sorted(batch.tasks[0].feeds)
        }
        timeout_ms = 0 if remaining == float("inf") else max(int(remaining * 1000), 1)
        outputs = self._run(feeds, fetches=self._fetches, timeout_ms=timeout_ms)
        sizes = [task.size for task in batch.tasks]
        parted = [part(output, sizes=sizes, size=size) for output in outputs]
        return [list(values) for values in zip(*parted, strict=True)]

    def _check_room(self, size: int) -> None:
        limits, waiting = self._parameters, len(self.batches)
        if size > limits.max_batch_size:
            raise invalid_argument(f"Task size {size} is larger than maximum input batch size {limits.max_batch_size}")
        full = "The batch scheduling queue to which this task was submitted is full; "
        if limits.enable_large_batch_splitting:
            opened, execution = self.batches[-1].size, limits.execution_size
            room = (limits.max_enqueued_batches - waiting) * execution + execution - opened
            if size > room:
                full += (
                    f"task size is {size} but scheduling capacity is only {room} (num_enqueued_batches={waiting}, "
                    f"max_enqueued_batches={limits.max_enqueued_batches}, open_batch_size={opened}, "
                    f"max_execution_batch_size={execution})"
                )
                raise ServingError(grpc.StatusCode.UNAVAILABLE, full)
        elif self.batches[-1].size + size > limits.max_batch_size and waiting >= limits.max_enqueued_batches:
            full += f"currently {waiting} batches enqueued and max_enqueued_batches is {limits.max_enqueued_batches}"
            raise ServingError(grpc.StatusCode.UNAVAILABLE, full)

    def _split(self, task: _Task) -> list[_Task]:
        execution = self._parameters.execution_size
        room = execution - self.batches[-1].size
        if task.size <= room or not self._parameters.enable_large_batch_splitting:
            return [task]
        starts = [*([0] if room else []), *range(room, task.size, execution)]
        return [
            _Task(
                {name: part_rows(value, start=start, stop=stop) for name, value in task.feeds.items()},
                size=stop - start,
                deadline=task.deadline,
            )
            for start, stop in zip(starts, [*starts[1:], task.size], strict=True)
        ]


class BatchScheduler:
    """The threads that run batches, and the queues they look after."""

    def __init__(self, *, threads: int) -> None:
        self._changed = threading.Condition()
        self._queues: collections.deque[_Queue] = collections.deque()
        self._stopped = False
        for number in range(threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def stop(self) -> None:
        """End the threads; requests that still wait fail."""
        with self._changed:
            self._stopped = True
            waiting = [task for queue in self._queues for batch in queue.batches for task in batch.tasks]
            self._changed.notify_all()
        _fail(waiting, stopping())

    def watch(self, queue: _Queue) -> None:
        """Look after a queue."""
        with self._changed:
            self._queues.append(queue)

    def forget(self, queue: _Queue) -> None:
        """Leave a queue alone: its version is unloaded."""
        with self._changed:
            self._queues.remove(queue)

    def submit(self, queue: _Queue, task: _Task) -> list[_Task]:
        """Queue a request; give the parts it was split into.

        Raises:
            ServingError: it is too large, the queue is full, or the server stops.
        """
        with self._changed:
            if self._stopped:
                raise stopping()
            parts = queue.add(task)
            self._changed.notify()
            return parts

    def _work(self) -> None:
        while True:
            with self._changed:
                found = self._next()
                if found is None:
                    return
                queue, batch = found
            queue.process(batch)

    def _next(self) -> tuple[_Queue, _Batch] | None:
        while not self._stopped:
            now, soonest = time.monotonic(), float("inf")
            for queue in self._queues:
                due = queue.due()
                if due <= now:
                    self._queues.rotate(-1)
                    return queue, queue.pop()
                soonest = min(soonest, due)
            self._changed.wait(None if soonest == float("inf") else soonest - now)
        return None


class Batcher:
    """Runs one version's requests through the scheduler; a `Runner`."""

    def __init__(self, run: Runner, *, scheduler: BatchScheduler, parameters: BatchingParameters) -> None:
        self._run = run
        self._scheduler = scheduler
        self._parameters = parameters
        self._queues: dict[tuple[tuple[str, ...], tuple[str, ...]], _Queue] = {}
        self._lock = threading.Lock()

    def __call__(self, feeds: Mapping[str, Tensor], *, fetches: Sequence[str], timeout_ms: int) -> list[Value]:
        """Feed tensors by name and fetch others, together with other requests.

        Raises:
            ServingError: the request can't be batched, the queue is full, time is up, or the batch failed.
        """
        values = {name: tensor.value() for name, tensor in feeds.items()}
        size = count_rows(values)
        timeout_s = timeout_ms / 1000 if timeout_ms else None
        deadline = time.monotonic() + timeout_s if timeout_s else float("inf")
        names = sorted(set(fetches))
        parts = self._scheduler.submit(self._queue(sorted(feeds), names), _Task(values, size=size, deadline=deadline))
        try:
            answers = [one.answer.result(timeout_s) for one in parts]
        except TimeoutError as error:
            raise _timed_out() from error
        whole = dict(zip(names, map(concatenate, zip(*answers, strict=True)), strict=True))
        return [whole[name] for name in fetches]

    def close(self) -> None:
        """Drop the queues."""
        for queue in self._queues.values():
            self._scheduler.forget(queue)

    def _queue(self, feeds: list[str], fetches: list[str]) -> _Queue:
        key = (tuple(feeds), tuple(fetches))
        with self._lock:
            if key not in self._queues:
                self._queues[key] = _Queue(self._run, fetches=fetches, parameters=self._parameters)
                self._scheduler.watch(self._queues[key])
            return self._queues[key]


class Batching:
    """Batching as the flags ask for it: one set of threads, and a `Batcher` for each version."""

    def __init__(self, parameters: BatchingParameters, *, per_model: bool) -> None:
        self._parameters = parameters
        self._per_model = per_model
        self._scheduler = BatchScheduler(threads=parameters.num_batch_threads)

    def wrap(self, run: Runner, *, directory: Path) -> Batcher | None:
        """Put a batcher before a version's session; none before one that, with `per_model`, has no parameters.

        Raises:
            ServingError: the parameters contradict themselves or can't be read.
        """
        parameters, own = self._parameters, directory / "batching_params.pbtxt"
        if self._per_model:
            if not own.exists():
                return None
            parameters = read_parameters(own)
        parameters.check()
        return Batcher(run, scheduler=self._scheduler, parameters=parameters)

    def stop(self) -> None:
        """End the threads; requests that still wait fail."""
        self._scheduler.stop()


def _fail(tasks: Iterable[_Task], error: ServingError) -> None:
    for task in tasks:
        task.answer.set_exception(error)


def _timed_out() -> ServingError:
    # TF Serving says RESOURCE_EXHAUSTED, but so late that no caller ever sees anything but its own DEADLINE_EXCEEDED.
    return ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Run() timeout exceeded while waiting in batching queue")
