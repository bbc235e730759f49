"""Photos in, honest answers out, through the real gateway and the real model server."""

import grpc
import numpy as np
import pytest

from dermserve.client import Client, Prediction
from dermserve.imaging import STANDARD_VIEWS, decode, make_views
from tests.drawing import draw_lesion
from tests.e2e.conftest import MODELS
from tests.e2e.predicting import predict


def _probabilities(prediction: Prediction, codes: list[str]) -> np.ndarray:
    by_code = {score.code: score.probability for score in prediction.classes}
    return np.array([by_code[code] for code in codes])


def _codes(client: Client, model: str) -> list[str]:
    (version,) = client.model(model).versions
    assert version.card is not None
    return [info.code for info in version.card.classes]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("tta", "views"), [("none", 1), ("full", 10)])
def test_an_answer_names_everything_a_caller_needs(
    client: Client, photo: bytes, model: str, tta: str, views: int
) -> None:
    prediction = client.classify(photo, model=model, tta=tta, request_id="my-request")
    assert (prediction.model, prediction.version) == (model, 1)
    assert (prediction.views_asked, prediction.views_used) == (views, views)
    assert sorted(score.code for score in prediction.classes) == sorted(_codes(client, model))
    probabilities = [score.probability for score in prediction.classes]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
    assert prediction.request_id == "my-request"
    assert "not a diagnosis" in prediction.notice
    assert prediction.timings_ms["total"] > 0


@pytest.mark.parametrize("model", MODELS)
def test_a_single_view_is_what_a_direct_predict_says(
    client: Client, tfs: grpc.Channel, photo: bytes, model: str
) -> None:
    pixels = decode(photo, height=224, width=224)
    direct = predict(tfs, model, pixels[np.newaxis])["probabilities"][0]
    answer = _probabilities(client.classify(photo, model=model), _codes(client, model))
    np.testing.assert_allclose(answer, direct, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_full_tta_is_the_mean_of_ten_single_predicts_and_the_models_own_tta(
    client: Client, tfs: grpc.Channel, photo: bytes, model: str
) -> None:
    pixels = decode(photo, height=224, width=224)
    singles = [predict(tfs, model, view[np.newaxis])["probabilities"][0] for view in make_views(pixels, STANDARD_VIEWS)]
    prediction = client.classify(photo, model=model, tta="full")
    codes = _codes(client, model)
    np.testing.assert_allclose(_probabilities(prediction, codes), np.mean(singles, 0), atol=1e-5)
    own = predict(tfs, model, pixels[np.newaxis], "tta")["probabilities"][0]
    np.testing.assert_allclose(_probabilities(prediction, codes), own, atol=1e-4)
    deviation = {score.code: score.std for score in prediction.classes}
    np.testing.assert_allclose([deviation[code] for code in codes], np.std(singles, 0), atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_adaptive_looks_again_with_the_models_own_signatures(client: Client, model: str) -> None:
    answers = [client.classify(draw_lesion(seed=seed), model=model, tta="adaptive") for seed in range(19, 24)]
    assert 1 < max(answer.views_asked for answer in answers) <= 10, "of some it is not sure at first"
    for answer in answers:
        assert answer.views_used == answer.views_asked
        assert sum(score.probability for score in answer.classes) == pytest.approx(1, abs=1e-4)


WRONG_SIZES = (
    *((1, 10, 10, 3), (1, 224, 225, 3), (1, 225, 224, 3), (1, 224, 224, 1), (1, 224, 224, 4), (1, 448, 112, 3)),
    *((2, 10, 10, 3), (224, 224, 3), (224,), (), (1, 1, 224, 224, 3), (0, 224, 224, 3)),
)


@pytest.mark.parametrize("signature", ["serving_default", "tta"])
@pytest.mark.parametrize("model", MODELS)
def test_the_model_refuses_images_of_another_size(tfs: grpc.Channel, model: str, signature: str) -> None:
    for shape in WRONG_SIZES:
        with pytest.raises(grpc.RpcError) as refused:
            predict(tfs, model, np.zeros(shape, np.uint8), signature)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (shape, refused.value.details())


def test_many_photos_at_once_come_back_under_their_ids(client: Client, photo: bytes) -> None:
    photos = [(f"photo-{index}", photo if index % 5 else b"broken") for index in range(20)]
    answers = list(client.classify_many(photos, model="mobilenet_v3_small"))
    assert sorted(answer.id for answer in answers) == sorted(name for name, _ in photos)
    assert {answer.id for answer in answers if answer.error} == {"photo-0", "photo-5", "photo-10", "photo-15"}


def test_models_and_their_cards_are_listed(client: Client) -> None:
    assert [model.name for model in client.models()] == list(MODELS)
    (version,) = client.model("resnet50").versions
    assert version.version == 1
    assert version.ready
    assert version.card is not None
    assert len(version.card.classes) == 7
