"""What keeps a version from being promoted, and a canary from going on."""

import itertools
import json
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from http.client import BadStatusLine, IncompleteRead
from types import SimpleNamespace

import grpc
import pytest
from prometheus_client import Metric, generate_latest, start_http_server

from dermserve.contract import render_card
from dermserve.gateway.metrics import Metrics
from dermserve.models.lifecycle import gate, moves, watch
from dermserve.models.lifecycle.errors import GateError, NoServerError, StoreError
from dermserve.models.lifecycle.manifest import GOLDEN, WARMUP, write_manifest
from dermserve.models.lifecycle.options import parse_requirement
from dermserve.models.lifecycle.server_config import Desk
from dermserve.models.lifecycle.stores import LocalStore, entries
from dermserve.models.lifecycle.watch import Gateways, Limits, Report
from dermserve.tfserving.v1 import management_pb2, serving_pb2, tensor_pb2
from tests.gateway.fake_tfserving import make_card
from tests.lifecycle.fake_servers import GrpcHandler, fake_desk
from tests.lifecycle.versions_at_hand import CONFIG, make_version, records, run, shares


def _floats(*values: float) -> tensor_pb2.TensorProto:
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_FLOAT, float_val=values)
    tensor.tensor_shape.dim.add(size=len(values))
    return tensor


def _answers(**metrics: float) -> dict[str, serving_pb2.PredictResponse]:
    card = make_card("resnet50", min_confidence=0.5)
    card.provenance.metrics.update(metrics)
    card.calibration.rule_out.sensitivity.value = 0.99
    card.calibration.rule_out.sensitivity.low, card.calibration.rule_out.sensitivity.high = 0.977, 1.0
    text = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_STRING, string_val=[render_card(card).encode()])
    return {
        "serving_default": serving_pb2.PredictResponse(outputs={"probabilities": _floats(0.1, 0.9)}),
        "describe": serving_pb2.PredictResponse(outputs={"card": text}),
    }


def _golden_version(folder: pathlib.Path, answers: dict[str, serving_pb2.PredictResponse]) -> None:
    make_version(folder)
    for name in (WARMUP, GOLDEN):
        specs = {signature: serving_pb2.ModelSpec(signature_name=signature) for signature in answers}
        asked = {name: serving_pb2.PredictRequest(model_spec=spec) for name, spec in specs.items()}
        logs = [management_pb2.PredictLog(request=asked[one], response=answer) for one, answer in answers.items()]
        (folder / name).write_bytes(records(logs))
    write_manifest(folder, model="m", about={})


@pytest.fixture
def desk(tmp_path: pathlib.Path) -> Desk:
    """Version 1 is the stable one; version 2 waits, and both have golden predictions."""
    store = LocalStore(tmp_path)
    answers = _answers(accuracy_grouped=0.81, ece_grouped=0.03)
    for version in (1, 2):
        _golden_version(tmp_path / "m" / str(version), answers)
    desk = fake_desk(store)
    for server in desk.servers:
        server.answers = dict(answers)
    moves.promote(desk, "m", 1)
    return desk


def _require(*texts: str) -> list[gate.Requirement]:
    return [parse_requirement(text) for text in texts]


@pytest.mark.parametrize(
    "text",
    ["accuracy>=0.8", "accuracy >= 80%", "accuracy_grouped>0.8", "ece<=3%", "ece<.031", "rule_out_sensitivity>=0.99",
     "rule_out_sensitivity_low>0.97", "accuracy>=8e-1"],
)  # fmt: skip
def test_a_version_that_meets_a_requirement_is_promoted(desk: Desk, text: str) -> None:
    assert moves.promote(desk, "m", 2, require=_require(text)).after.labels == {"stable": 2}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["accuracy>=0.82"], "accuracy is 0.81, not >= 0.82"),
        (["accuracy>0.81"], "accuracy is 0.81, not > 0.81"),
        (["accuracy>=0.8", "ece<1%"], "ece is 0.03, not < 0.01"),
        (["auc>=0.5"], "its evaluation has no auc; it has accuracy_grouped, ece_grouped, rule_out_sensitivity"),
        (["rule_in_specificity>=0"], "has no rule_in_specificity"),
    ],
)
def test_a_version_that_does_not_is_not_even_loaded(desk: Desk, texts: list[str], words: str) -> None:
    with pytest.raises(GateError, match=words):
        moves.promote(desk, "m", 2, require=_require(*texts))
    assert [(server.labels, server.loaded) for server in desk.servers] == [({"stable": 1}, {1})] * 2


