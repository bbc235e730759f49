"""A change of labels is made wholly or not at all, wherever it fails; the next command finds nothing half done."""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Callable, Collection, Iterator

import pytest

from dermserve.models.lifecycle import moves, rollout
from dermserve.models.lifecycle.errors import LifecycleError, NoServerError, ServerError, StoreError
from dermserve.models.lifecycle.server_config import Desk
from dermserve.models.lifecycle.stores import entries, new_entry
from tests.lifecycle.fake_servers import Fleet, KilledError, SteppedStore, Steps, fake_desk
from tests.lifecycle.versions_at_hand import CONFIG, make_version

Move = Callable[[Desk], object]


MOVES: dict[str, Move] = {
    "promote": lambda desk: moves.promote(desk, "m", 3),
    "promote the canary": lambda desk: moves.promote(desk, "m", 2),
    "rollback": lambda desk: moves.rollback(desk, "m"),
    "canary": lambda desk: moves.canary(desk, "m", 3, share=0.5),
    "end canary": lambda desk: moves.end_canary(desk, "m"),
}
_promote, _rollback = MOVES["promote"], MOVES["rollback"]
every_move = pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())


@pytest.fixture
def memory(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder in memory where there is one: these tests sync hundreds of files."""
    shared = pathlib.Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else tmp_path) as folder:
        yield pathlib.Path(folder)


@pytest.fixture
def fleet(memory: pathlib.Path) -> Fleet:
    return _fleet(memory)


def _fleet(folder: pathlib.Path, *, broken: Collection[int] = ()) -> Fleet:
    """Versions 1 to 3; 1 was promoted, and 4, a rollback went to 1, and 2 is its canary."""
    store = SteppedStore(folder)
    for version in (1, 2, 3, 4):
        make_version(folder / "m" / str(version))
    said: list[str] = []
    desk = fake_desk(store, broken=broken, say=said.append)
    fleet = Fleet(desk, store, list(desk.servers), said)
    moves.promote(fleet.desk, "m", 4)
    moves.promote(fleet.desk, "m", 1)
    moves.canary(fleet.desk, "m", 2, share=0.1)
    return fleet


def _steps(folder: pathlib.Path, move: Move) -> list[str]:
    fleet = _fleet(folder)
    with fleet.stepping(Steps()) as steps:
        move(fleet.desk)
    return steps.taken


def _log(fleet: Fleet) -> list[tuple[str, object, object]]:
    return [(entry["what"], entry["from"]["labels"], entry["to"]["labels"]) for entry in entries(fleet.store)]


@every_move
def test_a_move_that_is_killed_before_any_of_its_steps_is_undone_by_the_next_unless_it_was_logged(
    move: Move, memory: pathlib.Path
) -> None:
    steps = _steps(memory / "whole", move)
    whole = _fleet(memory / "as it is")
    before, log_before = whole.state(), _log(whole)
    move(whole.desk)
    after, log_after = whole.state(), _log(whole)
    for count in range(len(steps) + 1):
        fleet = _fleet(memory / str(count))
        with fleet.stepping(Steps(count)), contextlib.suppress(KilledError):
            move(fleet.desk)
        rollout.recover(fleet.desk)
        finished = "audit" in steps[:count]
        assert fleet.state() == (after if finished else before), steps[:count]
        assert _log(fleet) == (log_after if finished else log_before), steps[:count]
        assert rollout.pending(fleet.store) is None
        told = [line for line in fleet.said if "an earlier command left half done" in line]
        assert bool(told) == (count > 0 and not finished), steps[:count]


@every_move
def test_a_recovery_that_is_killed_is_taken_up_by_the_next(move: Move, memory: pathlib.Path) -> None:
    steps = _steps(memory / "whole", move)
    whole = _fleet(memory / "as it is")
    ends = [whole.state()]
    move(whole.desk)
    ends.append(whole.state())
    for count in range(1, len(steps), 2):
        fleet = _fleet(memory / str(count))
        with fleet.stepping(Steps(count)), contextlib.suppress(KilledError):
            move(fleet.desk)
        for again in range(0, 8, 3):
            with fleet.stepping(Steps(again)), contextlib.suppress(KilledError):
                rollout.recover(fleet.desk)
        rollout.recover(fleet.desk)
        assert fleet.state() in ends
        assert rollout.pending(fleet.store) is None


@every_move
@pytest.mark.parametrize("server", ["first", "second"])
def test_a_server_that_refuses_at_any_step_leaves_all_servers_as_they_were(
    move: Move, server: str, memory: pathlib.Path
) -> None:
    reloads = _steps(memory / "whole", move).count(f"reload {server}")
    assert reloads == 3
    for turn in range(reloads):
        fleet = _fleet(memory / str(turn))
        before, log = fleet.state(), _log(fleet)
        with fleet.stepping(_refusing(f"reload {server}", turn)), pytest.raises(ServerError, match=server):
            move(fleet.desk)
        assert (fleet.state(), _log(fleet)) == (before, log)
        assert rollout.pending(fleet.store) is None
        move(fleet.desk)  # and now it can be done


@every_move
def test_a_store_that_cannot_be_written_leaves_all_servers_as_they_were(move: Move, memory: pathlib.Path) -> None:
    for name in {step.removeprefix("write ") for step in _steps(memory / "whole", move) if step.startswith("write")}:
        fleet = _fleet(memory / name)
        before = fleet.state()
        with fleet.stepping(_refusing(f"write {name}", 0)), pytest.raises((StoreError, OSError)):
            move(fleet.desk)
        assert fleet.state() == before


def _refusing(step: str, turn: int) -> Steps:
    """Refuse a step once: the time after `turn` times."""
    seen: list[str] = []

    def refuse(name: str) -> bool:
        seen.extend([name] if name == step else [])
        return name == step and len(seen) == turn + 1

    return Steps(refuse=refuse)


def test_a_server_that_cannot_be_told_back_is_told_by_the_next_command(fleet: Fleet) -> None:
    before = fleet.state()
    from_now_on = iter([False, False])
    steps = Steps(refuse=lambda name: name == "reload second" and next(from_now_on, True))
    with fleet.stepping(steps), pytest.raises(ServerError, match="second refused"):
        _promote(fleet.desk)
    assert fleet.state()[0] == before[0]
    assert "the next command will undo the change" in fleet.said[-1]
    moves.retire(fleet.desk, "m", keep=9)
    assert fleet.state() == before
    assert fleet.said[-1].startswith(
        "undid what an earlier command left half done: promote of m, canary 2, stable 1 (0.1) →"
    )


def test_rollback_after_a_killed_promotion_goes_back_to_what_was_stable_before_it(memory: pathlib.Path) -> None:
    steps = _steps(memory / "whole", _promote)
    for count, version in ((steps.index("write models.config") + 1, 4), (steps.index("audit") + 1, 1)):
        fleet = _fleet(memory / str(count))
        with fleet.stepping(Steps(count)), pytest.raises(KilledError):
            _promote(fleet.desk)
        assert moves.rollback(fleet.desk, "m").after.labels["stable"] == version


def test_servers_that_a_killed_command_had_and_the_next_has_not_are_named(fleet: Fleet) -> None:
    with fleet.stepping(Steps(4)), pytest.raises(KilledError):
        _promote(fleet.desk)
    rollout.recover(dataclasses.replace(fleet.desk, servers=fleet.servers[:1]))
    assert fleet.said[-1] == "not asked, as no --tfs names them: second"


def test_a_rollback_is_not_undone_by_the_next_rollback(fleet: Fleet) -> None:
    _promote(fleet.desk)
    assert moves.rollback(fleet.desk, "m").after.labels["stable"] == 1
    assert moves.rollback(fleet.desk, "m").after.labels["stable"] == 4  # before 1 was promoted
    with pytest.raises(LifecycleError, match="no stable version of m before 4 is known"):
        moves.rollback(fleet.desk, "m")


def test_what_a_rollback_would_go_to_is_not_retired(fleet: Fleet) -> None:
    moves.end_canary(fleet.desk, "m")
    _promote(fleet.desk)
    assert moves.retire(fleet.desk, "m", keep=1) == [2]
    assert moves.rollback(fleet.desk, "m").after.labels["stable"] == 1


def test_a_deletion_is_in_the_log_before_it_is_made(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: str, version: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fleet.store, "remove", fail)
    with pytest.raises(OSError, match="Input/output"):
        moves.retire(fleet.desk, "m", keep=1)
    assert [(one["what"], one["from"], one["to"]) for one in entries(fleet.store)][-1] == ("retire", 3, None)
    assert fleet.store.versions("m") == [1, 2, 3, 4]


def test_a_version_that_fails_its_check_moves_no_label(fleet: Fleet) -> None:
    before = fleet.state()
    served, wanted = rollout.Served({"stable": 1, "canary": 2}, [1, 2], 0.1), rollout.Served({"stable": 3}, [3])
    entry = new_entry("promote", "m", dataclasses.asdict(served), dataclasses.asdict(wanted))
    intent = rollout.Intent(entry, served, wanted)

    def check() -> None:
        assert [server.loaded for server in fleet.servers] == [{1, 2, 3}] * 2
        raise LifecycleError("not good enough")

    with pytest.raises(LifecycleError):
        rollout.change(fleet.desk, intent, check=check)
    assert fleet.state() == before


def test_a_first_promotion_of_a_version_that_does_not_load_leaves_servers_following_the_newest(
    memory: pathlib.Path,
) -> None:
    fleet = _fleet(memory, broken={3})
    fleet.store.write_text("models.config", CONFIG)
    for server in fleet.servers:
        server.reload(fleet.desk.read_config().message())
    before = fleet.state()
    with pytest.raises(LifecycleError, match="can't load"):
        _promote(fleet.desk)
    assert fleet.state() == before


def test_what_is_served_is_named_also_where_nothing_is_pinned() -> None:
    assert str(rollout.Served({}, share=0.5)) == "the newest (0.5)"
    assert str(rollout.Served({}, policy="all { }")) == "all { }"
    assert str(rollout.Served({"stable": 1, "canary": 2}, [1, 2], 0.05)) == "canary 2, stable 1 (0.05)"


@pytest.mark.parametrize("policy", ["all { }", "latest { num_versions: 2 }"])
def test_an_undone_change_leaves_the_policy_that_a_hand_wrote(policy: str, memory: pathlib.Path) -> None:
    fleet = _fleet(memory / "killed")
    written = CONFIG.replace('/m" }', f'/m" model_version_policy {{ {policy} }} }}')
    fleet.store.write_text("models.config", written)
    before = fleet.desk.read_config().render()
    until = _steps(memory / "whole", _promote).index("write models.config") + 1
    with fleet.stepping(Steps(until)), pytest.raises(KilledError):
        _promote(fleet.desk)
    assert "specific" in fleet.desk.read_config().render()
    rollout.recover(fleet.desk)
    assert fleet.desk.read_config().render() == before


def test_a_hand_that_edits_models_config_after_a_killed_move_has_the_last_word(memory: pathlib.Path) -> None:
    fleet = _fleet(memory)
    with fleet.stepping(Steps(5)), pytest.raises(KilledError):
        _promote(fleet.desk)
    fleet.store.write_text("models.config", fleet.desk.read_config().changed("m", labels={"stable": 2}).render())
    rollout.recover(fleet.desk)
    assert [server.labels for server in fleet.servers] == [{"stable": 2}] * 2


@every_move
def test_an_intent_that_cannot_be_removed_changes_nothing_more(move: Move, memory: pathlib.Path) -> None:
    fleet = _fleet(memory)
    with (
        fleet.stepping(Steps(refuse=lambda name: name == "remove intent.json")),
        pytest.raises(OSError, match="No space"),
    ):
        move(fleet.desk)
    after, log = fleet.state(), _log(fleet)
    rollout.recover(fleet.desk)
    assert (fleet.state(), _log(fleet), rollout.pending(fleet.store)) == (after, log, None)


def test_a_move_whose_log_line_was_cut_off_is_undone_by_the_next_command(memory: pathlib.Path) -> None:
    steps = _steps(memory / "whole", _promote)
    fleet = _fleet(memory / "cut")
    before, log = fleet.state(), _log(fleet)
    with fleet.stepping(Steps(steps.index("audit"))), pytest.raises(KilledError):
        _promote(fleet.desk)
    with (fleet.store.folder / "audit.jsonl").open("a") as file:
        file.write('{"when": "20')
    rollout.recover(fleet.desk)
    assert (fleet.state(), _log(fleet)) == (before, log)


def test_a_dead_server_keeps_the_intent_for_later(fleet: Fleet) -> None:
    with fleet.stepping(Steps(4)), pytest.raises(KilledError):
        _promote(fleet.desk)
    fleet.servers[1].gone = True
    with pytest.raises(NoServerError):
        _rollback(fleet.desk)
    assert rollout.pending(fleet.store) is not None


def test_an_intent_that_is_no_intent_is_named(fleet: Fleet) -> None:
    for text in ("", "[]", "3", json.dumps({"from": {}, "to": {}})):
        fleet.store.write_text(rollout.INTENT, text)
        with pytest.raises(StoreError, match=r"intent.json can't be understood"):
            _promote(fleet.desk)
