"""What a node does without asking Redis, or together with something else that it asks."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import pause
from node_fixtures import Nodes, within
from twisted.internet.defer import CancelledError

from twisted_cm.broker.interface import BrokerUnavailable, UnknownJob
from twisted_cm.broker.redis import handovers
from twisted_cm.broker.redis.broker import RedisBroker
from twisted_cm.broker.redis.handovers import SOON
from twisted_cm.broker.redis.node import RedisNode
from twisted_cm.model.jobs import Job, JobSource, JobState, Submission
from twisted_cm.model.registry import SessionRequest
from twisted_cm.model.replicas import ReplicaRequest

KEYS = "twisted-cm:0:"
SUBMISSION = Submission("f", b"null", JobSource.CONTOUR_ASYNC)

pytestmark = pytest.mark.beside_the_reactor


def start(nodes: Nodes, **limits: Any) -> RedisBroker:
    """Start a node with the runtime ``r`` that sends no heartbeat during the test."""
    nodes.lease = 50
    node = nodes.node(**limits)
    nodes.get(node.open_session(SessionRequest("r")))
    return node


def take(nodes: Nodes, node: RedisBroker) -> Job:
    """Enqueue a job and dispatch it."""
    nodes.get(node.enqueue("r", SUBMISSION))
    job: Job = nodes.get(node.poll("r", 0))
    return job


def handing(nodes: Nodes, node: RedisBroker) -> int:
    """Return how many jobs the node is handing over, as far as Redis knows."""
    return int(nodes.server.command("SCARD", f"{KEYS}handing:{node.node.node_id}")[1:])


def result_of(node: RedisBroker, job: Job) -> Any:
    """Return a small result, to complete a job with."""
    result = node.new_result(job.job_id, None)
    result.write(b"result")
    return result


def test_what_was_delivered_is_told_though_nothing_else_is_sent(nodes: Nodes) -> None:
    node = start(nodes)
    jobs = [take(nodes, node) for _ in range(2)]
    assert handing(nodes, node) == 2
    before = nodes.server.operations()
    told = [node.delivered(each.job_id, 1) for each in jobs]
    within(5, lambda: handing(nodes, node) == 0)
    for each in told:
        nodes.get(each)
    assert nodes.server.operations() == before + 1


def test_a_job_whose_result_comes_at_once_is_told_with_its_result(nodes: Nodes) -> None:
    node = start(nodes)
    job = take(nodes, node)
    before = nodes.server.operations()
    told = node.delivered(job.job_id, 1)
    nodes.get(node.complete(job.job_id, result_of(node, job)))
    assert told.called
    assert handing(nodes, node) == 0
    nodes.get(pause(2 * SOON))
    assert nodes.server.operations() == before + 1


def test_a_job_was_delivered_though_redis_refuses_its_result(nodes: Nodes) -> None:
    node = start(nodes)
    node_id, job = node.node.node_id, take(nodes, node)
    nodes.server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        told = node.delivered(job.job_id, 1)
        with pytest.raises(BrokerUnavailable):
            nodes.get(node.complete(job.job_id, result_of(node, job)))
        nodes.get(told)
        assert handing(nodes, node) == 0
    finally:
        nodes.server.command("CONFIG", "SET", "maxmemory", "0")
    nodes.get(node.complete(job.job_id, result_of(node, job)))
    assert nodes.get(node.job(job.job_id)).state is JobState.SUCCEEDED
    assert node.node.node_id == node_id


def test_a_job_that_is_delivered_again_is_told_twice(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handovers, "SOON", 60)
    node = start(nodes)
    job = take(nodes, node)
    first = node.delivered(job.job_id, 1)
    nodes.get(node.deliver_again(job.job_id))
    assert nodes.get(node.poll("r", 0)).job_id == job.job_id
    assert handing(nodes, node) == 1
    second = node.delivered(job.job_id, 1)
    nodes.get(first)
    assert not second.called
    nodes.get(node.complete(job.job_id, result_of(node, job)))
    assert second.called
    assert handing(nodes, node) == 0


def test_a_delivery_is_told_though_the_post_of_an_earlier_one_is_given_up(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handovers, "SOON", 60)
    node = start(nodes)
    job = take(nodes, node)
    nodes.get(node.deliver_again(job.job_id))
    first = node.delivered(job.job_id, 1)
    assert nodes.get(node.poll("r", 0)).job_id == job.job_id
    completing = node.complete(job.job_id, result_of(node, job))
    completing.addErrback(lambda failure: failure.trap(CancelledError))
    second = node.delivered(job.job_id, 1)
    completing.cancel()
    nodes.get(first)
    assert not second.called
    nodes.get(node.complete(job.job_id, result_of(node, job)))
    assert second.called


def test_what_is_delivered_while_the_node_joins_is_told_when_it_has_joined(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(nodes)
    jobs = [take(nodes, node) for _ in range(2)]
    subscribe = node.node.connection.subscribe
    told = []

    async def slowly(channel: bytes) -> None:
        # The node has a new id, under which it is not a member yet.
        told.append(node.delivered(jobs[len(told)].job_id, 1))
        await pause(2 * SOON)
        await subscribe(channel)

    monkeypatch.setattr(node.node.connection, "subscribe", slowly)
    node.node.drop_link()
    for _ in range(2):
        within(5, lambda: told and node.node.up)
    for each in told:
        nodes.get(each)
    assert len(told) == 2
    assert handing(nodes, node) == 0


@pytest.mark.parametrize("full", [False, True])
def test_what_was_delivered_is_told_before_the_node_leaves(nodes: Nodes, full: bool) -> None:
    node, other = start(nodes), nodes.node()
    job, late = take(nodes, node), take(nodes, node)
    told = [node.delivered(job.job_id, 1)]
    if full:
        nodes.server.command("CONFIG", "SET", "maxmemory", "1")
        refused = node.complete(job.job_id, result_of(node, job))
        refused.addErrback(lambda failure: failure.trap(BrokerUnavailable))
    nodes.brokers.remove(node)
    node.stop()
    closing = node.close()
    told.append(node.delivered(late.job_id, 1))
    nodes.get(closing)
    nodes.server.command("CONFIG", "SET", "maxmemory", "0")
    nodes.get(told[0])
    # The node had left already, so the job is given back.
    told[1].addErrback(lambda failure: failure.trap(BrokerUnavailable))
    assert told[1].called
    assert [nodes.get(other.job(each.job_id)).state for each in (job, late)] == [JobState.RUNNING, JobState.QUEUED]


def test_a_poll_whose_time_passes_before_redis_answers_gets_no_job(nodes: Nodes) -> None:
    node = start(nodes)
    poll = node.poll("r", 5)
    nodes.clock.advance(5)
    assert nodes.get(poll) is None
    assert nodes.get(node.snapshot("r")).parked_polls == 0


def test_a_poll_ends_in_time_though_its_job_came_too_late_and_redis_is_away(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(nodes)
    nodes.get(node.enqueue("r", SUBMISSION))
    # As if the process had been suspended before the answer came.
    monkeypatch.setattr(RedisNode, "stale", True)
    poll = node.poll("r", 2)

    async def away(protocol: Any) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(node.node.connection, "greet", away)
    within(5, lambda: not node.node.up)
    nodes.clock.advance(2)
    assert nodes.get(poll) is None


def test_a_poll_is_parked_though_nothing_else_is_sent(nodes: Nodes) -> None:
    node = start(nodes)
    node.poll("r", 1000).addErrback(lambda failure: None)
    within(5, lambda: nodes.server.command("ZCARD", f"{KEYS}polls:1:r:default") == b":1\r\n")


def test_a_poll_gets_the_job_of_a_caller_of_its_node_that_has_gone(nodes: Nodes) -> None:
    node = start(nodes)
    poll = node.poll("r", 1000)
    nodes.settle()
    submitting = node.enqueue("r", SUBMISSION)
    submitting.addErrback(lambda failure: None)
    # What the node hears comes with a reply that nobody waits for any more.
    submitting.cancel()
    nodes.settle()
    assert nodes.get(poll).attempts == 1


def test_redis_is_not_asked_for_a_job_that_this_node_has_dispatched(nodes: Nodes) -> None:
    node, other = start(nodes), nodes.node()
    job = take(nodes, node)
    opened = node.open_result("r", job.job_id)
    assert opened.called
    assert nodes.get(opened).job_id == job.job_id
    for wrong in (node.open_result("s", job.job_id), node.open_result("r", "unknown")):
        assert not wrong.called
        with pytest.raises(UnknownJob):
            nodes.get(wrong)
    elsewhere = other.open_result("r", job.job_id)
    assert not elsewhere.called
    assert nodes.get(elsewhere).state is JobState.RUNNING


def test_redis_is_asked_for_a_job_with_a_lease_which_it_renews(nodes: Nodes) -> None:
    node = start(nodes, lease=10)
    job = take(nodes, node)
    opened = node.open_result("r", job.job_id)
    assert not opened.called
    assert nodes.get(opened).job_id == job.job_id


@pytest.mark.parametrize("ended", ["canceled", "forgotten"])
def test_what_became_of_a_job_meanwhile_counts_when_its_result_is_whole(nodes: Nodes, ended: str) -> None:
    node, other = start(nodes), nodes.node()
    job = take(nodes, node)
    if ended == "canceled":
        assert nodes.get(other.cancel(job.job_id, "no longer wanted"))
    else:
        nodes.get(other.open_session(SessionRequest("r")))
    nodes.get(node.open_result("r", job.job_id))
    result = node.new_result(job.job_id, None)
    result.write(b"late")
    if ended == "canceled":
        nodes.get(node.complete(job.job_id, result))
        assert nodes.get(node.job(job.job_id)).state is JobState.CANCELED
    else:
        with pytest.raises(UnknownJob):
            nodes.get(node.complete(job.job_id, result))


def test_a_replica_is_heard_when_it_posts_a_result_late(nodes: Nodes) -> None:
    node = start(nodes)
    nodes.get(node.open_replica(ReplicaRequest("r", "a", 1)))
    nodes.get(node.enqueue("r", SUBMISSION))
    job = nodes.get(node.poll("r", 0, "a"))
    for seconds, heard in ((1, 0), (5, 6000)):
        nodes.advance(seconds)
        nodes.get(node.open_result("r", job.job_id, "a"))
        replica = next(each.replica for each in nodes.get(node.replicas("r")) if each.replica.replica_id == "a")
        assert replica.last_heard_at == heard


def test_a_post_for_which_redis_was_not_asked_does_not_wait_for_it(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = start(nodes)
    job = take(nodes, node)
    nodes.get(node.open_result("r", job.job_id))
    result = node.new_result(job.job_id, None)

    async def away(protocol: Any) -> None:
        raise BrokerUnavailable("away")

    monkeypatch.setattr(node.node.connection, "greet", away)
    node.node.drop_link()
    within(5, lambda: not node.node.up)
    result.write(b"x" * 100_000)
    with pytest.raises(BrokerUnavailable):
        nodes.get(node.complete(job.job_id, result))
