"""What Prometheus is told, over its own port, and what no caller can do to it."""

import asyncio
import contextlib
import dataclasses
import urllib.request
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dermserve.gateway.metrics import Drift
from dermserve.imaging import Measures
from dermserve.v1 import card_pb2, classifier_pb2
from tests.gateway import gateways
from tests.gateway.fake_tfserving import FakeTfServing, Version, make_card
from tests.gateway.gateways import MODEL, PHOTO, World, ask, make_photo, reason_of

FULL, ADAPTIVE = classifier_pb2.TTA_MODE_FULL, classifier_pb2.TTA_MODE_ADAPTIVE


class Scrape:
    """All samples of one look at /metrics."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
        self.names = {family.name for family in families}

    def get(self, name: str, **labels: str) -> float:
        """The one sample that has these labels, "" standing for their absence; 0 when there is none."""
        wanted = labels.items()
        found = [
            value
            for (key, held), value in self.samples.items()
            if key == f"dermserve_gateway_{name}" and all(dict(held).get(label, "") == text for label, text in wanted)
        ]
        return sum(found)

    def labels(self, label: str) -> set[str]:
        """Every value of a label."""
        return {dict(held)[label] for _, held in self.samples if label in dict(held)}


async def scrape(world: World) -> Scrape:
    def fetch() -> str:
        with urllib.request.urlopen(f"http://{world.gateway.metrics_address}/metrics", timeout=100) as response:
            return response.read().decode()

    return Scrape(await asyncio.to_thread(fetch))


async def until(world: World, wanted: "object") -> Scrape:
    """Scrape until a condition holds: an answer leaves before it is counted."""
    async with asyncio.timeout(100):
        while not wanted(seen := await scrape(world)):
            pass
    return seen


@pytest.fixture
def measured(running):
    """Like `running`, with metrics."""

    @contextlib.asynccontextmanager
    async def start(**settings: object) -> AsyncIterator[World]:
        async with running(metrics_listen="127.0.0.1:0", **settings) as world:
            yield world

    return start


def measures_of(brightness: float, sharpness: float) -> Measures:
    zeros = {field.name: 0.0 for field in dataclasses.fields(Measures)}
    return Measures(**{**zeros, "brightness": brightness, "sharpness": sharpness})


def profile() -> card_pb2.Profile:
    histogram = card_pb2.Histogram(edges=[10, 20], shares=[0.25, 0.5, 0.25], mean=15)
    return card_pb2.Profile(
        photos=100, class_shares=[1 / 7] * 7, confidence=histogram, brightness=histogram, sharpness=histogram
    )


async def test_answers_and_refusals_are_counted_by_what_became_of_them(measured, tfs):
    async with measured() as world:
        for _ in range(3):
            await world.stub.Classify(ask(), timeout=100)
        await world.refusal(ask(b"no photo"))
        await world.stub.ListModels(classifier_pb2.ListModelsRequest(), timeout=100)
        seen = await until(world, lambda seen: seen.get("requests_total", method="ListModels"))
    answered = {"method": "Classify", "model": "resnet50", "version": "1", "verdict": "VERDICT_CONFIDENT", "code": "OK"}
    assert seen.get("requests_total", **answered) == 3
    refused = {"method": "Classify", "code": "INVALID_ARGUMENT", "version": "", "verdict": "", "risk_level": ""}
    assert seen.get("requests_total", **refused) == 1
    assert seen.get("refusals_total", model="resnet50", reason="UNSUPPORTED_FORMAT") == 1
    assert seen.get("request_duration_seconds_count", method="Classify", code="OK") == 3
    for stage in ("admit", "decode", "predict", "reduce"):
        assert seen.get("stage_duration_seconds_count", stage=stage, model="resnet50") >= 3
    assert not seen.get("stage_duration_seconds_count", stage="plan")  # it makes the views of other modes
    assert seen.get("request_duration_seconds_sum", code="OK") >= seen.get(
        "stage_duration_seconds_sum", stage="predict"
    )


@pytest.mark.parametrize(
    ("card", "verdict", "level"),
    [
        ({"min_confidence": 0.5}, "VERDICT_CONFIDENT", "RISK_LEVEL_LOW"),
        ({"min_confidence": 0.5, "rule_out": 0.0}, "VERDICT_UNCERTAIN", "RISK_LEVEL_INTERMEDIATE"),
        ({"min_confidence": 0.5, "rule_out": 0.0, "rule_in": {"threshold": 0.0}}, None, "RISK_LEVEL_HIGH"),
        ({"trained": False}, "VERDICT_UNCERTAIN", "RISK_LEVEL_UNSPECIFIED"),
    ],
)
async def test_answers_are_counted_by_verdict_and_risk_level(measured, tfs, card, verdict, level):
    tfs.models[MODEL][1] = Version(make_card(**card))
    async with measured() as world:
        answer = await world.stub.Classify(ask(), timeout=100)
        verdict = verdict or classifier_pb2.Verdict.Name(answer.verdict)
        labels = {"model": MODEL, "version": "1", "verdict": verdict, "risk_level": level, "code": "OK"}
        seen = await until(world, lambda seen: seen.get("requests_total", **labels))
    assert seen.get("requests_total", **labels) == seen.get("requests_total", code="OK", method="Classify") == 1


async def test_a_caller_can_not_make_up_labels(measured):
    async with measured() as world:
        for number in range(20):
            await world.refusal(ask(model=f"made-up-{number}"))
            await world.refusal(ask(version=1000 + number))
            await world.refusal(ask(label=f"made-up-{number}"))
            with contextlib.suppress(grpc.aio.AioRpcError):
                await world.stub.GetModel(classifier_pb2.GetModelRequest(name=f"made-up-{number}"), timeout=100)
        seen = await until(world, lambda seen: seen.get("requests_total", method="GetModel", model="other") == 20)
    assert seen.labels("model") <= {"resnet50", "mobilenet_v3_small", "other", ""}
    assert seen.labels("version") <= {"1", ""} | {version for version in seen.labels("version") if "." in version}
    assert seen.get("requests_total", method="Classify", model="other") == 20


async def test_photos_of_a_stream_are_requests_and_the_stream_is_not(measured):
    async with measured() as world:
        photos = [classifier_pb2.ClassifyStreamRequest(id=str(n), request=ask()) for n in range(3)]
        assert len([answer async for answer in world.stub.ClassifyStream(iter(photos), timeout=100)]) == 3
        seen = await until(world, lambda seen: seen.get("streams_total", code="OK"))
    assert seen.get("requests_total", method="ClassifyStream", model="resnet50", code="OK") == 3
    assert seen.get("streams_total") == 1


async def test_a_caller_that_gives_up_is_counted_as_cancelled(measured, tfs):
    arrived = asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await asyncio.Event().wait()

    async with measured() as world:
        tfs.on_predict = hold
        call = world.stub.Classify(ask(), timeout=100)
        sending = asyncio.ensure_future(call)
        await asyncio.wait_for(arrived.wait(), 100)
        seen = await scrape(world)
        assert seen.get("requests_in_progress", method="Classify", model="resnet50") == 1
        assert seen.get("model_server_calls_in_flight") == 1
        call.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await until(world, lambda seen: seen.get("requests_total", code="CANCELLED", model="resnet50") == 1)


async def test_metrics_answer_while_the_gateway_is_full(measured, tfs):
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hold(_: object) -> None:
        arrived.set()
        await release.wait()

    async with measured(tfs_in_flight=1, batch_seconds=0, queue=1) as world:
        tfs.on_predict = hold
        held = [asyncio.ensure_future(world.stub.Classify(ask(), timeout=100))]
        await asyncio.wait_for(arrived.wait(), 100)
        held += [asyncio.ensure_future(world.stub.Classify(ask(), timeout=100)) for _ in range(4)]
        await until(world, lambda seen: seen.get("queue_length", method="Classify") == 1)
        assert reason_of(await world.refusal(ask())) == "OVERLOADED"
        await until(world, lambda seen: seen.get("refusals_total", reason="OVERLOADED") == 2)  # the queue is cut, too
        release.set()
        await asyncio.gather(*held, return_exceptions=True)


async def test_views_asked_used_saved_and_the_agreement_of_stopping_early(measured, tfs):
    card = make_card(min_confidence=0.5, adaptive_margin=0.3)
    tfs.models["resnet50"] = {1: Version(card)}
    async with measured(models=MODEL) as world:  # of several models, slow views would go in several calls
        for mode in (ADAPTIVE, FULL):
            await world.stub.Classify(ask(tta=mode), timeout=100)

        def torn(pixels: np.ndarray) -> np.ndarray:  # the first view alone says class 0, all together class 1
            scores = np.full((len(pixels), 7), 0.02)
            scores[:, 1] = 0.88
            if len(pixels) > 1:
                scores[0] = [0.88, *[0.02] * 6]
            return scores

        tfs.models["resnet50"][1].scores = torn
        await world.stub.Classify(ask(tta=FULL), timeout=100)
        tfs.models["resnet50"][1].scores = lambda pixels: np.tile([0.4, 0.3, *[0.06] * 5], (len(pixels), 1))
        await world.stub.Classify(ask(tta=ADAPTIVE), timeout=100)
        seen = await until(world, lambda seen: seen.get("requests_total", code="OK", method="Classify") == 4)
    assert (seen.get("views_asked_total"), seen.get("views_used_total"), seen.get("views_saved_total")) == (31, 31, 9)
    assert (
        seen.get("adaptive_answers_total", stopped="early") == seen.get("adaptive_answers_total", stopped="late") == 1
    )
    assert (
        seen.get("adaptive_agreement_total", agreed="true") == seen.get("adaptive_agreement_total", agreed="false") == 1
    )


async def test_a_full_answer_says_what_every_look_of_adaptive_would_have_said(measured, tfs):
    def turncoat(pixels: np.ndarray) -> np.ndarray:  # the first three views say class 0, all together class 1
        scores = np.full((len(pixels), 7), 0.02)
        scores[:3, 0], scores[3:, 1] = 0.88, 0.88
        return scores

    for margin in (0.3, 1.0):  # the second look stops too early, and not
        looks = [{"views": 3, "margin": margin}]
        card = make_card(min_confidence=0.5, adaptive_margin=1.0, adaptive_looks=looks)
        tfs.models["resnet50"] = {1: Version(card, scores=turncoat)}
        async with measured() as world:
            await world.stub.Classify(ask(tta=FULL), timeout=100)
            seen = await until(world, lambda seen: seen.get("requests_total", code="OK", method="Classify") == 1)
        assert seen.get("adaptive_agreement_total", agreed=str(margin == 1.0).lower()) == 1


async def test_versions_labels_and_readiness_are_shown(measured, tfs):
    tfs.models["resnet50"][2] = Version("no card")
    tfs.labels["resnet50", "stable"] = 1
    async with measured() as world:
        seen = await until(world, lambda seen: seen.get("model_label_version", model="resnet50", label="stable") == 1)
    assert seen.get("model_version_ready", model="resnet50", version="1") == 1
    assert (
        "dermserve_gateway_model_version_ready",
        frozenset({("model", "resnet50"), ("version", "2")}),
    ) in seen.samples
    assert seen.get("model_version_ready", model="resnet50", version="2") == 0
    assert seen.get("model_ready", model="mobilenet_v3_small") == 1
    assert seen.get("build_info") == 1
    assert ("process_resident_memory_bytes", frozenset()) in seen.samples


@pytest.mark.usefixtures("patient")
async def test_a_model_server_that_fails_is_shown_as_ejected_and_passed_over():
    first, second = FakeTfServing(), FakeTfServing()
    async with first.serving() as one, second.serving() as two:
        addresses = f"{one},{two}"
        async with gateways.running(tfs_address=addresses, metrics_listen="127.0.0.1:0", poll_seconds=600) as world:
            first.faults["Predict"] = (grpc.StatusCode.UNAVAILABLE, "gone")
            for _ in range(4):
                await world.stub.Classify(ask(), timeout=100)
            seen = await scrape(world)
    assert (seen.get("model_server_up", model_server=one), seen.get("model_server_up", model_server=two)) == (0, 1)
    assert seen.get("model_server_ejections_total", model_server=one) == 1
    assert seen.get("model_server_retries_total", model_server=one) == 1


async def test_drift_compares_photos_and_answers_with_the_profile_of_the_card(measured, tfs):
    card = make_card(min_confidence=0.5)
    card.profile.CopyFrom(profile())
    tfs.models["resnet50"] = {1: Version(card)}
    async with measured() as world:
        for _ in range(99):
            await world.stub.Classify(ask(), timeout=100)
        await world.stub.Classify(ask(model="mobilenet_v3_small"), timeout=100)
        seen = await scrape(world)
        assert not [name for name, _ in seen.samples if name.endswith("drift_psi")]
        await world.stub.Classify(ask(), timeout=100)
        seen = await until(world, lambda seen: seen.get("drift_window_answers", model="resnet50", version="1") == 100)
    assert seen.get("drift_confidence_mean", model="resnet50") == pytest.approx(0.7)
    for what in ("classes", "confidence", "brightness", "sharpness"):
        assert seen.get("drift_psi", model="resnet50", version="1", of=what) > 0.25
    assert not seen.get("drift_window_answers", model="mobilenet_v3_small")


def test_drift_is_small_where_nothing_changed_and_forgets_what_is_long_past():
    card = make_card()
    card.profile.CopyFrom(profile())
    drift, sides = Drift(), (5.0, 15.0, 15.0, 25.0)
    for number in range(4000):
        scores = [0.0] * 7
        scores[number % 7] = 15.0  # no probability, but in the profile's middle bin
        drift.note("m", 1, card=card, probabilities=scores, measures=measures_of(200.0, 200.0))
    for number in range(1000):
        measures = measures_of(sides[number % 4], sides[number % 4])
        scores = [0.0] * 7
        scores[number % 7] = sides[number % 4]
        drift.note("m", 1, card=card, probabilities=scores, measures=measures)
    ((_, answers, confidence, psi),) = drift.read()
    assert (answers, confidence) == (1000, pytest.approx(15.0))
    assert set(psi) == {"classes", "confidence", "brightness", "sharpness"}
    assert all(0 <= value < 0.001 for value in psi.values())


def test_drift_begins_anew_when_a_version_has_another_card():
    drift = Drift()
    for _ in range(2):
        card = make_card()
        card.profile.CopyFrom(profile())
        drift.note("m", 1, card=card, probabilities=[0.1] * 7, measures=measures_of(1.0, 1.0))
    assert [answers for _, answers, _, _ in drift.read()] == [1]
    for version in range(2, 40):
        drift.note("m", version, card=card, probabilities=[0.1] * 7, measures=measures_of(1.0, 1.0))
    assert len(list(drift.read())) <= 16


def test_a_scrape_at_any_moment_reads_no_window_without_answers():
    class Scraped(dict):
        def __setitem__(self, key: object, window: object) -> None:
            super().__setitem__(key, window)
            assert [answers for _, answers, _, _ in drift.read()] == [1]

    drift, card = Drift(), make_card()
    drift._windows = Scraped()
    card.profile.CopyFrom(profile())
    drift.note("m", 1, card=card, probabilities=[0.1] * 7, measures=measures_of(1.0, 1.0))


async def test_without_the_setting_no_port_is_opened_and_nothing_is_measured(running, tfs):
    async with running() as world:
        assert world.gateway.metrics_address is None
        await world.stub.Classify(ask(make_photo(size=(64, 64))), timeout=100)


async def test_a_taken_port_for_metrics_is_an_error_that_names_it(running, tfs):
    async with tfs.serving() as taken:
        with pytest.raises(OSError, match=taken):
            async with running(metrics_listen=taken):
                pass


async def test_nothing_of_a_photo_gets_into_the_metrics(measured):
    async with measured() as world:
        assert reason_of(await world.refusal(ask(b"SECRET" + PHOTO))) == "UNSUPPORTED_FORMAT"
        seen = await scrape(world)
    assert not [sample for sample in seen.samples if "SECRET" in str(sample)]
