"""The shape of a test, as Locust wants it; loaded beside a locustfile."""

from locust import LoadTestShape

from dermserve.loadtest.scenario import Scenario
from dermserve.loadtest.shapes import users_at
from dermserve.loadtest.users import ENDING, RECORDER, WORKERS


class Shape(LoadTestShape):
    """Follows the scenario's shape."""

    _held = False

    def tick(self) -> tuple[int, float] | None:
        """Give the users wanted now and how quickly to get there; None at the end."""
        if ENDING.is_set() or any(workers.failed for workers in WORKERS):
            return None
        if not all(workers.ready() for workers in WORKERS):  # the test begins once all have their photos
            self._held = True
            return 0, 1.0
        if self._held:
            self._held = False
            self.reset_time()  # type: ignore[no-untyped-call]
            RECORDER.clear()
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        scenario = Scenario.from_json(options.scenario)
        users = users_at(
            scenario.shape,
            seconds=self.get_run_time(),  # type: ignore[no-untyped-call]
            run_time=scenario.run_time,
            peak=scenario.peak_users,
        )
        return None if users is None else (users, float(max(users, 1)))
