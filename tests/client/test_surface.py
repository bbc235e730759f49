"""What users may rely on, and what importing it costs."""

import json
import re
import subprocess
import sys

import pytest

import dermserve.client
from dermserve.client import Reason, RiskLevel, TtaMode, Verdict, VersionState, _errors
from dermserve.client._errors import PHOTO_REASONS
from dermserve.imaging import PhotoError
from dermserve.v1 import classifier_pb2

PUBLIC = """
    DEFAULT_DEADLINE DEFAULT_TARGET TLS AccessDenied Answer AsyncClient ClassScore Client DeadlineExceeded
    DermserveError Internal InvalidPhoto InvalidRequest MalignancyRisk Model ModelVersion NotFound NotReady
    Overloaded Photo Prediction Reason RiskLevel TooLarge TtaMode Unavailable UnreadablePhoto
    Verdict VersionState render_text
"""


def test_these_names_are_public_and_no_others():
    visible = {name for name in vars(dermserve.client) if not name.startswith("_")}
    assert visible == set(dermserve.client.__all__) == set(PUBLIC.split())


@pytest.mark.parametrize("module", ["dermserve.client", "dermserve.cli"])
def test_importing_it_loads_nothing_heavy(module):
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(subprocess.check_output([sys.executable, "-c", code])))
    assert module in loaded
    assert not loaded & {"numpy", "tensorflow", "PIL", "pydantic", "structlog", "uvloop"}


def test_every_error_is_drawn_in_the_tree():
    def walk(error_class):
        yield error_class
        for child in error_class.__subclasses__():
            yield from walk(child)

    errors = {error.__name__ for error in walk(dermserve.client.DermserveError)}
    assert errors == {*re.findall(r"[A-Z][a-z]\w+", _errors.__doc__.partition("\n\n")[2])}
    assert errors <= set(dermserve.client.__all__)


def test_the_photo_reasons_are_those_of_the_decoder():
    assert {error.reason for error in PhotoError.__subclasses__()} <= PHOTO_REASONS.keys()


def test_the_enums_know_every_number_of_the_proto():
    for enum, wrapper, prefix in [
        (Verdict, classifier_pb2.Verdict, "VERDICT_"),
        (Reason, classifier_pb2.Reason, "REASON_"),
        (RiskLevel, classifier_pb2.RiskLevel, "RISK_LEVEL_"),
        (VersionState, classifier_pb2.VersionState, "VERSION_STATE_"),
    ]:
        names = {name.removeprefix(prefix) for name in wrapper.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
        assert {member.value for member in enum} == names
    modes = {name.removeprefix("TTA_MODE_").lower() for name in classifier_pb2.TtaMode.keys()}  # noqa: SIM118
    assert {mode.value for mode in TtaMode} == modes - {"unspecified"}
