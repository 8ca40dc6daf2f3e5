"""
Brokers to test, each on a clock that only the test moves: in memory, on a real Redis, and as two nodes on one.

The same test runs on every bed.  What is asked of a broker has its answer at
once in memory; on Redis the bed runs the reactor until it is there, and until
everything that follows from it has happened.
"""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest_twisted
from redis_server import RedisServer
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from twisted_cm.broker.memory import MemoryBroker
from twisted_cm.broker.redis.address import parse_address
from twisted_cm.broker.redis.broker import RedisBroker
from twisted_cm.broker.redis.node import NODE_LEASE, RedisNode
from twisted_cm.model.limits import JobLimits
from twisted_cm.model.registry import Registry


class MemoryBed:
    """A broker in memory: whatever happens, happens at once."""

    def __init__(self) -> None:
        self.clock = Clock()

    def make(self, registry: Registry | None = None, **limits: Any) -> Any:
        return MemoryBroker(self.clock, registry, JobLimits(**limits))

    def get(self, deferred: Deferred[Any]) -> Any:
        """The result of a Deferred that must have one."""
        results: list[Any] = []
        errors: list[Any] = []
        deferred.addCallbacks(results.append, errors.append)
        if errors:
            errors[0].raiseException()
        assert results, "has not fired"
        return results[0]

    def settle(self) -> None:
        """Let everything happen that is to happen at this time."""

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    def timers(self) -> list[Any]:
        return list(self.clock.getDelayedCalls())

    def weight(self, broker: Any) -> int:
        """How much is kept."""
        return len(broker._jobs) + len(broker._work["r"].job_ids) + broker._finished_bytes + broker._unfinished_bytes

    def close(self) -> None:
        """Let go of the brokers."""


class _CountingNode(RedisNode):
    """A node that counts what it asks."""

    asked = 0

    def command(self, *args: str | bytes) -> Deferred[Any]:
        self.asked += 1
        return super().command(*args)


class RedisBed(MemoryBed):
    """Brokers on one Redis, on the real reactor, but for the time."""

    nodes = 1
    lease = NODE_LEASE

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server
        self.brokers: list[RedisBroker] = []
        assert server.command("FLUSHALL") == b"+OK\r\n"

    def node(self, registry: Registry | None = None, **limits: Any) -> RedisBroker:
        """One more node."""
        node = _CountingNode(reactor, parse_address(self.server.url), self.clock, self.lease)
        broker = RedisBroker(node, registry, JobLimits(**limits))
        self.brokers.append(broker)
        pytest_twisted.blockon(broker.start())
        return broker

    def make(self, registry: Registry | None = None, **limits: Any) -> Any:
        made = [self.node(registry, **limits) for _ in range(self.nodes)]
        return made[0] if len(made) == 1 else Spread(made)

    def get(self, deferred: Deferred[Any]) -> Any:
        deferred.addTimeout(10, reactor)
        result = pytest_twisted.blockon(deferred)
        self.settle()
        return result

    def settle(self) -> None:
        nodes: Any = [broker.node for broker in self.brokers if broker.node.up]
        before = None
        while before != (before := [node.asked for node in nodes]):
            for node in nodes:
                pytest_twisted.blockon(self._heard_all(node))
                # What it took to find out does not count.
                node.asked -= 1

    def _heard_all(self, node: RedisNode) -> Deferred[None]:
        """Whatever was asked or published before has been answered and heard."""
        heard: Deferred[None] = Deferred()
        node.handlers["settle"] = lambda: heard.callback(None)
        published = node.command("PUBLISH", f"{node.address.prefix}node:{node.node_id}", '["settle"]')
        return published.addCallback(lambda _: heard).addTimeout(10, reactor)

    def weight(self, broker: Any) -> int:
        counts = self.server.command("HMGET", "twisted-cm:0:counts", "finished_bytes", "unfinished_bytes")
        keys = int(self.server.command("DBSIZE")[1:])
        return keys + sum(int(count) for count in counts.split(b"\r\n") if count.isdigit())

    def close(self) -> None:
        for broker in self.brokers:
            broker.stop()
            pytest_twisted.blockon(broker.close())


class NodesBed(RedisBed):
    """Two nodes, of which each call goes to the next."""

    nodes = 2


class Spread:
    """Several brokers as one; what belongs to one of them alone goes there."""

    def __init__(self, brokers: list[RedisBroker]) -> None:
        self._brokers = brokers
        self._turn = cycle(brokers)
        self._makers: dict[Any, RedisBroker] = {}

    def new_result(self, job_id: str, content_type: str | None) -> Any:
        broker = next(self._turn)
        body = broker.new_result(job_id, content_type)
        self._makers[body] = broker
        return body

    def __getattr__(self, name: str) -> Any:
        if name == "stop":
            return lambda: gatherResults([broker.stop() for broker in self._brokers])
        if name in ("begin_result", "complete"):
            return lambda job_id, body: getattr(self._makers[body], name)(job_id, body)
        return getattr(next(self._turn), name)
