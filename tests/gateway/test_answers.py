"""What a good request gets."""

import importlib.metadata

import numpy as np
import pytest

from dermserve.gateway.answer import NOTICE
from dermserve.imaging import STANDARD_VIEWS, decode, make_views
from dermserve.v1 import classifier_pb2
from tests.gateway.fake_tfserving import CODES, Version, make_card, pixels_of
from tests.gateway.gateways import PHOTO, ask

FULL = classifier_pb2.TTA_MODE_FULL


async def test_an_answer_says_everything_about_itself(running):
    async with running() as world:
        answer = await world.stub.Classify(ask(), metadata=(("x-request-id", "my.request-1"),))
    assert (answer.model, answer.version, answer.request_id) == ("resnet50", 1, "my.request-1")
    assert [score.code for score in answer.classes] == ["bkl", "akiec", "bcc", "df", "mel", "nv", "vasc"]
    assert answer.classes[0].name == "full bkl"
    assert answer.classes[0].probability == pytest.approx(0.7, abs=1e-6)
    assert sum(score.probability for score in answer.classes) == pytest.approx(1)
    assert (answer.verdict, list(answer.reasons)) == (classifier_pb2.VERDICT_CONFIDENT, [])
    assert (answer.views_asked, answer.views_used) == (1, 1)
    assert answer.notice.endswith(NOTICE)
    assert answer.malignancy.level == classifier_pb2.RISK_LEVEL_LOW
    assert answer.malignancy.probability == pytest.approx(0.15, abs=1e-6)
    assert answer.named_class == "bkl"
    assert (answer.weights_digest, answer.gateway_version) == (
        "digest of resnet50",
        importlib.metadata.version("dermserve"),
    )
    assert answer.timings.total_ms > answer.timings.predict_ms > 0
    assert answer.timings.decode_ms > 0


async def test_all_ten_views_travel_in_one_predict_as_uint8(running, tfs):
    async with running() as world:
        answer = await world.stub.Classify(ask(tta=FULL))
    (request,) = tfs.predicts
    expected = make_views(decode(PHOTO, height=224, width=224), STANDARD_VIEWS)
    np.testing.assert_array_equal(pixels_of(request), expected)
    assert not request.output_filter  # the set of outputs that the warm-up records have prepared
    assert (answer.views_asked, answer.views_used) == (10, 10)


async def test_probability_is_the_mean_and_std_the_population_spread_over_the_views(running, tfs):
    table = np.random.default_rng(1).dirichlet(np.ones(7), 10)
    tfs.models["resnet50"][1].scores = lambda pixels: table[: len(pixels)]
    async with running() as world:
        answer = await world.stub.Classify(ask(tta=FULL))
    for score in answer.classes:
        column = table[:, CODES["resnet50"].index(score.code)]
        assert score.probability == pytest.approx(column.mean(), abs=1e-6)
        assert score.std == pytest.approx(column.std(), abs=1e-6)


async def test_both_models_answer_with_their_own_classes(running):
    async with running() as world:
        for model, codes in CODES.items():
            answer = await world.stub.Classify(ask(model=model))
            assert sorted(score.code for score in answer.classes) == sorted(codes)


@pytest.mark.parametrize("bad", [None, "", "a" * 65, "spaces are not fit", "new\\nline"])
async def test_a_request_id_that_is_not_fit_for_a_log_is_replaced(running, bad):
    async with running() as world:
        metadata = () if bad is None else (("x-request-id", bad),)
        call = world.stub.Classify(ask(), metadata=metadata)
        answer = await call
        assert len(answer.request_id) == 32
        assert ("x-request-id", answer.request_id) in list(await call.trailing_metadata())


async def test_a_version_or_a_label_answers_when_named(running, tfs):
    tfs.models["resnet50"][2] = Version(make_card(min_confidence=0.5, rule_out=0.1))
    tfs.labels["resnet50", "stable"] = 1
    async with running() as world:
        for choice, version in (({}, 2), ({"version": 1}, 1), ({"version": 2}, 2), ({"label": "stable"}, 1)):
            answer = await world.stub.Classify(ask(**choice))
            assert answer.version == version
            # Each version is judged by its own card.
            assert (answer.verdict == classifier_pb2.VERDICT_CONFIDENT) == (version == 1)


async def test_models_are_listed_in_order_and_shown_with_their_cards(running, tfs):
    tfs.models["resnet50"][2] = Version(make_card())
    tfs.labels["resnet50", "canary"] = 2
    async with running() as world:
        listed = (await world.stub.ListModels(classifier_pb2.ListModelsRequest())).models
        shown = (await world.stub.GetModel(classifier_pb2.GetModelRequest(name="resnet50"))).model
    assert [model.name for model in listed] == ["resnet50", "mobilenet_v3_small"]
    assert not any(version.HasField("card") for model in listed for version in model.versions)
    assert [(version.version, list(version.labels), version.ready) for version in shown.versions] == [
        (2, ["canary"], True),
        (1, [], True),
    ]
    assert shown.versions[0].card == make_card()
    assert shown.versions[0].state == classifier_pb2.VERSION_STATE_AVAILABLE