def test_a_figure_is_shown_as_precisely_as_it_is_compared() -> None:
    (requirement,) = _require("accuracy>=0.8")
    assert requirement.problem({"accuracy": 0.79999996}) == "accuracy is 0.79999996, not >= 0.8"


def test_a_version_of_whose_evaluation_nothing_is_known_meets_no_requirement(
    desk: Desk, tmp_path: pathlib.Path
) -> None:
    make_version(tmp_path / "m" / "3")
    with pytest.raises(StoreError, match="nothing is known of the version's evaluation"):
        moves.promote(desk, "m", 3, require=_require("accuracy>=0"))
    assert moves.promote(desk, "m", 3).after.labels == {"stable": 3}


@pytest.mark.parametrize(
    "text", ["accuracy", "accuracy=0.8", ">=0.8", "accuracy>=", "accuracy>=high", "a b>=1", "a>=1e"]
)
def test_a_requirement_that_is_none_is_refused(text: str, tmp_path: pathlib.Path) -> None:
    done = run("promote", "m", "--require", text, store=tmp_path)
    assert (done.exit_code, "--require" in done.output) == (2, True)


def test_the_command_ends_with_a_code_of_its_own(desk: Desk) -> None:
    assert run("promote", "m", "2", require="accuracy>=99%", store=desk.store.base).exit_code == 4


@pytest.mark.parametrize("move", ["promote", "canary"])
@pytest.mark.parametrize("server", [0, 1])
def test_a_server_that_answers_otherwise_than_at_the_export_keeps_the_label_where_it_is(
    desk: Desk, move: str, server: int
) -> None:
    other = serving_pb2.PredictResponse(outputs={"probabilities": _floats(0.2, 0.8)})
    list(desk.servers)[server].answers["serving_default"] = other
    moving = {"promote": lambda: moves.promote(desk, "m", 2), "canary": lambda: moves.canary(desk, "m", 2, share=0.5)}
    name = ("first", "second")[server]
    with pytest.raises(GateError, match=f"{name}: golden: serving_default: probabilities differs by 0.1"):
        moving[move]()
    assert [(one.labels, one.loaded) for one in desk.servers] == [({"stable": 1}, {1})] * 2
    assert shares(desk.store) == {}


def test_files_that_were_changed_keep_a_version_from_being_promoted(desk: Desk, tmp_path: pathlib.Path) -> None:
    (tmp_path / "m" / "2" / "saved_model.pb").write_bytes(b"grap!")
    with pytest.raises(GateError, match=r"saved_model\.pb was changed"):
        moves.promote(desk, "m", 2)


class _Page:
    """A gateway's metrics, and the requests that they count."""

    def __init__(self) -> None:
        self.metrics = Metrics(["m"])
        self.between_looks: Callable[[], None] = lambda: None

    def collect(self) -> Iterable[Metric]:
        self.between_looks()
        return self.metrics.registry.collect()

    def text(self) -> str:
        return generate_latest(self).decode()

    def count(self, label: str, ok: int, failed: int = 0, *, seconds: float = 0.1) -> None:
        for number in range(ok + failed):
            self.metrics.routed("m", label, failed=number >= ok, seconds=seconds)

    def compare(self, agreed: int, differed: int) -> None:
        for number in range(agreed + differed):
            self.metrics.compared("m", "agreed" if number < agreed else "differed").inc()


LIMITS = Limits(more_failed=0.05, slower=1.5, disagreement=0.2, requests=10)


def _watched(happening: Callable[[_Page], None]) -> tuple[Report, list[str]]:
    page = _Page()
    page.count("canary", 0, 100)  # before the watch began: no matter
    return _watch(["one:9090"], lambda url: page.text(), lambda: happening(page))


