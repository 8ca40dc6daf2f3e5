"""Fixtures of the tests over HTTP and in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from conftest import SEED, Harness, make_harness, pause
from redis_server import RedisServer
from server.dashboard_fixtures import board, browser, dashboard_server
from twisted.internet.defer import Deferred
from twisted.web.http import HTTPChannel

__all__ = ["board", "browser", "dashboard_server"]


@pytest.fixture
def hasty(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """Shorten the time limits of the emulator's connections to 0.3 seconds."""
    # The emulator should not have this limit, which Twisted sets.
    monkeypatch.setattr(HTTPChannel, "abortTimeout", 0.3)
    for site in harness.sites():
        site.timeOut = site.head_timeout = site.body_timeout = site.close_timeout = site.stall_timeout = 0.3
    return harness


@pytest.fixture(params=["memory", "redis"])
def each_broker(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the settings of an emulator on each kind of broker."""
    if request.param == "memory":
        return {}
    redis: RedisServer = request.getfixturevalue("redis_server")
    assert redis.command("FLUSHALL") == b"+OK\r\n"
    return {"broker": redis.url}


@pytest.fixture
def anywhere(each_broker: dict[str, Any]) -> Iterator[Harness]:
    """Start an emulator on each kind of broker."""
    yield from served(make_harness(**each_broker))


@pytest.fixture
def checking(each_broker: dict[str, Any]) -> Iterator[Harness]:
    """Start an emulator that checks queries, on each kind of broker."""
    seed = SEED.replace("poll_timeout: 30\n", "poll_timeout: 30\n    validate_queries: true\n")
    yield from served(make_harness(seed, cors_origins=("https://app.example",), **each_broker))


def served(made: Harness) -> Iterator[Harness]:
    """Wait until an emulator listens, yield it, and stop it."""
    pytest_twisted.blockon(Deferred.fromCoroutine(_listening(made)))
    yield made
    pytest_twisted.blockon(made.pool.closeCachedConnections())
    pytest_twisted.blockon(made.service.stopService())


async def _listening(made: Harness) -> None:
    while not (await made.service.readiness())["seed"]:
        await pause(0.01)
