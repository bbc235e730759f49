"""The OpenAPI document says what is so."""

import importlib
import json
import pathlib

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from dermserve.edge import SITE
from dermserve.local.edge import Edge
from tests.edge.envoys import ask

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMA = schemathesis.openapi.from_dict(json.loads((SITE / "openapi.json").read_text()))


def test_it_is_what_the_protos_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    document = importlib.import_module("openapi_document")
    assert (SITE / "openapi.json").read_text() == document.render()


def test_it_is_served(edge: Edge) -> None:
    assert ask(edge.url, "/openapi.json").json() == json.loads((SITE / "openapi.json").read_text())


@pytest.mark.filterwarnings("ignore")  # of schemathesis and hypothesis about themselves
@SCHEMA.parametrize()
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_the_answer_is_as_documented(edge: Edge, case: schemathesis.Case) -> None:
    response = case.call(base_url=edge.url, timeout=100)
    assert response.status_code < 500
    case.validate_response(
        response,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
