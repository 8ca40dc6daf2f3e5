"""Broker fixtures: brokers on a clock that only the test moves, and a driver for them.

The same tests run on each kind of broker. A broker in memory answers at once. With Redis, the fixture runs the reactor
until the answer has arrived, and until everything that follows from it has happened.
"""

from __future__ import annotations

import gc
import json
from itertools import cycle
from typing import Any

import pytest
import pytest_twisted
from conftest import result_of
from redis_server import RedisServer
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from twisted_cm.broker.memory import MemoryBroker
from twisted_cm.broker.redis.address import Address, parse_address
from twisted_cm.broker.redis.broker import RedisBroker
from twisted_cm.broker.redis.node import NODE_LEASE, RedisNode
from twisted_cm.model.jobs import Job, JobFilter, JobSource, JobState, Submission
from twisted_cm.model.limits import JobLimits
from twisted_cm.model.registry import Registry, SessionRequest
from twisted_cm.model.replicas import DEFAULT_REPLICA, Replica, ReplicaRequest
from twisted_cm.model.runtimes import Runtime


class MemoryFixture:
    """Creates brokers in memory.

    Attributes:
        clock: The clock of the brokers.
    """

    def __init__(self) -> None:
        self.clock = Clock()

    def make(self, registry: Registry | None = None, **limits: Any) -> Any:
        """Create a broker."""
        return MemoryBroker(self.clock, registry, JobLimits(**limits))

    def members(self, broker: Any) -> list[Any]:
        """Return the brokers that :meth:`make` made as one, each of which a process would have."""
        return [broker]

    def get(self, deferred: Deferred[Any]) -> Any:
        """Return the result of a Deferred that must have one, or raise its exception."""
        return result_of(deferred)

    def settle(self) -> None:
        """Let everything happen that is due now."""

    def advance(self, seconds: float) -> None:
        """Move the clock, and let everything happen that is then due."""
        self.clock.advance(seconds)
        self.settle()

    def timers(self) -> list[Any]:
        """Return the timers that are set."""
        return list(self.clock.getDelayedCalls())

    def count_entries(self, broker: Any) -> int:
        """Count the entries that a broker keeps, to see whether it forgets what it should.

        No interface tells this. The count covers every dictionary that the broker's objects hold, whatever its name.
        """
        entries, seen, found = 0, set(), [broker]
        while found:
            each = found.pop()
            if id(each) in seen or not (isinstance(each, dict) or type(each).__module__.startswith("twisted_cm.")):
                continue
            seen.add(id(each))
            if isinstance(each, dict):
                entries += len(each)
            found += gc.get_referents(each)
        return entries

    def close(self) -> None:
        """Stop the brokers."""


class _CountingNode(RedisNode):
    """A node that counts the commands it sends."""

    asked = 0

    def command(self, *args: str | bytes) -> Deferred[Any]:
        self.asked += 1
        return super().command(*args)

    def send(self, operation: str, *args: str | bytes) -> Deferred[Any]:
        self.asked += 1
        return super().send(operation, *args)


class RedisFixture(MemoryFixture):
    """Creates brokers on one Redis. They use the real reactor, but the fixture's clock.

    Attributes:
        nodes: How many nodes :meth:`make` creates.
        lease: Seconds until a node that sends no heartbeat counts as dead.
        server: The Redis.
        brokers: The brokers that were created.
    """

    nodes = 1
    lease = NODE_LEASE

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.server = server
        self.brokers: list[RedisBroker] = []
        assert server.command("FLUSHALL") == b"+OK\r\n"

    def node(self, registry: Registry | None = None, address: Address | None = None, **limits: Any) -> RedisBroker:
        """Create one more node.

        Args:
            address: Where Redis is, if the node does not reach it directly.
        """
        node = _CountingNode(reactor, address or parse_address(self.server.url), self.clock, self.lease)
        broker = RedisBroker(node, registry, JobLimits(**limits))
        self.brokers.append(broker)
        pytest_twisted.blockon(broker.start())
        return broker

    def make(self, registry: Registry | None = None, **limits: Any) -> Any:
        made = [self.node(registry, **limits) for _ in range(self.nodes)]
        return made[0] if len(made) == 1 else _Alternating(made)

    def members(self, broker: Any) -> list[Any]:
        return list(self.brokers)

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
                # The command of _heard_all does not count.
                node.asked -= 1

    def _heard_all(self, node: RedisNode) -> Deferred[None]:
        """Wait until a node has heard everything that was sent or published before."""
        heard: Deferred[None] = Deferred()
        node.handlers["settle"] = lambda: heard.callback(None)
        published = node.command("PUBLISH", f"{node.address.prefix}node:{node.node_id}", '["settle"]')
        return published.addCallback(lambda _: heard).addTimeout(10, reactor)

    def count_entries(self, broker: Any) -> int:
        counts = self.server.command("HMGET", "twisted-cm:0:counts", "finished_bytes", "unfinished_bytes")
        keys = int(self.server.command("DBSIZE")[1:])
        return keys + sum(int(count) for count in counts.split(b"\r\n") if count.isdigit())

    def close(self) -> None:
        for broker in self.brokers:
            broker.stop()
            pytest_twisted.blockon(broker.close())


