import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator

import pytest

from dermserve.gateway import batching, catalog
from dermserve.gateway.budget import Costs
from tests.gateway import gateways
from tests.gateway.fake_tfserving import FakeTfServing


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function on a loop of its own, five minutes at most: a busy machine is slow."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 300))
    return True


@pytest.fixture
def tfs() -> FakeTfServing:
    """A model server with both models, version 1 each; starts when `gateways.running` does."""
    return FakeTfServing()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that takes none of several model servers for a hanging one, however long the machine stalls."""
    monkeypatch.setattr(batching, "_LATE", 100.0)
    monkeypatch.setattr(catalog, "_PATIENCE", 100.0)


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> asyncio.Semaphore:
    """Released whenever a request is in the queue for a model server, or sent at once."""
    semaphore, enter = asyncio.Semaphore(0), batching.Batching._enter

    def entering(queue: batching.Batching, *given: object, **options: object) -> None:
        enter(queue, *given, **options)
        semaphore.release()

    monkeypatch.setattr(batching.Batching, "_enter", entering)
    return semaphore


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Costs:
    """What the gateway expects calls to take, here as a test says: no clock decides, and no busy machine."""
    known = Costs()
    monkeypatch.setattr(batching, "Costs", lambda: known)
    return known


@pytest.fixture
def running(tfs: FakeTfServing):
    """`async with running(**settings) as world`: a ready gateway in front of `tfs`, both over real gRPC."""

    @contextlib.asynccontextmanager
    async def start(**settings: object) -> AsyncIterator[gateways.World]:
        async with tfs.serving() as address, gateways.running(tfs_address=address, **settings) as world:
            yield world

    return start
