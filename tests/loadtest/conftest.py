import socket

import pytest

from tests.client import conftest

gateway, target = conftest.gateway, conftest.target  # fixtures


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
