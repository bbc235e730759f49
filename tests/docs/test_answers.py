"""The answers that docs/answers.md shows are answers of the API, and follow its own rules."""

import json
import pathlib
import re

import pytest
from google.protobuf import json_format

from dermserve.v1 import classifier_pb2

_PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/answers.md"
_SHOWN = re.findall(r"^### (\w+):.*?```json\n(.*?)```", _PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_every_kind_is_shown() -> None:
    assert {kind for kind, _ in _SHOWN} == {"HIGH", "LOW", "INTERMEDIATE", "BLURRED", "OUT_OF_SCOPE", "REJECTED"}


@pytest.mark.parametrize(("kind", "text"), _SHOWN, ids=[kind for kind, _ in _SHOWN])
def test_an_answer_follows_the_rules_of_the_page(kind: str, text: str) -> None:
    answer = json_format.ParseDict(json.loads(text), classifier_pb2.ClassifyResponse())
    level, verdict = classifier_pb2.RiskLevel.Name(answer.malignancy.level), classifier_pb2.Verdict.Name(answer.verdict)
    assert "not a diagnosis" in answer.notice
    assert (verdict == "VERDICT_CONFIDENT") == (not answer.reasons)
    assert verdict == "VERDICT_CONFIDENT" or (level != "RISK_LEVEL_LOW" and not answer.named_class)
    if kind == "REJECTED":
        assert (verdict, len(answer.classes), answer.HasField("malignancy")) == ("VERDICT_REJECTED", 0, False)
    elif kind in {"BLURRED", "OUT_OF_SCOPE"}:
        assert (level, list(answer.reasons)) == (
            "RISK_LEVEL_INTERMEDIATE",
            [classifier_pb2.Reason.Value(f"REASON_{kind}")],
        )
    else:
        assert level == f"RISK_LEVEL_{kind}"
