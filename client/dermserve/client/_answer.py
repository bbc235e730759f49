"""The result of one photo of `classify_many`: a prediction or an error, with the caller's id."""

from dataclasses import dataclass

from dermserve.client._errors import DermserveError
from dermserve.client._prediction import Prediction


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of one photo of `classify_many`: exactly one of `prediction` and `error` is set."""

    index: int
    """Position of the photo in the input, from 0."""
    id: str
    """The caller's id; for a path given without one, the path; for bytes, their index."""
    prediction: Prediction | None = None
    """The prediction; None if the photo failed."""
    error: DermserveError | None = None
    """Why the photo failed; None if it was classified."""

    def result(self) -> Prediction:
        """Return the prediction.

        Raises:
            DermserveError: the photo failed.
        """
        if self.prediction is None:
            raise self.error or AssertionError("an answer holds a prediction or an error")
        return self.prediction
