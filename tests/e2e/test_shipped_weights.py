"""The weights that dermserve ships, exported and served as a user has them: they answer, and answer well."""

import pathlib
from collections.abc import Iterator

import pytest

from dermserve.client import Client, Prediction, Reason, RiskLevel, Verdict
from dermserve.local import Stack
from dermserve.local.picture import draw_lesion
from tests.conftest import exported, store_of

pytestmark = pytest.mark.slow
MODELS = ("resnet50", "mobilenet_v3_small")
MALIGNANT = {"akiec", "bcc", "mel"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a gateway that serves the shipped weights of both models."""
    models = (exported(tmp_path_factory, model, shipped=True) for model in MODELS)
    store = store_of(tmp_path_factory.mktemp("store"), *models)
    with (
        Stack(store=store, models=MODELS, port=0, tfs_port=0) as stack,
        Client(stack.gateway_address, deadline=60) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def answers(trained: Client, shared: pathlib.Path) -> dict[str, list[tuple[str, Prediction]]]:
    """What both models say of the sample of originals, by ten views, with each photo's true class."""
    files = sorted((shared / "data" / "ham10000_600x450_sample").rglob("*.jpg"))
    return {
        model: [(file.parent.name, trained.classify(file.read_bytes(), model=model, tta="full")) for file in files]
        for model in MODELS
    }


@pytest.mark.parametrize("model", MODELS)
def test_an_answer_has_a_risk_and_names_its_weights(trained: Client, model: str) -> None:
    prediction = trained.classify(draw_lesion(seed=3), model=model)
    (version,) = trained.model(model).versions
    assert version.card is not None
    assert prediction.weights_digest == version.card.weights_digest != ""
    assert not {Reason.UNTRAINED_MODEL, Reason.UNCALIBRATED_MODEL} & set(prediction.reasons)
    if prediction.verdict is not Verdict.REJECTED:
        assert prediction.malignancy is not None


@pytest.mark.shared_data
def test_resnet50_answers_real_photos_and_is_mostly_right(answers: dict[str, list[tuple[str, Prediction]]]) -> None:
    said = answers["resnet50"]
    confident = [(code, one) for code, one in said if one.verdict is Verdict.CONFIDENT]
    assert len(confident) >= len(said) * 0.4
    assert sum(one.named_class == code for code, one in confident if one.named_class) >= len(confident) * 0.5
    right = sum(bool(one.classes) and one.classes[0].code == code for code, one in said)
    assert right >= len(said) * 0.6


@pytest.mark.shared_data
@pytest.mark.parametrize("model", MODELS)
def test_no_malignant_photo_is_called_harmless(answers: dict[str, list[tuple[str, Prediction]]], model: str) -> None:
    low = [code for code, one in answers[model] if one.malignancy and one.malignancy.level is RiskLevel.LOW]
    assert not MALIGNANT.intersection(low)
