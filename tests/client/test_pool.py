"""Test the pool that knows and closes all connections."""

from __future__ import annotations

import gc

import pytest
import pytest_twisted
from client_helpers import application, begin_stream, never_ending, runtime, start, until
from conftest import Harness, logged
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.web.client import Agent

from twisted_cm.client import ResultBrokenOff
from twisted_cm.client.connections import https_policy
from twisted_cm.client.pool import ConnectionPool


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_closing_a_pool_closes_idle_and_busy_connections(harness: Harness, scheme: str) -> None:
    pool = ConnectionPool(reactor)
    agent = Agent(reactor, https_policy(harness.service.addresses.ca_certificate), pool=pool)
    modules = application(harness, scheme, agent=agent)
    async with runtime(harness, scheme) as module:
        stream, first, posted = await begin_stream(modules, module, never_ending(b"a"))
        await first
        await modules.submit("ri.two", "f")
        assert pool.open_connections == 2
        following = start(stream.__anext__())
        await pool.close()
        assert pool.open_connections == 0
        with pytest.raises(ResultBrokenOff):
            await following
        # An empty pool can be closed, and a closed pool opens new connections.
        await pool.close()
        await modules.submit("ri.two", "f")
        assert pool.open_connections == 1
        await pool.close()
        posted.cancel()
        with pytest.raises(CancelledError):
            await posted


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_stream_through_another_agent_can_be_closed(harness: Harness, scheme: str) -> None:
    agent = Agent(reactor, https_policy(harness.service.addresses.ca_certificate))
    async with application(harness, scheme, agent=agent) as modules, runtime(harness, scheme) as module:
        stream, first, posted = await begin_stream(modules, module, never_ending(*[bytes(65536)] * 16))
        await first
        await until(lambda: stream.buffered)
        await stream.aclose()
        await harness.until(lambda: harness.connections() == 1)
        assert not posted.called
        posted.cancel()
        with pytest.raises(CancelledError):
            await posted


@pytest_twisted.ensureDeferred
async def test_the_wait_for_the_end_of_connections_can_be_canceled(harness: Harness) -> None:
    pool = ConnectionPool(reactor)
    modules = application(harness, agent=Agent(reactor, pool=pool))
    await modules.submit("ri.two", "f")
    with logged("Unhandled") as lines:
        closing = start(pool.close())
        closing.cancel()
        with pytest.raises(CancelledError):
            await closing
        await until(lambda: not pool.open_connections)
        gc.collect()
    assert lines == []
