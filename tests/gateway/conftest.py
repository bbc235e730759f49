import asyncio
import contextlib
import inspect
import socket
from collections.abc import AsyncIterator

import pytest

from tests.gateway import gateways
from tests.gateway.fake_tfserving import FakeTfServing


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function on a loop of its own, a minute at most."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 60))
    return True


@pytest.fixture
def tfs() -> FakeTfServing:
    """A model server with both models, version 1 each; starts when `gateways.running` does."""
    return FakeTfServing()


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def running(tfs: FakeTfServing):
    """`async with running(**settings) as world`: a ready gateway in front of `tfs`, both over real gRPC."""

    @contextlib.asynccontextmanager
    async def start(**settings: object) -> AsyncIterator[gateways.World]:
        async with tfs.serving() as address, gateways.running(tfs_address=address, **settings) as world:
            yield world

    return start