def _watch(names: list[str], fetch: Callable[[str], str], happening: Callable[[], None]) -> tuple[Report, list[str]]:
    """Watch for four looks, between which something happens."""
    looks = itertools.count()
    time = SimpleNamespace(sleep=lambda _: happening(), monotonic=lambda: next(looks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "_fetch", fetch)
        patch.setattr(watch, "time", time)
        return Gateways(names).watch("m", seconds=4, limits=LIMITS)


@pytest.mark.parametrize(
    ("canary", "stable", "comparisons", "words"),
    [
        ((100, 0, 0.1), (100, 0, 0.1), (95, 5), []),
        ((94, 6, 0.1), (98, 2, 0.1), (95, 5), []),  # not 5 points more
        ((90, 10, 0.1), (98, 2, 0.1), (95, 5), ["10.0% of its requests failed, of the stable version's 2.0%"]),
        ((100, 0, 0.2), (100, 0, 0.1), (95, 5), ["its requests took 0.200 s, the stable version's 0.100 s"]),
        ((100, 0, 0.1), (100, 0, 0.1), (70, 30), ["it disagreed about 30 of 100 photos"]),
        ((5, 0, 0.1), (100, 0, 0.1), (5, 0), ["only 5 requests to canary", "only 5 comparisons"]),
        ((0, 0, 0.1), (0, 0, 0.1), (0, 0), ["only 0 requests to stable", "only 0 requests to canary", "only 0"]),
        ((0, 9, 0.1), (100, 0, 0.1), (10, 0), ["only 9 requests to canary"]),
        ((0, 10, 0.1), (100, 0, 0.1), (10, 0), ["100.0% of its requests failed"]),
    ],
)
def test_a_canary_is_judged_by_what_happens_while_it_is_watched(canary, stable, comparisons, words) -> None:
    def happen(page: _Page) -> None:
        if not happened:
            page.count("canary", *canary[:2], seconds=canary[2])
            page.count("stable", *stable[:2], seconds=stable[2])
            page.compare(*comparisons)
            happened.append(True)

    happened: list[bool] = []
    _, problems = _watched(happen)
    assert len(problems) == len(words)
    for word in words:
        assert any(word in problem for problem in problems), problems


@pytest.mark.parametrize("fault", [OSError("refused"), IncompleteRead(b""), BadStatusLine("x"), UnicodeError("idna")])
def test_a_gateway_that_restarts_or_does_not_answer_for_a_moment_loses_no_count(fault: Exception) -> None:
    pages = {"one:1": _Page(), "two:1": _Page()}
    turns = iter(range(100))

    def fetch(url: str) -> str:
        page = pages[url.split("/")[2]]
        if page is None:
            raise fault
        return page.text()

    def happen() -> None:
        turn = next(turns)
        if turn == 0:
            pages["one:1"].count("canary", 7)
            pages["two:1"].count("canary", 1)
        elif turn == 1:
            pages["one:1"] = None
        elif turn == 2:
            pages["one:1"] = _Page()
            pages["one:1"].count("canary", 4)

    report, _ = _watch(list(pages), fetch, happen)
    assert report.requests == {"stable": 0, "canary": 12}


def test_a_share_has_arrived_when_every_gateway_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"one:1": _Page(), "two:1": _Page()}
    monkeypatch.setattr(watch, "_fetch", lambda url: pages[url.split("/")[2]].text())
    gateways = Gateways(list(pages))
    pages["one:1"].metrics.canary_share("m").set(0.05)
    with pytest.raises(NoServerError, match=r"1 of 2 gateways do not have the share 0.05 of m: two:1 shows none"):
        gateways.wait_share("m", 0.05, timeout=0)
    pages["two:1"].metrics.canary_share("m").set(0.1)
    with pytest.raises(NoServerError, match=r"two:1 has 0.1"):
        gateways.wait_share("m", 0.05, timeout=0)
    pages["two:1"].metrics.canary_share("m").set(0.05)
    assert gateways.wait_share("m", 0.05, timeout=0) == 2


@pytest.fixture
def page() -> Iterator[tuple[_Page, str]]:
    """A gateway's metrics over HTTP."""
    shown = _Page()
    server, thread = start_http_server(0, addr="127.0.0.1", registry=shown)
    with server:
        yield shown, f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def site(tmp_path: pathlib.Path) -> Iterator[tuple[LocalStore, str]]:
    """A store with a stable version and another, and a model server behind gRPC."""
    for version in (1, 2):
        make_version(tmp_path / "m" / str(version))
    (tmp_path / "models.config").write_text(CONFIG)
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=[GrpcHandler()])
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        assert run("promote", "m", "1", store=tmp_path, tfs=address).exit_code == 0
        yield LocalStore(tmp_path), address
        server.stop(None).wait()


