"""docs/errors.md has a cause and a remedy for every reason there is."""

import pathlib
import re

import grpc
import pytest

from dermserve.client import DermserveError
from dermserve.client._errors import PHOTO_REASONS
from dermserve.gateway.errors import STATUSES

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/errors.md").read_text()
REPLIES = (ROOT / "serving/dermserve/edge/templates/replies.yaml").read_text()
ON_THIS_SIDE = {"FILE_NOT_FOUND", "IS_A_DIRECTORY", "NOT_A_PHOTO", "UNREADABLE_FILE"}


def reasons():
    found = {*STATUSES} | {*PHOTO_REASONS} | ON_THIS_SIDE
    found |= {*re.findall(r'^  \(\d+, \d+, "(\w+)"', REPLIES, re.M)}
    found |= {code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK}
    return sorted(found)


@pytest.mark.parametrize("reason", reasons())
def test_every_reason_has_a_cause_and_a_remedy_where_its_link_leads(reason):
    assert DermserveError("", reason=reason).help == f"docs/errors.md#{reason.lower()}"
    section = re.search(rf"^### {reason}\n\n(.+?)\n(?:\n#|\Z)", PAGE, re.M | re.S)
    assert section, f"docs/errors.md has no section {reason}"
    cause, remedy = section[1].split("**Do:**")
    assert len(cause) > 8
    assert len(remedy) > 8


@pytest.mark.parametrize("status", [301, 400, 502])
def test_statuses_of_proxies_share_a_section(status):
    assert DermserveError("", reason=f"HTTP_{status}").help == "docs/errors.md#http"
    assert "### HTTP\n" in PAGE


def test_no_section_is_there_twice():
    headings = re.findall(r"^### (\w+)", PAGE, re.M)
    assert len(headings) == len(set(headings))
