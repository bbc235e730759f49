"""A share of the callers gets the canary, always the same ones."""

import asyncio
import urllib.request

import grpc.aio
import numpy as np
import pytest
from structlog.testing import capture_logs

from dermserve.gateway.catalog import route
from dermserve.gateway.tfserving import Target
from tests.gateway.fake_tfserving import Version, make_card
from tests.gateway.gateways import ask, reason_of

BOTH = {"stable": 1, "canary": 2}
PLAIN = Target("resnet50")
PREFIX = "dermserve_gateway_"


@pytest.fixture
def shared(tmp_path):
    """A function that makes a canary file with a share of resnet50."""

    def make(share):
        (tmp_path / "canary.toml").write_text(f"[canary_shares]\nresnet50 = {share}\n")
        return tmp_path / "canary.toml"

    return make


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


async def test_callers_are_split_by_their_key_which_no_log_shows(running, tfs, shared):
    tfs.models["resnet50"][2] = Version(make_card())
    tfs.labels |= {("resnet50", "stable"): 1, ("resnet50", "canary"): 2}
    with capture_logs() as log:
        async with running(canary_file=shared(0.5)) as world:
            versions = {}
            for caller in [f"secret-{number}" for number in range(12)] * 2:
                answer = await world.stub.Classify(ask(), metadata=(("x-caller-key", caller),), timeout=100)
                versions.setdefault(caller, set()).add(answer.version)
    assert {version for seen in versions.values() for version in seen} == {1, 2}
    assert all(len(seen) == 1 for seen in versions.values())
    assert "secret-" not in repr(log)


async def test_a_canary_without_a_valid_card_gets_nobody_who_did_not_ask_for_it(running, tfs, shared):
    tfs.models["resnet50"] |= {2: Version("{"), 3: Version(make_card())}
    tfs.labels |= {("resnet50", "stable"): 1, ("resnet50", "canary"): 2}
    async with running(canary_file=shared(1.0)) as world:
        assert (await world.stub.Classify(ask(), timeout=100)).version == 1
        assert reason_of(await world.refusal(ask(label="canary"))) == "INVALID_CARD"


async def _samples(world, name):
    text = await asyncio.to_thread(_read, f"http://{world.gateway.metrics_address}/metrics")
    return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{PREFIX}{name}")}


def _read(url):
    with urllib.request.urlopen(url, timeout=100) as answer:
        return answer.read().decode()


async def _eventually(holds):
    """Try until it holds: what runs in the background tells nobody."""
    async with asyncio.timeout(100):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def _share_is(world, share):
    async def holds():
        return (await _samples(world, "canary_share"))[f'{PREFIX}canary_share{{model="resnet50"}}'] == share

    await _eventually(holds)


async def test_a_share_in_a_file_is_followed_without_a_restart_and_a_broken_file_changes_nothing(
    running, tfs, tmp_path
):
    tfs.models["resnet50"][2] = Version(make_card())
    tfs.labels |= {("resnet50", "stable"): 1, ("resnet50", "canary"): 2}
    file = tmp_path / "canary.toml"
    with capture_logs() as log:
        async with running(canary_file=file, metrics_listen="127.0.0.1:0") as world:

            def write(text):  # renamed, as `dermserve model` does: half a file may be a valid one, or another fault
                file.with_suffix(".new").write_text(text)
                file.with_suffix(".new").replace(file)

            async def version():
                return (await world.stub.Classify(ask(), timeout=100)).version

            assert await version() == 1  # there is no file yet
            write("[canary_shares]\nresnet50 = 1.0\nvgg16 = 0.5\n")
            await _share_is(world, 1)
            assert await version() == 2
            table = "[canary_shares]\nresnet50 = "
            # None has the fault of the one before it, which would not be logged again.
            strange = ["", f"{table}7", "# cut off", f"{table}nan", "[canary_shares", f"{table}1{'0' * 400}", "\0"]
            strange += [f'{table}"x"', "canary_shares = 1", f"canary_shares = {'[' * 9999}"]
            for count, wrong in enumerate(strange, 1):
                write(wrong)

                async def refused(count=count):
                    return [entry["event"] for entry in log].count("canary_file_not_read") == count

                await _eventually(refused)
                assert await version() == 2
            file.unlink()
            await _share_is(world, 0)
            assert await version() == 1


