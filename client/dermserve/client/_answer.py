"""One photo's outcome among many: a prediction or an error, under the caller's id."""

from dataclasses import dataclass

from dermserve.client._errors import DermserveError
from dermserve.client._prediction import Prediction


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one photo of `classify_many`: exactly one of `prediction` and `error` is set."""

    index: int
    """The photo's place in what was given, from 0."""
    id: str
    """The caller's id; for a path given without one, the path; for bytes, their index."""
    prediction: Prediction | None = None
    """What the model says."""
    error: DermserveError | None = None
    """Or why it says nothing."""

    def result(self) -> Prediction:
        """Return the prediction.

        Raises:
            DermserveError: the photo failed.
        """
        if self.prediction is None:
            raise self.error or AssertionError("an answer holds a prediction or an error")
        return self.prediction
