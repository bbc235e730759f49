"""What can keep a load test from running. Each message says what is wrong and what to do.

LoadTestError
├── ScenarioError    the test can't be understood
├── PhotosError      there are no photos to send
├── ServerError      no gateway answers, or it lacks a model
└── GeneratorError   Locust ended without a result
"""


class LoadTestError(Exception):
    """Base."""

    exit_code = 1


class ScenarioError(LoadTestError):
    """The test can't be understood."""

    exit_code = 2


class PhotosError(LoadTestError):
    """There are no photos to send."""

    exit_code = 2


class ServerError(LoadTestError):
    """No gateway answers, or it lacks a model."""

    exit_code = 3


class GeneratorError(LoadTestError):
    """Locust ended without a result."""
