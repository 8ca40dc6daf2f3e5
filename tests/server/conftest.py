"""Fixtures of the tests over HTTP and in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from conftest import SEED, Harness, make_harness, pause
from redis_server import RedisServer
from server.dashboard_fixtures import board, browser, chromium, dashboard_server, whole_chromium
from server.sign_in_steps import confidential, emulators, public
from twisted.internet.defer import Deferred
from twisted.web.http import HTTPChannel

__all__ = [
    "board",
    "browser",
    "chromium",
    "confidential",
    "dashboard_server",
    "emulators",
    "public",
    "whole_chromium",
]


@pytest.fixture
def hasty(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """Shorten the time limits of the emulator's connections to 0.3 seconds."""
    # The emulator should not have this limit, which Twisted sets.
    monkeypatch.setattr(HTTPChannel, "abortTimeout", 0.3)
    for site in harness.sites():
        site.idle_timeout = site.head_timeout = site.body_timeout = site.close_timeout = site.stall_timeout = 0.3
    return harness


@pytest.fixture(params=["memory", "redis"])
def start_anywhere(request: pytest.FixtureRequest) -> Iterator[Callable[..., Harness]]:
    """Return a function that starts an emulator, with more settings; there is one for each kind of broker."""
    started: list[Harness] = []
    broker = None
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis_server")
        assert redis.command("FLUSHALL") == b"+OK\r\n"
        broker = redis.url

    def start(**settings: Any) -> Harness:
        started.append(make_harness(broker=broker, **settings))
        pytest_twisted.blockon(Deferred.fromCoroutine(_listening(started[-1])))
        return started[-1]

    yield start
    for made in started:
        pytest_twisted.blockon(made.pool.closeCachedConnections())
        pytest_twisted.blockon(made.service.stopService())


@pytest.fixture
def anywhere(start_anywhere: Callable[..., Harness]) -> Harness:
    """Start an emulator on each kind of broker."""
    return start_anywhere()


@pytest.fixture
def checking(start_anywhere: Callable[..., Harness]) -> Harness:
    """Start an emulator that checks queries, on each kind of broker."""
    seed = SEED.replace("poll_timeout: 30\n", "poll_timeout: 30\n    validate_queries: true\n")
    return start_anywhere(seed=seed, cors_origins=("https://app.example",))


async def _listening(made: Harness) -> None:
    while not (await made.service.readiness())["seed"]:
        await pause(0.01)
