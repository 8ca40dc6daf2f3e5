"""The states of replicas, on each kind of broker."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import asdict
from broker_fixtures import Driver

from twisted_cm.broker.interface import ReplicaSnapshot
from twisted_cm.model.replicas import SILENT_AFTER, SILENT_AT_WORK_AFTER, ReplicaState

pytestmark = pytest.mark.beside_the_reactor


def state_of(driver: Driver, replica_id: str) -> str:
    return driver.replicas()[replica_id][0]


def test_the_states_of_a_replica(driver: Driver) -> None:
    driver.open("a")
    assert state_of(driver, "a") == "starting"
    driver.brokers.advance(1000)
    assert state_of(driver, "a") == "starting"
    parked = driver.park(60, replica_id="a")
    driver.brokers.advance(59)
    assert state_of(driver, "a") == "responsive"
    driver.brokers.advance(1)
    assert driver.get(parked) is None
    driver.brokers.advance(SILENT_AFTER)
    assert state_of(driver, "a") == "responsive"
    driver.brokers.advance(1)
    assert state_of(driver, "a") == "silent"
    job = driver.submit()
    assert driver.take(replica_id="a") == job.job_id
    # It does one job at a time, and does not poll meanwhile.
    driver.brokers.advance(SILENT_AT_WORK_AFTER)
    assert state_of(driver, "a") == "busy"
    driver.brokers.advance(1)
    assert state_of(driver, "a") == "silent"
    driver.get(driver.broker.open_result("r", job.job_id, "a"))
    assert state_of(driver, "a") == "busy"
    driver.complete(job)
    assert state_of(driver, "a") == "responsive"
    driver.get(driver.broker.close_replica("r", "a"))
    assert state_of(driver, "a") == "gone"


def test_a_full_replica_whose_poll_is_parked_is_never_silent(driver: Driver) -> None:
    driver.open("a")
    driver.submit()
    driver.take(replica_id="a")
    driver.park(10_000, replica_id="a")
    driver.brokers.advance(9_000)
    assert state_of(driver, "a") == "busy"


def test_what_a_replica_writes_is_a_word(driver: Driver) -> None:
    driver.open("a")
    job = driver.submit()
    driver.take(replica_id="a")
    stream = driver.broker.new_result(job.job_id, None)
    assert driver.get(driver.broker.begin_result(job.job_id, stream, "a"))
    for _ in range(3):
        driver.brokers.advance(SILENT_AT_WORK_AFTER)
        stream.write(b"x")
        driver.brokers.settle()
    driver.brokers.advance(SILENT_AT_WORK_AFTER)
    assert state_of(driver, "a") == "busy"


def test_a_runtime_is_connected_while_a_replica_is(driver: Driver) -> None:
    def connected() -> tuple[bool, int]:
        runtime = driver.get(driver.broker.runtime("r"))
        snapshot = driver.get(driver.broker.snapshot("r")).runtime
        load = driver.get(driver.broker.load())
        assert runtime.connected == snapshot.connected
        return runtime.connected, load.connected

    driver.open("a")
    assert connected() == (False, 0)
    poll = driver.park(60, replica_id="a")
    driver.brokers.advance(30)
    assert connected() == (True, 1)
    # Its process is killed.
    poll.addErrback(lambda _: None)
    poll.cancel()
    driver.brokers.settle()
    driver.brokers.advance(SILENT_AFTER + 1)
    assert connected() == (False, 0)
    driver.take()
    assert connected() == (True, 1)
    assert driver.get(driver.broker.runtime("r")).last_poll_at == 41000
    driver.get(driver.broker.close_replica("r", "a"))
    assert connected() == (True, 1)


def test_a_runtime_is_shown_with_its_replicas(driver: Driver) -> None:
    for name in ("a", "b"):
        driver.open(name, limit=2)
    job = driver.submit()
    driver.take(replica_id="a")
    driver.park(60, replica_id="a")
    driver.get(driver.broker.close_replica("r", "b"))

    def described(replicas: list[ReplicaSnapshot]) -> list[tuple[Any, ...]]:
        return [(asdict(each.replica), each.state, each.job_ids, each.parked_polls) for each in replicas]

    shown = described(driver.get(driver.broker.snapshot("r")).replicas)
    assert [(each[0]["replica_id"], *each[1:]) for each in shown] == [
        ("default", ReplicaState.STARTING, [], 0),
        ("a", ReplicaState.RESPONSIVE, [job.job_id], 1),
        ("b", ReplicaState.GONE, [], 0),
    ]
    assert shown == described(driver.get(driver.broker.replicas("r")))
    (listed,) = [each for each in driver.get(driver.broker.snapshots()) if each.runtime.runtime_id == "r"]
    assert described(listed.replicas) == shown
