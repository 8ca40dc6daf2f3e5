"""Replicas of emulators that share a Redis."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from broker_fixtures import submission
from conftest import RUNTIMES, Harness
from node_fixtures import Nodes, until_parked, within
from twisted.internet.defer import Deferred, DeferredList

from twisted_cm.broker.interface import ReplicaExists
from twisted_cm.broker.redis.broker import RedisBroker
from twisted_cm.model.jobs import JobState
from twisted_cm.model.registry import Registry
from twisted_cm.model.replicas import ModuleIdentity, ReplicaRequest
from twisted_cm.model.runtimes import Runtime


def seed() -> Registry:
    registry = Registry()
    registry.add(Runtime("r", "token-r"))
    return registry


def reconnect(broker: RedisBroker) -> None:
    """Lose the connection to Redis, and wait until the node has joined again."""
    former = broker.node.node_id
    broker.node.drop_link()
    within(10, lambda: broker.node.up and broker.node.node_id != former)


@pytest_twisted.ensureDeferred
async def test_a_replica_opened_at_one_node_is_there_at_every_other_at_once(three: list[Harness]) -> None:
    for n in range(5):
        _, replica, _ = await three[n % 3].call("POST", f"{RUNTIMES}/one/replicas", {"replicaId": "a"})
        path, token = f"{RUNTIMES}/one/replicas/a", replica["moduleAuthToken"]
        for each in three:
            poll = await each.call("GET", f"{path}/job", Module_Auth_Token=token, Prefer="wait=0")
            assert poll[0] == 204
        parked = Deferred.fromCoroutine(three[2].call("GET", f"{path}/job", Module_Auth_Token=token, Prefer="wait=60"))
        await until_parked(three, polls=1)
        assert (await three[(n + 1) % 3].call("DELETE", path, Module_Auth_Token=token))[0] == 204
        assert (await parked)[0] == 204
        for each in three:
            assert (await each.call("POST", f"{path}/restart", Module_Auth_Token=token))[0] == 401


@pytest.mark.beside_the_reactor
def test_of_those_who_open_a_replica_with_the_same_id_one_succeeds(nodes: Nodes) -> None:
    brokers = [nodes.node(seed()), nodes.node(None), nodes.node(None)]
    opening = [each.open_replica(ReplicaRequest("new", "a")) for each in brokers]
    opening += [each.open_replica(ReplicaRequest("new", f"b{n}")) for n, each in enumerate(brokers)]
    results = nodes.get(DeferredList(opening, consumeErrors=True))
    assert [succeeded for succeeded, _ in results[:3]].count(True) == 1
    assert all(result.check(ReplicaExists) for succeeded, result in results[:3] if not succeeded)
    assert [result for succeeded, result in results[3:] if not succeeded] == []
    for each in brokers:
        found = nodes.get(each.replicas("new"))
        assert sorted(one.replica.replica_id for one in found) == ["a", "b0", "b1", "b2", "default"]
        for succeeded, replica in results:
            if succeeded:
                assert nodes.get(each.module_runtime(replica.token)) == ModuleIdentity("new", replica.replica_id)


@pytest.mark.beside_the_reactor
def test_replicas_survive_that_all_nodes_are_stopped(nodes: Nodes) -> None:
    first = nodes.node(seed())
    token = nodes.get(first.open_replica(ReplicaRequest("r", "a"))).token
    jobs = [nodes.get(first.enqueue("r", submission())) for _ in range(2)]
    taken = nodes.get(first.poll("r", 0, "a"))
    nodes.get(first.delivered(taken.job_id, taken.attempts))
    nodes.brokers.remove(first)
    first.stop()
    pytest_twisted.blockon(first.close())
    second = nodes.node(seed())
    assert nodes.get(second.module_runtime(token)) == ModuleIdentity("r", "a")
    (_, replica) = nodes.get(second.replicas("r"))
    assert (replica.replica.limit, replica.job_ids, replica.state.value) == (1, [taken.job_id], "busy")
    parked = second.poll("r", 1000, "a")
    nodes.settle()
    assert not parked.called
    body = second.new_result(taken.job_id, None)
    body.write(b"x")
    nodes.get(second.complete(taken.job_id, body))
    assert nodes.get(parked).job_id == jobs[1].job_id


@pytest.mark.beside_the_reactor
def test_a_replica_whose_node_is_killed_goes_on_at_another(nodes: Nodes) -> None:
    dying, living = nodes.node(seed()), nodes.node(None)
    nodes.get(dying.open_replica(ReplicaRequest("r", "a", 2)))
    jobs = [nodes.get(living.enqueue("r", submission())) for _ in range(2)]
    delivered, lost = (nodes.get(dying.poll("r", 0, "a")) for _ in range(2))
    nodes.get(dying.delivered(delivered.job_id, 1))
    parked: Any = dying.poll("r", 1000, "a")
    parked.addErrback(lambda _: None)
    nodes.settle()
    nodes.die(dying)
    # The envelope of the second job never left, so the job goes to another poll, and frees the place that it had.
    within(10, lambda: nodes.get(living.job(lost.job_id)).state is JobState.QUEUED)
    (_, replica) = nodes.get(living.replicas("r"))
    assert (replica.job_ids, replica.parked_polls) == ([delivered.job_id], 0)
    again = nodes.get(living.poll("r", 0, "a"))
    assert (again.job_id, again.replica_id, again.attempts) == (jobs[1].job_id, "a", 2)
    full = living.poll("r", 1000, "a")
    last = nodes.get(living.enqueue("r", submission()))
    assert not full.called
    body = living.new_result(delivered.job_id, None)
    nodes.get(living.complete(delivered.job_id, body))
    assert nodes.get(full).job_id == last.job_id


@pytest.mark.beside_the_reactor
def test_parked_polls_of_replicas_survive_a_lost_connection(nodes: Nodes) -> None:
    broker = nodes.node(seed())
    for each in "ab":
        nodes.get(broker.open_replica(ReplicaRequest("r", each)))
    first = nodes.get(broker.enqueue("r", submission()))
    taken = nodes.get(broker.poll("r", 0, "a"))
    nodes.get(broker.delivered(taken.job_id, 1))
    polls = {each: broker.poll("r", 1000, each) for each in "ab"}
    nodes.settle()
    reconnect(broker)
    within(10, lambda: nodes.get(broker.snapshot("r")).parked_polls == 2)
    second = nodes.get(broker.enqueue("r", submission()))
    assert nodes.get(polls["b"]).job_id == second.job_id
    third = nodes.get(broker.enqueue("r", submission()))
    assert not polls["a"].called
    nodes.get(broker.fail_job(first.job_id, "enough"))
    assert nodes.get(polls["a"]).job_id == third.job_id


@pytest.mark.beside_the_reactor
def test_ids_may_contain_any_character(nodes: Nodes) -> None:
    broker = nodes.node(None)
    pairs = [("a:b", "c"), ("a", "b:c"), ("3:a:b", "c"), ("ü\n", "\u2028:"), ("1", "1:1")]
    for runtime_id, replica_id in pairs:
        nodes.get(broker.open_replica(ReplicaRequest(runtime_id, replica_id)))
    parked = [broker.poll(runtime_id, 1000, replica_id) for runtime_id, replica_id in pairs]
    nodes.settle()
    reconnect(broker)
    for (runtime_id, replica_id), poll in zip(pairs, parked, strict=True):
        job = nodes.get(broker.enqueue(runtime_id, submission()))
        got = nodes.get(poll)
        assert (got.job_id, got.runtime_id, got.replica_id) == (job.job_id, runtime_id, replica_id)
        (_, replica) = nodes.get(broker.replicas(runtime_id))
        assert replica.job_ids == [job.job_id]
