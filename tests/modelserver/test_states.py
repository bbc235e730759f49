import threading

import pytest

from dermserve.modelserver.errors import ServingError, not_found
from dermserve.modelserver.states import (
    Action,
    Monitor,
    Phase,
    Snapshot,
    State,
    VersionState,
    forbidden_label,
    next_action,
)

NEW, LOADING, READY, UNLOADING, ENDED = Phase.NEW, Phase.LOADING, Phase.READY, Phase.UNLOADING, Phase.ENDED


def wanted(version: int, phase: Phase) -> Snapshot:
    return Snapshot(version, phase, aspired=True)


def surplus(version: int, phase: Phase) -> Snapshot:
    return Snapshot(version, phase, aspired=False)


@pytest.mark.parametrize(
    ("versions", "action"),
    [
        ([], None),
        ([wanted(1, NEW), wanted(2, NEW)], Action(2, load=True)),
        ([wanted(1, NEW), wanted(2, LOADING)], Action(1, load=True)),
        ([wanted(1, READY)], None),
        ([surplus(1, READY), wanted(2, NEW)], Action(2, load=True)),
        ([surplus(1, READY), wanted(2, LOADING)], None),
        ([surplus(1, READY), wanted(2, READY)], Action(1, load=False)),
        ([surplus(1, READY), wanted(2, ENDED)], None),
        ([surplus(1, READY), surplus(2, READY), wanted(3, NEW)], Action(1, load=False)),
        ([surplus(1, READY)], Action(1, load=False)),
        ([surplus(1, UNLOADING), wanted(2, NEW)], Action(2, load=True)),
        ([surplus(1, NEW), surplus(2, ENDED)], None),
    ],
)
def test_a_model_is_never_left_without_a_version_while_there_is_one(
    versions: list[Snapshot], action: Action | None
) -> None:
    assert next_action(versions) == action


@pytest.mark.parametrize(
    ("labels", "current", "allow", "forbidden"),
    [
        ({"stable": 1}, {}, False, None),
        ({"stable": 2}, {}, False, 2),
        ({"stable": 2}, {"stable": 2}, False, 2),
        ({"stable": 2}, {}, True, None),
        ({"stable": 2}, {"stable": 2}, True, None),
        ({"stable": 2}, {"stable": 1}, True, 2),
        ({"stable": 1}, {"stable": 2}, True, None),
        ({"a": 1, "b": 1}, {}, False, None),
        ({"a": 1, "b": 9}, {}, False, 9),
    ],
)
def test_a_label_points_to_an_available_version_or_is_new_where_that_is_allowed(
    labels: dict[str, int], current: dict[str, int], allow: bool, forbidden: int | None
) -> None:
    assert forbidden_label(labels, current=current, available={1}, allow_unavailable=allow) == forbidden


def test_the_monitor_keeps_the_last_state_of_each_version_and_the_highest_comes_first() -> None:
    monitor = Monitor()
    for version, state in ((1, State.START), (2, State.START), (1, State.END)):
        monitor.publish(VersionState("m", version, state))
    assert [(number, one.state) for number, one in monitor.versions("m").items()] == [(2, State.START), (1, State.END)]
    assert monitor.versions("unknown") == {}
    assert monitor.count(State.END) == 1


def test_waiting_ends_when_each_model_has_a_version_or_a_failure() -> None:
    monitor, failure = Monitor(), not_found("no such file")
    answers: list[list[VersionState]] = []
    waiter = threading.Thread(target=lambda: answers.append(monitor.wait_settled(["a", "b"])))
    waiter.start()
    monitor.publish(VersionState("a", 1, State.AVAILABLE))
    assert waiter.is_alive()
    monitor.publish(VersionState("b", 4, State.END, failure))
    waiter.join(10)
    assert [state.describe() for state in answers[0]] == [
        "{{name: b version: 4} due to error: NOT_FOUND: no such file}, "
    ]


def test_a_broken_version_does_not_outweigh_a_good_one() -> None:
    monitor = Monitor()
    for version, state in ((1, State.START), (2, State.START), (2, State.END)):
        monitor.publish(VersionState("m", version, state))
    answers: list[list[VersionState]] = []
    waiter = threading.Thread(target=lambda: answers.append(monitor.wait_settled(["m"])))
    waiter.start()
    monitor.publish(VersionState("m", 1, State.AVAILABLE))
    waiter.join(10)
    assert answers == [[]]


def test_closing_lets_go_who_waits() -> None:
    monitor = Monitor()
    caught: list[ServingError] = []

    def wait() -> None:
        try:
            monitor.wait_settled(["never"])
        except ServingError as error:
            caught.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    monitor.close()
    waiter.join(10)
    assert [error.code.name for error in caught] == ["UNAVAILABLE"]
