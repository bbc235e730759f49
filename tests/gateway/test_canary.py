"""A share of the callers gets the canary, always the same ones."""

import pytest
from structlog.testing import capture_logs

from dermserve.gateway.config import load_config
from dermserve.gateway.selection import route
from dermserve.gateway.tfserving import Target
from tests.gateway.fake_tfserving import Version, make_card
from tests.gateway.gateways import ask

BOTH = {"stable": 1, "canary": 2}
PLAIN = Target("resnet50")


def test_the_share_of_callers_is_what_was_asked_for_and_each_stays_with_its_version():
    callers = [f"caller-{number}" for number in range(4000)]
    routed = {caller: route(PLAIN, share=0.05, caller=caller, labels=BOTH).label for caller in callers}
    assert routed == {caller: route(PLAIN, share=0.05, caller=caller, labels=BOTH).label for caller in callers}
    share = list(routed.values()).count("canary") / len(callers)
    assert share == pytest.approx(0.05, abs=0.015)
    larger = {caller for caller in callers if route(PLAIN, share=0.2, caller=caller, labels=BOTH).label == "canary"}
    assert {caller for caller, label in routed.items() if label == "canary"} <= larger


@pytest.mark.parametrize(
    ("target", "share", "labels"),
    [
        (Target("resnet50", version=1), 1.0, BOTH),
        (Target("resnet50", label="stable"), 1.0, BOTH),
        (PLAIN, 1.0, {"stable": 1}),
        (PLAIN, 1.0, {}),
    ],
)
def test_who_names_a_version_gets_it_and_without_a_canary_nothing_changes(target, share, labels):
    assert route(target, share=share, caller="x", labels=labels) == target


def test_a_canary_without_a_share_answers_nobody_who_did_not_ask_for_it():
    assert route(PLAIN, share=0.0, caller="x", labels=BOTH).label == "stable"


def test_without_a_stable_label_the_others_get_the_newest():
    targets = {route(PLAIN, share=0.5, caller=str(number), labels={"canary": 2}) for number in range(100)}
    assert targets == {PLAIN, Target("resnet50", label="canary")}


async def test_callers_are_split_by_their_key_which_no_log_shows(running, tfs):
    tfs.models["resnet50"][2] = Version(make_card())
    tfs.labels |= {("resnet50", "stable"): 1, ("resnet50", "canary"): 2}
    with capture_logs() as log:
        async with running(canary_shares={"resnet50": 0.5}) as world:
            versions = {}
            for caller in [f"secret-{number}" for number in range(12)] * 2:
                answer = await world.stub.Classify(ask(), metadata=(("x-caller-key", caller),), timeout=20)
                versions.setdefault(caller, set()).add(answer.version)
    assert {version for seen in versions.values() for version in seen} == {1, 2}
    assert all(len(seen) == 1 for seen in versions.values())
    assert "secret-" not in repr(log)


async def test_a_trace_id_finds_its_way_into_the_log(running):
    trace = "0af7651916cd43dd8448eb211c80319c"
    with capture_logs() as log:
        async with running() as world:
            for parent in (f"00-{trace}-b7ad6b7169203331-01", "00-nonsense"):
                await world.stub.Classify(ask(), metadata=(("traceparent", parent),), timeout=20)
    assert [entry.get("trace_id") for entry in log if entry["event"] == "request_answered"] == [trace, None]


def test_shares_are_read_from_the_environment_and_checked(monkeypatch):
    monkeypatch.setenv("DERMSERVE_CANARY_SHARES", "resnet50=0.05, mobilenet_v3_small=1")
    assert load_config({}).config.canary_shares == {"resnet50": 0.05, "mobilenet_v3_small": 1.0}
    for wrong in ("vgg16=0.1", "resnet50=2", "resnet50", "resnet50=x"):
        monkeypatch.setenv("DERMSERVE_CANARY_SHARES", wrong)
        with pytest.raises(ValueError, match="canary_shares"):
            load_config({})
