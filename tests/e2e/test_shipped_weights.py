"""The weights that dermserve ships, exported and served as a user has them: they answer, and answer well."""

import pathlib

import pytest

from dermserve.client import Client, Prediction, Reason, RiskLevel, Verdict
from tests.drawing import draw_lesion
from tests.e2e.conftest import MODELS

MALIGNANT = {"akiec", "bcc", "mel"}


@pytest.fixture(scope="module")
def answers(client: Client, shared: pathlib.Path) -> dict[str, list[tuple[str, Prediction]]]:
    """What both models say of the sample of originals, by ten views, with each photo's true class."""
    files = sorted((shared / "data" / "ham10000_600x450_sample").rglob("*.jpg"))
    return {
        model: [
            (file.parent.name, client.classify(file.read_bytes(), model=model, tta="full", deadline=300))
            for file in files
        ]
        for model in MODELS
    }


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_has_a_risk_and_names_its_weights(client: Client, model: str) -> None:
    prediction = client.classify(draw_lesion(seed=3), model=model)
    (version,) = client.model(model).versions
    assert version.card is not None
    assert prediction.weights_digest == version.card.weights_digest != ""
    assert not {Reason.UNTRAINED_MODEL, Reason.UNCALIBRATED_MODEL} & set(prediction.reasons)
    if prediction.verdict is not Verdict.REJECTED:
        assert prediction.malignancy is not None


@pytest.mark.slow
@pytest.mark.shared_data
def test_resnet50_answers_real_photos_and_is_mostly_right(answers: dict[str, list[tuple[str, Prediction]]]) -> None:
    said = answers["resnet50"]
    confident = [(code, one) for code, one in said if one.verdict is Verdict.CONFIDENT]
    assert len(confident) >= len(said) * 0.4
    assert sum(one.named_class == code for code, one in confident if one.named_class) >= len(confident) * 0.5
    right = sum(bool(one.classes) and one.classes[0].code == code for code, one in said)
    assert right >= len(said) * 0.6


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("model", MODELS)
def test_no_malignant_photo_is_called_harmless(answers: dict[str, list[tuple[str, Prediction]]], model: str) -> None:
    low = [code for code, one in answers[model] if one.malignancy and one.malignancy.level is RiskLevel.LOW]
    assert not MALIGNANT.intersection(low)
