"""What Locust runs for `dermserve-loadtest`; workers load it, too."""

from dermserve.loadtest.users import ScenarioUser


class Caller(ScenarioUser):
    """Makes the scenario's calls."""
