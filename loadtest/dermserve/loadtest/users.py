"""The Locust user, and what ties it to a test: options, recording, and gRPC that lets gevent run."""

import itertools
import json
import pathlib
import random
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import gevent
import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import User, events

from dermserve.client import TLS
from dermserve.loadtest.calls import Call, ReportCalls
from dermserve.loadtest.errors import PhotosError
from dermserve.loadtest.pacing import Timeline
from dermserve.loadtest.photos import load_photos
from dermserve.loadtest.recorder import Recorder
from dermserve.loadtest.scenario import Part, Scenario
from dermserve.loadtest.watching import watch
from dermserve.loadtest.workers import Workers, prepare
from dermserve.v1 import classifier_pb2, classifier_pb2_grpc

grpc_gevent.init_gevent()

RECORDER = Recorder()
"""Of this process."""
_LAST = "dermserve_last"
ENDING = threading.Event()
"""Set when this process was asked to end; the shape sees to it."""
WORKERS: list[Workers] = []
"""Of the master, where this process is one."""


class _Shared:
    """What the users of one process share: photos, and a few connections for each target."""

    def __init__(self) -> None:
        self._photos: dict[tuple[str, tuple[int, ...]], list[bytes]] = {}
        self._channels: dict[str, Iterator[grpc.Channel]] = {}
        self._lock = threading.Lock()

    def photos(self, folder: str, sides: Sequence[int]) -> list[bytes]:
        key = (folder, tuple(sides))
        with self._lock:
            if key not in self._photos:
                # In a native thread: reading and scaling take seconds, and heartbeats and calls must continue.
                self._photos[key] = gevent.get_hub().threadpool.apply(load_photos, (folder, tuple(sides)))
            return self._photos[key]

    def channel(self, target: str, tls: TLS | None, count: int) -> grpc.Channel:
        with self._lock:
            if target not in self._channels:
                self._channels[target] = itertools.cycle([_open(target, tls) for _ in range(count)])
            return next(self._channels[target])


def _open(target: str, tls: TLS | None) -> grpc.Channel:
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),  # or channels of one process would share a connection
        ("grpc.enable_retries", 0),  # a load test wants to see what fails
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ]
    if tls is None:
        return grpc.insecure_channel(target, options=options)
    credentials = grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)
    if tls.authority is not None:
        options.append(("grpc.ssl_target_name_override", tls.authority))
    return grpc.secure_channel(target, credentials, options=options)


_SHARED = _Shared()


