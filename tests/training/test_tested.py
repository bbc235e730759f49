"""Test photos are measured once."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dermserve.models.export import SHIPPED
from dermserve.models.exporter import run_content
from dermserve.models.training.conversion import pack
from dermserve.models.training.data.photos import Labelled
from dermserve.models.training.data.splits import Part
from dermserve.models.training.errors import DataError, RunError
from dermserve.models.training.evaluate import evaluation as evaluate
from dermserve.models.training.evaluate import predictions
from dermserve.models.training.train.dataset import Data, prepare
from dermserve.models.training.train.finished import FinishedRun, claim_test, describe_tests
from tests.training.conftest import draw_photos
from tests.training.runs import StoppedError, instead_of_training, start, tiny, untrained

pytestmark = pytest.mark.usefixtures("tiny_networks")
FOUND = {"temperature": 1.25, "rule_out": {"threshold": 0.05}, "adaptive_looks": [], "method": "as written"}
SHIFT = np.asarray([0.1, 0.0, -0.1])


def network(seed: int = 0) -> keras.Model:
    """Make a network of random weights."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="logits")], name="tiny")


def test_an_interrupted_pack_leaves_no_calibration_of_other_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = untrained(tiny(), photos, tmp_path / "run")
    run.update(calibration=FOUND)

    def stop(*_: object, **__: object) -> None:
        raise StoppedError

    monkeypatch.setattr(predictions.Predictor, "predict", stop)
    with pytest.raises(StoppedError):
        pack(run, photos, cache=photos.parent / "cache")
    assert (run.folder / "weights.full.npz").is_file()
    with pytest.raises(RunError, match="is not calibrated"):
        _ = run.calibration


def test_packing_an_evaluated_run_leaves_the_shift_of_its_calibration_out(photos: Path, tmp_path: Path) -> None:
    """It was added to the weights, and by the next evaluation once more."""
    run = untrained(tiny(), photos, tmp_path / "run")
    before = np.asarray(run.network().get_layer("logits").bias)
    run.update(prior_shift=[9.0, 0.0, 0.0])
    for _ in range(2):
        packed = pack(run, photos, cache=photos.parent / "cache")
        np.testing.assert_array_equal(run.network(shifted=False).get_layer("logits").bias, before)
        assert packed["accuracy_full"] == packed["accuracy_compact"]
    (run.folder / "weights.full.npz").unlink()
    with pytest.raises(RunError, match=r"run is packed, and lacks its full weights, weights\.full\.npz"):
        pack(run, photos, cache=photos.parent / "cache")


def test_a_run_that_changes_while_it_is_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = FinishedRun(SHIPPED / "mobilenet_v3_small")
    folder, distance = Path(shutil.copytree(shipped.folder, tmp_path / "run")), shipped.distance

    def evaluated_meanwhile(run: FinishedRun) -> object:
        run.update(calibration=FOUND)
        return distance

    monkeypatch.setattr(FinishedRun, "network", lambda _: network())
    run_content(folder)
    monkeypatch.setattr(FinishedRun, "distance", property(evaluated_meanwhile))
    with pytest.raises(RunError, match="run was changed by another command meanwhile"):
        run_content(folder)


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    for name in ("experiment.json", "history.json", "run.json", "split.csv", "weights.npz"):
        (tmp_path / name).write_text("{}")
    return FinishedRun(tmp_path)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"calibration": FOUND | {"temperature": 1.26}}, "thresholds"),
        ({"calibration": FOUND | {"rule_out": {"threshold": 0.0501}}}, "thresholds"),
        ({"calibration": FOUND | {"adaptive_looks": [{"views": 3, "margin": 0.1}]}}, "thresholds"),
        ({"shift": SHIFT * 2}, "thresholds"),
        ({"network": 1}, "weights"),
    ],
)
def test_a_second_choice_needs_a_reason_that_is_kept(run: FinishedRun, changed: dict[str, Any], what: str) -> None:
    first: dict[str, Any] = {"calibration": FOUND, "shift": SHIFT, "network": 0}

    def claim(values: dict[str, Any], again: str | None = None) -> None:
        claim_test(run, network(values["network"]), values["calibration"], values["shift"], again=again)

    claim(first)
    claim(first)
    with pytest.raises(RunError, match=f"measured with other {what}"):
        claim(first | changed)
    assert len(run.summary["tested"]) == 1
    assert describe_tests(run) == "test photos measured once"
    claim(first | changed, again="the rule was wrong")
    claim(first | changed)
    assert [look["reason"] for look in run.summary["tested"]] == ["the first", "the rule was wrong"]
    assert describe_tests(run).endswith("the rule was wrong")
    with pytest.raises(RunError, match="measured with other"):
        claim(first)


@pytest.mark.parametrize(
    "same", [{"temperature": 1.25 * (1 + 1e-7)}, {"method": "in other words"}, {"rule_out": {"threshold": 0.05 + 1e-9}}]
)
def test_rounding_and_words_are_no_second_choice(run: FinishedRun, same: dict[str, Any]) -> None:
    for values in (FOUND, FOUND | same):
        claim_test(run, network(), values, SHIFT, again=None)
    assert len(run.summary["tested"]) == 1


def say_anything(_: object, photos: Labelled, *, views: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Stand for the network."""
    rng = np.random.default_rng(photos.rows.tolist())
    logits, features = rng.normal(size=(len(photos), len(views), 3)), rng.normal(size=(len(photos), 16))
    return logits.astype(np.float32), features.astype(np.float32)


def test_no_test_photo_is_read_before_a_run_notes_what_is_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, folder = draw_photos(tmp_path / "photos"), tmp_path / "run"
    instead_of_training(monkeypatch)
    start(tiny(), photos, folder)
    part, asked = Data.part, list[tuple[Part, bool]]()

    def ask(data: Data, which: Part) -> Any:
        asked.append((which, "tested" in json.loads((folder / "run.json").read_text())))
        return part(data, which)

    monkeypatch.setattr(Data, "part", ask)
    monkeypatch.setattr(predictions, "run_views", say_anything)
    frozen: list[object] = []
    monkeypatch.setattr(predictions, "freeze", lambda network, _: frozen.append(network))
    cache = tmp_path / "cache"
    FinishedRun(folder).update(other={"clinic": {"measured": "with other thresholds"}})
    evaluate.evaluate_own(FinishedRun(folder), photos, thin=4, cache=cache)
    assert FinishedRun(folder).summary["other"] == {}
    assert {which for which, noted in asked if not noted} == {Part.TRAIN, Part.VALIDATION}
    assert (Part.TEST, True) in asked
    assert len(frozen) == 1, "it takes seconds"
    with pytest.raises(RuntimeError, match="measured once, by evaluate_own"):
        prepare(tiny(), photos, cache=tmp_path / "cache").part(Part.TEST)
    some = tmp_path / "some"
    trained = next(name for name, photo in FinishedRun(folder).split.items() if photo.part is Part.TRAIN)
    (some / trained).parent.mkdir(parents=True)
    shutil.copy(photos / trained, some / trained)
    with pytest.raises(DataError, match="some has no photo for validation and test in the run's split"):
        evaluate.evaluate_own(FinishedRun(folder), photos, also=some, cache=cache)
    before = (folder / "run.json").read_text()
    with pytest.raises(RunError, match="measured with other thresholds"):
        evaluate.evaluate_own(FinishedRun(folder), photos, thin=1, cache=cache)
    assert (folder / "run.json").read_text() == before