def test_a_canary_that_does_not_do_well_is_undone_by_the_command(
    site: tuple[LocalStore, str], page: tuple[_Page, str]
) -> None:
    (store, tfs), (shown, metrics) = site, page
    watching = ["--gateway-metrics", metrics, "--auto-rollback", "1", "--min-requests", "1", "--json"]
    canary = ["canary", "m", "2", "--share", "5%"]
    late = run(*canary, "--gateway-metrics", metrics, "--timeout", "0.1", store=store.base, tfs=tfs)
    assert (late.exit_code, "1 of 1 gateways do not have the share 0.05" in late.output) == (3, True)
    assert shares(store) == {"m": 0.05}  # not asked to undo it
    shown.metrics.canary_share("m").set(0.05)
    shown.between_looks = lambda: (shown.count("canary", 5), shown.count("stable", 5), shown.compare(5, 0))
    done = run(*canary, *watching, store=store.base, tfs=tfs)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["ok"], report["failed"]) == (True, {"stable": 0, "canary": 0})
    assert min(report["requests"]["canary"], report["compared"]) >= 5
    assert shares(store) == {"m": 0.05}
    shown.between_looks = lambda: shown.count("canary", 0, 5)
    done = run(*canary, *watching, store=store.base, tfs=tfs)
    assert (done.exit_code, shares(store)) == (4, {}), done.output
    assert json.loads(done.stdout.splitlines()[1])["problems"] == [
        "100.0% of its requests failed, of the stable version's 0.0%"
    ]
    assert json.loads(done.stdout.splitlines()[-1])["to"]["labels"] == {"stable": 1}
    assert "the canary of m failed" in done.stderr


def test_a_watch_that_breaks_ends_the_canary(
    site: tuple[LocalStore, str], page: tuple[_Page, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (store, tfs), (shown, metrics) = site, page
    shown.metrics.canary_share("m").set(0.05)
    monkeypatch.setattr(Report, "problems", None)
    watching = ["--gateway-metrics", metrics, "--auto-rollback", "1"]
    done = run("canary", "m", "2", "--share", "5%", *watching, store=store.base, tfs=tfs)
    assert (type(done.exception), shares(store)) == (TypeError, {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_watch_that_a_pipeline_stops_ends_the_canary(
    site: tuple[LocalStore, str], page: tuple[_Page, str], number: signal.Signals
) -> None:
    (store, tfs), (shown, metrics) = site, page
    shown.metrics.canary_share("m").set(0.05)
    looks = threading.Semaphore(0)
    shown.between_looks = looks.release
    command = ["model", "canary", "m", "2", "--share=5%", f"--gateway-metrics={metrics}"]
    program = [sys.executable, "-c", "from dermserve.cli import main; main()", *command, "--auto-rollback=3600"]
    with subprocess.Popen([*program, f"--store={store.base}", f"--tfs={tfs}"]) as process:
        for _ in range(2):  # the share has been seen, and the watch has begun
            assert looks.acquire(timeout=200)
        process.send_signal(number)
        assert process.wait(200) == 130
    assert shares(store) == {}
    assert list(entries(store))[-1]["to"]["labels"] == {"stable": 1}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--share", "5%", "--auto-rollback", "60"], "needs --gateway-metrics"),
        (["--off", "--auto-rollback", "60", "--gateway-metrics", "a:1"], "--off alone"),
        (["--share", "5%", "--auto-rollback", "0", "--gateway-metrics", "a:1"], "0.0 is not in the range x>0"),
        (["--share", "5%", "--max-failed", "nan"], "'nan' is not a number"),
        (["--share", "5%", "--timeout", "NaN"], "'NaN' is not a number"),
        (["--share", "nan"], "nan is not between"),
    ],
)
def test_a_watch_that_makes_no_sense_is_refused(options: list[str], words: str, tmp_path: pathlib.Path) -> None:
    done = run("canary", "m", *options, store=tmp_path)
    assert (done.exit_code, words in " ".join(done.output.split())) == (2, True), done.output
