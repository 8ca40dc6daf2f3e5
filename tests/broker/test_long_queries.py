"""Queries that are too long for one command, on each kind of broker."""

from __future__ import annotations

import random
from typing import Any

import pytest
from attrs import evolve
from broker_fixtures import Driver, MemoryFixture, submission
from node_fixtures import Nodes
from twisted.internet.defer import Deferred

from twisted_cm.broker.interface import BrokerUnavailable, IdempotencyKeyReused, QueueFull, UnknownRuntime
from twisted_cm.broker.redis.queries import PIECE
from twisted_cm.model.jobs import Submission
from twisted_cm.model.registry import SessionRequest

pytestmark = pytest.mark.beside_the_reactor


def long(size: int = 3 * PIECE + 1, **fields: Any) -> Submission:
    """Return a submission whose query has that many bytes, none like its neighbours."""
    return evolve(submission(), query=random.Random(size).randbytes(size), size=size, **fields)


@pytest.mark.parametrize("size", [PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 1])
def test_a_long_query_arrives_as_it_was_sent(driver: Driver, size: int) -> None:
    sent = long(size)
    job = driver.get(driver.broker.enqueue("r", sent))
    parked = driver.broker.poll("r", 10)
    assert driver.get(parked).submission.query == sent.query
    assert driver.get(driver.broker.job(job.job_id)).submission.query == sent.query


def test_a_long_query_that_is_sent_again_is_known_by_its_key(driver: Driver) -> None:
    job = driver.get(driver.broker.enqueue("r", long(key="k")))
    assert driver.get(driver.broker.enqueue("r", long(key="k"))).job_id == job.job_id
    with pytest.raises(IdempotencyKeyReused):
        driver.get(driver.broker.enqueue("r", long(3 * PIECE, key="k")))


@pytest.mark.parametrize("why", ["unknown", "jobs", "bytes", "key"])
def test_nothing_is_kept_of_a_long_query_that_is_refused(brokers: MemoryFixture, why: str) -> None:
    broker = brokers.make(queue_bytes=4 * PIECE, queue_depth=1 if why == "jobs" else 10)
    brokers.get(broker.open_session(SessionRequest("r")))
    brokers.get(broker.enqueue("r", long(2 * PIECE, key="k")))
    before = brokers.count_entries(broker)
    with pytest.raises((UnknownRuntime, QueueFull, IdempotencyKeyReused)):
        brokers.get(broker.enqueue("none" if why == "unknown" else "r", long(key="k" if why == "key" else None)))
    assert brokers.count_entries(broker) == before


def test_no_command_carries_more_than_a_piece(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = nodes.node()
    nodes.get(broker.open_session(SessionRequest("r")))
    command, sizes = broker.node.connection.command, []

    def measured(*args: str | bytes) -> Deferred[Any]:
        sizes.append(sum(map(len, args)))
        return command(*args)

    monkeypatch.setattr(broker.node.connection, "command", measured)
    nodes.get(broker.enqueue("r", long()))
    assert PIECE < max(sizes) < PIECE + 1000


def test_a_query_whose_pieces_are_lost_is_not_queued(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = nodes.node()
    nodes.get(broker.open_session(SessionRequest("r")))
    command = broker.node.connection.command

    def losing(*args: str | bytes) -> Deferred[Any]:
        if "enqueue" in args:
            key = next(each for each in nodes.server.command("KEYS", "*:query:*").split() if b":query:" in each)
            # As if Redis had been restarted, without its data, after some of the pieces.
            nodes.server.command("SETRANGE", key.decode(), str(3 * PIECE + 1), "x")
        return command(*args)

    monkeypatch.setattr(broker.node.connection, "command", losing)
    with pytest.raises(BrokerUnavailable, match="lost the query"):
        nodes.get(broker.enqueue("r", long()))
    assert nodes.get(broker.load()).queued == 0
