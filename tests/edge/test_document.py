"""The OpenAPI document says what is so."""

import copy
import json
import pathlib
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from dermserve.edge import SITE
from dermserve.local.edge import Edge
from tests.edge.envoys import ask

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = json.loads((SITE / "openapi.json").read_text())


def test_it_is_served(edge: Edge) -> None:
    assert ask(edge.url, "/openapi.json").json() == DOCUMENT


@pytest.mark.filterwarnings("ignore")  # of schemathesis and hypothesis about themselves
@pytest.mark.parametrize(
    ("path", "method"), [(path, method) for path, ways in DOCUMENT["paths"].items() for method in ways]
)
def test_whatever_is_asked_the_answer_is_as_documented(edge: Edge, path: str, method: str) -> None:
    """By all that schemathesis' plugin of pytest would ask; but that takes seconds of each process of the tests."""
    import schemathesis  # noqa: PLC0415
    from schemathesis import checks  # noqa: PLC0415
    from schemathesis.generation.feedback import NO_FEEDBACK  # noqa: PLC0415
    from schemathesis.pytest._test_builder import build_operation_test  # noqa: PLC0415
    from schemathesis.specs.openapi import checks as openapi  # noqa: PLC0415

    kept = [openapi.status_code_conformance, openapi.content_type_conformance, openapi.response_schema_conformance]

    @settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def answers_as_documented(case: Any) -> None:
        response = case.call(base_url=edge.url, timeout=100)
        assert response.status_code < 500
        case.validate_response(response, checks=[checks.not_a_server_error, *kept])

    schema = schemathesis.openapi.from_dict(copy.deepcopy(DOCUMENT))
    how = {"test_func": answers_as_documented, "given_kwargs": {}, "feedback": NO_FEEDBACK}
    build_operation_test(config=schema.config, operation=schema[path][method], **how)()
