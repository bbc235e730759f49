"""BentoML."""

import pathlib

import bentoml

from benchmarks.comparison.contenders.shared import CORES, load_model


@bentoml.service(workers=CORES, traffic={"timeout": 60})
class Classifier:
    """One model a worker."""

    def __init__(self) -> None:
        self._model = load_model()

    @bentoml.api
    def classify(self, photo: pathlib.Path, views: int = 1) -> dict[str, list[float]]:
        """Classify one photo."""
        return {"probabilities": self._model.classify_all([(photo.read_bytes(), views)])[0]}
