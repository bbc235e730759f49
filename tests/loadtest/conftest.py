import time
from typing import Any

import pytest

from tests.client import conftest, fake_gateway

target = conftest.target  # a fixture
_ANSWER_SECONDS = 0.1


class Gateway(fake_gateway.FakeGateway):
    """One that takes its time, as callers without a pause would otherwise take all of the processor."""

    def at_once(self, *asked: Any) -> Any:
        time.sleep(_ANSWER_SECONDS)
        return super().at_once(*asked)

    def item(self, *asked: Any) -> Any:
        time.sleep(_ANSWER_SECONDS)
        return super().item(*asked)


@pytest.fixture
def gateway() -> fake_gateway.FakeGateway:
    return Gateway()
