"""Brokers of each kind, and emulators that share a Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import pytest_twisted
from broker_fixtures import KINDS, Driver, MemoryFixture, make_fixture
from conftest import Harness, make_harness
from node_fixtures import OAUTH_SEED, Nodes, stop
from redis_server import KEEPS_ALL, RedisServer


@pytest.fixture(params=KINDS)
def brokers(request: pytest.FixtureRequest) -> Iterator[MemoryFixture]:
    """Run the test on each kind of broker."""
    made = make_fixture(request.param, request)
    yield made
    made.close()


@pytest.fixture
def driver(brokers: MemoryFixture) -> Driver:
    """Drive a broker without limits."""
    return Driver(brokers)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """Start a Redis that only this test uses, and that keeps its data when it is restarted."""
    with closing(RedisServer(*KEEPS_ALL)) as server:
        yield server


@pytest.fixture
def three(redis: RedisServer) -> Iterator[list[Harness]]:
    """Start three emulators that share a Redis."""
    made = [make_harness(OAUTH_SEED, broker=redis.url) for _ in range(3)]
    for each in made:
        pytest_twisted.blockon(each.broker.node.when_up())
    yield made
    for each in made:
        stop(each)


@pytest.fixture
def nodes(redis_server: RedisServer) -> Iterator[Nodes]:
    """Provide brokers on one Redis, whose death the others notice soon."""
    made = Nodes(redis_server)
    yield made
    made.close()