async def test_both_labels_are_counted_and_the_stable_version_is_asked_about_the_canarys_answers(running, tfs, shared):
    tfs.models["resnet50"][2] = Version(make_card())
    tfs.labels |= {("resnet50", "stable"): 1, ("resnet50", "canary"): 2}
    settings = {"canary_file": shared(0.5), "canary_sample": 1.0, "metrics_listen": "127.0.0.1:0"}
    async with running(**settings) as world:
        for number in range(20):
            await world.stub.Classify(ask(), metadata=(("x-caller-key", str(number)),), timeout=100)
        with pytest.raises(grpc.aio.AioRpcError):
            await world.stub.Classify(ask(b"no photo"), timeout=100)
        await world.stub.Classify(ask(label="stable"), timeout=100)  # by its own choice: not counted
        ended = await _samples(world, "canary_requests_total")
        assert sum(ended.values()) == 20
        canary = ended[f'{PREFIX}canary_requests_total{{ended="ok",label="canary",model="resnet50"}}']
        assert 2 < canary < 18

        async def agreed():
            return any('"agreed"' in key for key in await _samples(world, "canary_comparisons_total"))

        await _eventually(agreed)
        tfs.models["resnet50"][2].scores = lambda pixels: np.tile([0.9] + [0.1 / 6] * 6, (len(pixels), 1))

        async def differed():
            for number in range(20):
                await world.stub.Classify(ask(), metadata=(("x-caller-key", str(number)),), timeout=100)
            return any('"differed"' in key for key in await _samples(world, "canary_comparisons_total"))

        await _eventually(differed)


async def test_a_canary_that_fails_is_counted_by_its_label(running, tfs, shared):
    tfs.models["resnet50"][2] = Version(make_card(), scores=lambda pixels: np.full((len(pixels), 7), np.nan))
    tfs.labels |= {("resnet50", "stable"): 1, ("resnet50", "canary"): 2}
    async with running(canary_file=shared(1.0), metrics_listen="127.0.0.1:0") as world:
        await world.refusal(ask())
        labels = '{ended="failed",label="canary",model="resnet50"}'
        assert await _samples(world, "canary_requests_total") == {f"{PREFIX}canary_requests_total{labels}": 1}


@pytest.mark.parametrize(("gives_up", "counted"), [(True, {}), (False, {"failed": 1})])
async def test_a_caller_who_gives_up_says_nothing_of_the_canary_but_one_who_waited_in_vain_does(
    running, tfs, shared, gives_up, counted
):
    arrived = asyncio.Event()

    async def hang(_: object) -> None:
        arrived.set()
        await asyncio.Event().wait()

    tfs.models["resnet50"][2] = Version(make_card())
    tfs.labels |= {("resnet50", "stable"): 1, ("resnet50", "canary"): 2}
    tfs.on_predict = hang
    for timeout in (100,) if gives_up else (2, 20):  # the latter where a busy machine takes longer to ask the canary
        async with running(canary_file=shared(1.0), metrics_listen="127.0.0.1:0") as world:
            call = world.stub.Classify(ask(), timeout=timeout)
            if gives_up:
                await asyncio.wait_for(arrived.wait(), 100)
                call.cancel()
            await call.code()

            async def ended(world=world):
                return any(value == 1 for value in (await _samples(world, "requests_total")).values())

            await _eventually(ended)
            found = await _samples(world, "canary_requests_total")
        if arrived.is_set():
            break
    labels = {f'{PREFIX}canary_requests_total{{ended="{how}",label="canary",model="resnet50"}}': count
              for how, count in counted.items()}  # fmt: skip
    assert (arrived.is_set(), found) == (True, labels)


async def test_a_trace_id_finds_its_way_into_the_log(running):
    trace = "0af7651916cd43dd8448eb211c80319c"
    with capture_logs() as log:
        async with running() as world:
            for parent in (f"00-{trace}-b7ad6b7169203331-01", "00-nonsense"):
                await world.stub.Classify(ask(), metadata=(("traceparent", parent),), timeout=100)
    assert [entry.get("trace_id") for entry in log if entry["event"] == "request_answered"] == [trace, None]