class ClassifyUser(User):
    """A user of the gateway, to be made one's own by a locustfile.

    `locust -f FILE --host HOST:PORT` runs it; every call is reported once, as "Classify MODEL MODE". Without tasks of
    its own it classifies photos by `mix`, again and again. Calls that fail are reported and give None; they raise
    nothing.
    """

    abstract = True
    mix: ClassVar[Sequence[Part]] = (Part(model="resnet50"), Part(model="mobilenet_v3_small"))
    """What `classify_by_mix` calls."""
    photos_folder: ClassVar[str] = ""
    """Folder of photos; drawn ones when empty."""
    sides: ClassVar[Sequence[int]] = ()
    """Longer sides in pixels to scale photos to."""
    deadline: ClassVar[float] = 10.0
    """Seconds a call may take."""
    connections: ClassVar[int] = 4
    """Connections of each process, which its users take turns with."""
    tls: ClassVar[TLS | None] = None
    """Plaintext when None."""
    metadata: ClassVar[Mapping[str, str]] = {}
    """Sent with every call."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Locust adds tasks up over base classes; ours is for users that have none of their own.
        own = [task for task in cls.tasks if task is not ClassifyUser.classify_by_mix]
        cls.tasks = own or [ClassifyUser.classify_by_mix]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self._due: float | None = None
        shared = _SHARED.channel(self._target(), self.tls, self.connections)
        channel = grpc.intercept_channel(shared, ReportCalls(self._report, due=lambda: self._due))
        self.stub = classifier_pb2_grpc.ClassifierStub(channel)  # type: ignore[no-untyped-call]
        """The API itself, for calls of another kind; they are reported, too."""
        self.photos = _SHARED.photos(self.photos_folder, self.sides)
        """Files to send."""

    def _target(self) -> str:
        if not self.host:
            raise ValueError("no gateway to call: give --host HOST:PORT, or set `host` in the locustfile")
        return self.host.removeprefix("http://").removeprefix("https://").rstrip("/")

    def classify_by_mix(self) -> None:
        """Make one call of the mix."""
        self._due = self._take_due()
        (part,) = random.choices(self.mix, [part.weight for part in self.mix])  # noqa: S311 - no secret
        if part.stream:
            self.classify_stream(part.stream, model=part.model, mode=part.mode)
        else:
            self.classify(model=part.model, mode=part.mode)

    def classify(
        self, photo: bytes | None = None, *, model: str, mode: str = "NONE"
    ) -> classifier_pb2.ClassifyResponse | None:
        """Classify a photo.

        Args:
            photo: a file; one of `photos` when None.
            model: its name.
            mode: "NONE", "FULL" or "ADAPTIVE".

        Returns:
            The answer; None when there was none.
        """
        try:
            answer: classifier_pb2.ClassifyResponse = self.stub.Classify(
                self._request(photo, model, mode), timeout=self.deadline, metadata=tuple(self.metadata.items())
            )
        except grpc.RpcError:
            return None
        return answer

    def classify_stream(
        self, count: int, *, model: str, mode: str = "NONE"
    ) -> list[classifier_pb2.ClassifyStreamResponse]:
        """Classify some photos over one stream.

        Args:
            count: how many of `photos`.
            model: its name.
            mode: "NONE", "FULL" or "ADAPTIVE".

        Returns:
            The answers that came, in the order they came.
        """
        requests = (
            classifier_pb2.ClassifyStreamRequest(id=str(index), request=self._request(None, model, mode))
            for index in range(count)
        )
        answers: list[classifier_pb2.ClassifyStreamResponse] = []
        try:
            stream = self.stub.ClassifyStream(
                requests, timeout=self.deadline * count, metadata=tuple(self.metadata.items())
            )
            answers.extend(stream)
        except grpc.RpcError:
            pass
        return answers

    def _take_due(self) -> float | None:
        """Tell when the call that starts now was due; None for now."""
        return None

    def _request(self, photo: bytes | None, model: str, mode: str) -> classifier_pb2.ClassifyRequest:
        return classifier_pb2.ClassifyRequest(
            model=classifier_pb2.ModelSelector(name=model),
            image=random.choice(self.photos) if photo is None else photo,  # noqa: S311 - no secret
            tta=f"TTA_MODE_{mode}",
        )

    def _report(self, call: Call) -> None:
        RECORDER.note(call)
        self.environment.events.request.fire(
            request_type="gRPC",
            name=call.name,
            response_time=call.milliseconds,
            response_length=call.response_bytes,
            exception=None if call.status == "OK" else CallError(f"{call.status}: {call.message}"),
            context={**self.context(), "model": call.model, "mode": call.mode, "status": call.status},
        )


class CallError(Exception):
    """A call that failed, for Locust's lists."""


