"""Helpers for tests of emulators that share a Redis."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest_twisted
from broker_fixtures import RedisFixture
from conftest import SEED, Harness, pause
from twisted.internet.defer import Deferred

from twisted_cm.broker.redis.broker import RedisBroker
from twisted_cm.model.jobs import Job, JobSource, Submission

BASE = "/_emulate/foundry/compute-modules"
OAUTH_SEED = (
    SEED.replace("foundry:", "foundry:\n  oauth_clients: [{client_id: app, client_secret: secret}]")
    + "      - {deployed_app_rid: ri.open, runtime_id: open}\n"
)


def stop(harness: Harness) -> None:
    """Stop an emulator, outside the reactor's greenlet."""
    pytest_twisted.blockon(harness.pool.closeCachedConnections())
    pytest_twisted.blockon(harness.service.stopService())


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds, for at most 10 seconds or so. It may return a Deferred."""
    for _ in range(2000):
        found = condition()
        if await found if isinstance(found, Deferred) else found:
            return
        await pause(0.005)
    raise AssertionError("never became true")


async def parked_polls(nodes: list[Harness]) -> list[int]:
    """Return the number of polls parked at each node."""
    return [(await each.broker.load()).parked_polls for each in nodes]


async def until_parked(nodes: list[Harness], polls: int | None = None, callers: int | None = None) -> None:
    """Wait until so many polls and so many callers are parked at some nodes together, and Redis knows of them."""

    async def reached() -> bool:
        loads = [await each.broker.load() for each in nodes]
        return (polls is None or sum(each.parked_polls for each in loads) == polls) and (
            callers is None or sum(each.parked_callers for each in loads) == callers
        )

    await until(lambda: Deferred.fromCoroutine(reached()))
    # A node counts what it has parked as soon as it has asked Redis, and Redis answers a node in order.
    await parked_polls(nodes)


def within(seconds: float, condition: Callable[[], Any]) -> Any:
    """Run the reactor until a condition holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        pytest_twisted.blockon(pause(0.01))
    raise AssertionError("never became true")


class Nodes(RedisFixture):
    """Brokers whose death the others notice soon."""

    lease = 0.4

    def hold(self, broker: RedisBroker) -> tuple[Job, Job, Job]:
        """Let a node hold all that a node can: jobs of runtime ``r``, and a poll of it that is parked.

        Returns:
            A job that it delivers, one that it has delivered, and one whose result is streamed to it.
        """
        submission = Submission("f", b"null", JobSource.CONTOUR_ASYNC)
        taken, delivered, streamed = (self.get(broker.enqueue("r", submission)) for _ in range(3))
        for _ in range(3):
            self.get(broker.poll("r", 0))
        self.get(broker.delivered(delivered.job_id, 1))
        stream = broker.new_result(streamed.job_id, None)
        assert self.get(broker.begin_result(streamed.job_id, stream))
        broker.poll("r", 1000).addErrback(lambda failure: None)
        self.settle()
        return taken, delivered, streamed

    def die(self, broker: RedisBroker) -> None:
        """End a node as a killed process ends: without leaving the others."""
        self.brokers.remove(broker)
        broker.node.connection.close()