class NodesFixture(RedisFixture):
    """Creates two nodes at a time, which take turns: each call goes to the next."""

    nodes = 2


class _Alternating:
    """Several brokers as one. Each call goes to the next broker, but a result stays with the one that created it."""

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
            return lambda job_id, body, *args: getattr(self._makers[body], name)(job_id, body, *args)
        return getattr(next(self._turn), name)


#: The kinds of broker that each test runs on.
KINDS = ("memory", "redis", "nodes")


def make_fixture(kind: str, request: pytest.FixtureRequest) -> MemoryFixture:
    """Return the broker fixture of one of :data:`KINDS`."""
    if kind == "memory":
        return MemoryFixture()
    server: RedisServer = request.getfixturevalue("redis_server")
    return RedisFixture(server) if kind == "redis" else NodesFixture(server)


def submission(query: Any = None, size: int = 0) -> Submission:
    """Return a submission of the function ``f``."""
    sent = json.dumps(query).encode()
    return Submission("f", sent, JobSource.CONTOUR_SYNC, size=size)


class Driver:
    """A broker with one runtime called ``r``, and the steps that tests take with it, each to its end.

    Attributes:
        brokers: The fixture that created the broker.
        broker: The broker.
    """

    def __init__(self, brokers: MemoryFixture, registry: Registry | None = None, **limits: Any) -> None:
        self.brokers = brokers
        self.broker = brokers.make(registry, **limits)
        self.get = brokers.get
        if registry is None:
            self.session("r")

    def session(self, runtime_id: str, *args: Any, **kwargs: Any) -> Runtime:
        """Open a session."""
        opened: Runtime = self.get(self.broker.open_session(SessionRequest(runtime_id, *args, **kwargs)))
        return opened

    def open(self, replica_id: str | None = None, limit: int = 1, runtime_id: str = "r", **kwargs: Any) -> Replica:
        """Open a replica."""
        opened: Replica = self.get(self.broker.open_replica(ReplicaRequest(runtime_id, replica_id, limit, **kwargs)))
        return opened

    def replicas(self, runtime_id: str = "r") -> dict[str, tuple[str, list[str]]]:
        """Return the state of each replica and the jobs that are on it."""
        found = self.get(self.broker.replicas(runtime_id))
        return {each.replica.replica_id: (each.state.value, each.job_ids) for each in found}

    def submit(self, query: Any = None, runtime_id: str = "r", size: int = 0, held: bool = False) -> Job:
        """Enqueue a job."""
        job: Job = self.get(self.broker.enqueue(runtime_id, submission(query, size), held=held))
        return job

    def take(self, runtime_id: str = "r", wait: float = 0, replica_id: str = DEFAULT_REPLICA) -> str | None:
        """Poll, and return the id of the job."""
        job = self.get(self.broker.poll(runtime_id, wait, replica_id))
        return None if job is None else str(job.job_id)

    def park(self, wait: float, runtime_id: str = "r", replica_id: str = DEFAULT_REPLICA) -> Deferred[Any]:
        """Park a poll."""
        poll: Deferred[Any] = self.broker.poll(runtime_id, wait, replica_id)
        self.brokers.settle()
        return poll

    def call(self, job: Job, timeout: float = 1000) -> Deferred[Any]:
        """Park a caller."""
        waiting: Deferred[Any] = self.broker.wait_result(job.job_id, timeout)
        self.brokers.settle()
        return waiting

    def result(self, job: Job, content: bytes) -> Any:
        """Write a result that is not the job's yet."""
        body = self.broker.new_result(job.job_id, "application/octet-stream")
        body.write(content)
        return body

    def complete(self, job: Job, content: bytes = b"x") -> None:
        """Finish a job with a result."""
        self.get(self.broker.complete(job.job_id, self.result(job, content)))

    def finish(self, content: bytes = b"x", size: int = 0) -> Job:
        """Enqueue a job, dispatch it and finish it."""
        job = self.submit(size=size)
        self.take()
        self.complete(job, content)
        return job

    def now(self, job: Job) -> Job:
        """Return a job as the broker has it now."""
        found: Job = self.get(self.broker.job(job.job_id))
        return found

    def state(self, job: Job) -> JobState:
        """Return the state that a job has now."""
        return self.now(job).state

    def content(self, job: Job) -> bytes:
        """Return the result of a job."""
        assert job.result is not None
        content: bytes = self.get(job.result.read(0, job.result.size))
        return content

    def kept(self, jobs: list[Job]) -> list[bool]:
        """Return for each job whether the broker keeps it."""
        found = {job.job_id for job in self.get(self.broker.jobs(JobFilter(), 10_000))}
        return [job.job_id in found for job in jobs]