class ScenarioUser(ClassifyUser):
    """A user that does what `dermserve-loadtest` was asked for; every worker gets that from the master."""

    abstract = True

    def __init__(self, environment: Any) -> None:
        scenario = self._scenario = Scenario.from_json(environment.parsed_options.scenario)
        self.host = scenario.target
        self.mix = scenario.mix  # type: ignore[misc]  # each test's own, from here on
        self.photos_folder = scenario.photos  # type: ignore[misc]
        self.sides = scenario.sides  # type: ignore[misc]
        self.deadline = scenario.deadline  # type: ignore[misc]
        self.connections = scenario.connections  # type: ignore[misc]
        self.metadata = scenario.metadata  # type: ignore[misc]
        self.tls = scenario.tls  # type: ignore[misc]
        self._timeline: Timeline | None = None
        super().__init__(environment)

    def on_start(self) -> None:
        """Begin its timetable, if there is a rate, at a moment of its own, and wait for the first call to be due."""
        if (rate := self._scenario.user_rate) is not None:
            phase = random.random()  # noqa: S311 - no secret
            self._timeline = Timeline(rate, phase=phase, warm_up=self._scenario.warm_up)
            gevent.sleep(self._timeline.pause())

    def on_stop(self) -> None:
        """Account for what came due."""
        if self._timeline:
            RECORDER.note_pace(self._timeline.finish())

    def wait_time(self) -> float:
        """Wait until the next call is due; not at all in a closed loop."""
        return self._timeline.pause() if self._timeline else 0.0

    def _take_due(self) -> float | None:
        return self._timeline.take() if self._timeline else None


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def _add_options(parser: Any) -> None:
    parser.add_argument("--result", default="", help="File to write every second's counts to.", include_in_web_ui=False)
    # By the environment, because it may hold a token, which a command line would show to everyone.
    parser.add_argument(
        "--scenario", default="", env_var="DERMSERVE_LOADTEST_SCENARIO", help="Set by dermserve-loadtest.",
        include_in_web_ui=False,
    )  # fmt: skip


@events.init.add_listener  # type: ignore[untyped-decorator]
def _record(environment: Any, runner: Any, **_: Any) -> None:
    """Record on whatever this process is: alone, a worker, or the master that gathers."""
    from locust.runners import LocalRunner, MasterRunner, WorkerRunner

    options = environment.parsed_options
    worker = isinstance(runner, WorkerRunner)
    if isinstance(runner, LocalRunner):
        try:
            _load_photos(options)
        except PhotosError as error:
            raise SystemExit(str(error)) from error  # Locust goes on after any other exception
    environment.events.test_start.add_listener(lambda **_: RECORDER.clear())
    watch(environment, RECORDER, generates=not isinstance(runner, MasterRunner), shows=not worker)
    if runner is not None:
        # Locust sets its own handler only once a shape has ended; until then SIGTERM would lose the result.
        gevent.signal_handler(signal.SIGTERM, _end, runner)
    if worker:
        environment.events.report_to_master.add_listener(
            lambda client_id, data, **_: data.update(dermserve=RECORDER.drain())
        )
        # The users' last words: on its own, Locust sends what came since the last report only when it quits.
        environment.events.test_stop.add_listener(lambda **_: runner.send_message(_LAST, RECORDER.drain()))
        # The scenario comes with the first message that starts users.
        environment.events.test_start.add_listener(
            lambda **_: gevent.spawn(prepare, runner, lambda: _load_photos(environment.parsed_options))
        )
        return
    if isinstance(runner, MasterRunner):
        WORKERS.append(Workers(runner, expected=options.expect_workers, recorder=RECORDER))
        environment.events.worker_report.add_listener(lambda client_id, data, **_: RECORDER.absorb(data["dermserve"]))
        runner.register_message(_LAST, lambda msg, **_: RECORDER.absorb(msg.data))
    if options is not None and options.result:
        environment.events.quitting.add_listener(lambda **_: RECORDER.write(pathlib.Path(options.result)))


def _load_photos(options: Any) -> None:
    if options is not None and options.scenario:
        scenario = Scenario.from_json(options.scenario)
        _SHARED.photos(scenario.photos, scenario.sides)


def _end(runner: Any) -> None:
    """End the test; where none has started, for want of workers, end at once."""
    from locust.runners import STATE_INIT

    ENDING.set()
    if runner.state == STATE_INIT:
        runner.quit()
        raise SystemExit(1)
