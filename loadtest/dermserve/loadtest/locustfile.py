"""The locustfile of `dermserve-loadtest`, also for workers."""

import random
from typing import Any

import gevent
from locust import LoadTestShape, events
from locust.runners import WorkerRunner

from dermserve.loadtest.hooks import TEST
from dermserve.loadtest.scenario import Scenario, Timeline
from dermserve.loadtest.users import ClassifyUser


class Caller(ClassifyUser):
    """Makes the scenario's calls. Every worker gets the scenario from the master."""

    def __init__(self, environment: Any) -> None:
        scenario = Scenario.model_validate_json(environment.parsed_options.scenario)
        self.host, self.mix, self.deadline, self.tls = scenario.target, scenario.mix, scenario.deadline, scenario.tls
        self._rate = scenario.rate and scenario.rate / scenario.peak_users
        self._timeline: Timeline | None = None
        super().__init__(environment)

    def on_start(self) -> None:
        """If there is a rate, begin this user's timeline at its own moment, and wait until the first call is due."""
        if self._rate:
            phase = random.random()  # noqa: S311 - no secret
            self._timeline = Timeline(self._rate, phase=phase, counted_from=TEST.counted_from)
            gevent.sleep(self._timeline.pause())

    def on_stop(self) -> None:
        """Count the calls that came due."""
        if self._timeline:
            TEST.pace.update(self._timeline.finish(TEST.counted_to))

    def wait_time(self) -> float:
        """Wait until the next call is due; not at all in a closed loop."""
        return self._timeline.pause() if self._timeline else 0.0

    def take_due(self) -> float | None:
        """Take the next time of the timeline; streams, which have none, are for closed loops."""
        return self._timeline.take() if self._timeline else None


class Shape(LoadTestShape):
    """Follows the scenario's shape."""

    abstract = True  # or Locust would use it with the web UI, which says how many users there are

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._scenario = scenario

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users now and the rate of change; None at the end."""
        users = self._scenario.users_at(self.get_run_time())  # type: ignore[no-untyped-call]
        return None if users is None else (users, float(users))


@events.init.add_listener  # type: ignore[untyped-decorator]
def _follow_shape(environment: Any, runner: Any, **_: Any) -> None:
    options = environment.parsed_options
    if options.headless and not isinstance(runner, WorkerRunner):
        environment.shape_class = Shape(Scenario.model_validate_json(options.scenario))
        environment.shape_class.runner = runner
