"""Running a run's network over what it is judged by: a part of its data, other data, pictures without skin."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from dermserve.imaging import STANDARD_VIEWS
from dermserve.models.training.data.layouts import Sample
from dermserve.models.training.evaluate.outputs import remembered
from dermserve.models.training.evaluate.predict import Outputs
from dermserve.models.training.evaluate.strangers import draw_strangers
from dermserve.models.training.train.loop import Labelled, Progress

ONE_VIEW = STANDARD_VIEWS[:1]


@dataclass(frozen=True, slots=True)
class Judged:
    """Photos, what the network said of them, and whose they are."""

    outputs: Outputs
    labels: NDArray[np.int64]
    lesions: list[str]

    def first_view(self) -> "Judged":
        """Leave the first view of each photo."""
        return Judged(Outputs(self.outputs.logits[:, :1], self.outputs.features), self.labels, self.lesions)


@dataclass(frozen=True, slots=True)
class Seen:
    """One view of every photo, and ten of all or of every Nth."""

    one: Judged
    ten: Judged


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """A network, and how it is to look at photos."""

    network: keras.Model
    cache: Path
    """Where what it said of photos is remembered."""
    precision: str
    """Of the arithmetic; see predict.predict."""
    progress: Progress
    """Called with what is going on, photos done and photos in all."""

    def see(self, photos: Labelled, samples: Sequence[Sample], what: str, *, thin: int = 1) -> Seen:
        """Take ten views of every `thin`-th photo and one view of all."""
        ten = self.look(photos.every(thin), samples, what)
        one = ten.first_view() if thin == 1 else self.look(photos, samples, f"{what}, one view", views=ONE_VIEW)
        return Seen(one, ten)

    def look(
        self, photos: Labelled, samples: Sequence[Sample], what: str, *, views: Sequence[str] = STANDARD_VIEWS
    ) -> Judged:
        """Run over views of photos.

        Args:
            photos: N of them; their rows are those of `samples`, too.
            samples: who they are.
            what: for the progress.
            views: names of standard views.
        """
        outputs = self._outputs(photos, what, views)
        return Judged(outputs, photos.labels, [samples[row].lesion for row in photos.rows])

    @property
    def side(self) -> int:
        """Height and width of the network's input."""
        return int(self.network.inputs[0].shape[1])

    def features(self, photos: Labelled, what: str) -> NDArray[np.float32]:
        """Give the features of one view of photos, float32 [N, F]."""
        return self._outputs(photos, what, ONE_VIEW).features

    def strangers(self, *, seed: int) -> dict[str, NDArray[np.float32]]:
        """Give the features of drawn pictures without skin, float32 [N, F] by kind."""
        found = {}
        for kind, images in draw_strangers(self.side, seed=seed).items():
            rows = np.arange(len(images))
            found[kind] = self.features(Labelled(images, rows, np.zeros_like(rows)), kind)
        return found

    def _outputs(self, photos: Labelled, what: str, views: Sequence[str]) -> Outputs:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.progress(what, done, len(photos))

        return remembered(
            self.network, photos, folder=self.cache, views=views, precision=self.precision, progress=advance
        )
