from collections.abc import Iterator

import pytest

from tests.client import fake_gateway


@pytest.fixture
def gateway() -> fake_gateway.FakeGateway:
    return fake_gateway.FakeGateway()


@pytest.fixture
def target(gateway: fake_gateway.FakeGateway) -> Iterator[str]:
    with fake_gateway.serving(gateway) as port:
        yield f"127.0.0.1:{port}"
