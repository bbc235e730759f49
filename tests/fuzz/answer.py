"""Fuzz target: whatever a model server answers becomes sound scores or a valid card, or is refused by an error."""

import contextlib
from collections.abc import Iterator

import numpy as np
from google.protobuf.message import DecodeError

from tests.fuzz import fuzzing

with fuzzing.instrumented():
    from dermserve.contract import CardError, Output, parse_card, render_card
    from dermserve.gateway.answer import check_scores, write_answer
    from dermserve.gateway.errors import InvalidModelOutputError
    from dermserve.gateway.tfserving import Scores, read_output, string_scalar
    from dermserve.imaging import STANDARD_VIEWS, measure
    from dermserve.tfserving.v1 import serving_pb2, tensor_pb2
    from dermserve.v1 import card_pb2, classifier_pb2


CARD = card_pb2.Card(
    schema_version=2,
    model="m",
    classes=[card_pb2.ClassInfo(code=code, name=code, malignant=code == "a") for code in "abc"],
    input=card_pb2.InputSpec(height=8, width=8, fit=card_pb2.FIT_CENTER_CROP),
    views=STANDARD_VIEWS,
    provenance=card_pb2.Provenance(training=card_pb2.TRAINING_TRAINED),
    calibration=card_pb2.Calibration(
        temperature=1,
        min_confidence=0.5,
        max_view_std=0.1,
        max_ood_score=3,
        rule_out={"threshold": 0.2},
        rule_in={"threshold": 0.8},
    ),
)
MEASURES = measure(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))


def target(data: bytes) -> None:
    """Read it as a card, and as an answer to Predict."""
    with contextlib.suppress(CardError):
        card = parse_card(data)
        assert parse_card(render_card(card)) == card
    with contextlib.suppress(DecodeError, InvalidModelOutputError):
        _answer(serving_pb2.PredictResponse.FromString(data))


def _answer(response: serving_pb2.PredictResponse) -> None:
    with contextlib.suppress(InvalidModelOutputError):
        assert isinstance(string_scalar(response.outputs["card"], name="card"), bytes)
    probabilities = read_output(response, Output.PROBABILITIES, rank=2)
    ood_scores = read_output(response, Output.OOD_SCORE, rank=1)
    if len(probabilities) != len(ood_scores):
        return  # TfServing.predict refuses it
    scores = Scores(version=1, probabilities=probabilities, ood_scores=ood_scores)
    answer = write_answer(check_scores(scores, card=CARD), MEASURES, card=CARD, include_rejected_classes=True)
    assert abs(sum(score.probability for score in answer.classes) - 1) < 1e-3
    assert all(np.isfinite([score.probability, score.std]).all() for score in answer.classes)
    assert (answer.verdict == classifier_pb2.VERDICT_CONFIDENT) == (not answer.reasons)


def seeds() -> Iterator[bytes]:
    """Make a card and answers, as values and as content."""
    yield render_card(CARD).encode()
    rows = np.asarray([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], np.float32)
    for content in (False, True):
        response = serving_pb2.PredictResponse()
        response.outputs["probabilities"].CopyFrom(_tensor(rows, content=content))
        response.outputs["ood_score"].CopyFrom(_tensor(np.asarray([1, 2], np.float32), content=content))
        response.outputs["card"].CopyFrom(tensor_pb2.TensorProto(dtype=7, string_val=[b"{}"]))
        yield response.SerializeToString()
    yield b""


def _tensor(array: np.ndarray, *, content: bool) -> tensor_pb2.TensorProto:
    shape = tensor_pb2.TensorShapeProto(dim=[tensor_pb2.TensorShapeProto.Dim(size=size) for size in array.shape])
    tensor = tensor_pb2.TensorProto(dtype=tensor_pb2.DATA_TYPE_FLOAT, tensor_shape=shape)
    if content:
        tensor.tensor_content = array.tobytes()
    else:
        tensor.float_val.extend(array.ravel().tolist())
    return tensor


if __name__ == "__main__":
    fuzzing.run(target, seeds())
