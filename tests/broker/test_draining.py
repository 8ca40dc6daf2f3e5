"""What a supervisor asks of a broker, on each kind of broker: to drain replicas, and to keep the output of jobs."""

from __future__ import annotations

import pytest
from broker_fixtures import Driver, MemoryFixture

from twisted_cm.broker.interface import UnknownJob, UnknownReplica, UnknownRuntime
from twisted_cm.model.jobs import OUTPUT_KEPT, JobState

pytestmark = pytest.mark.beside_the_reactor


def test_a_drained_replica_finishes_its_jobs_and_gets_no_more(driver: Driver) -> None:
    driver.open("old", limit=2)
    running = driver.submit()
    assert driver.take(replica_id="old") == running.job_id
    driver.get(driver.broker.drain_replica("r", "old"))
    next_job = driver.submit()
    assert driver.take(replica_id="old") is None
    assert driver.replicas()["old"] == ("busy", [running.job_id])
    driver.complete(running, b"done")
    assert driver.content(driver.now(running)) == b"done"
    assert driver.take(replica_id="old") is None
    driver.open("new")
    assert driver.take(replica_id="new") == next_job.job_id


def test_a_poll_of_a_drained_replica_stays_parked(driver: Driver) -> None:
    driver.open("old")
    poll = driver.park(5, replica_id="old")
    driver.get(driver.broker.drain_replica("r", "old"))
    job = driver.submit()
    assert driver.state(job) is JobState.QUEUED
    driver.brokers.advance(5)
    assert driver.get(poll) is None
    # A replica with the same id, opened again, gets jobs.
    driver.get(driver.broker.close_replica("r", "old"))
    driver.open("old")
    assert driver.take(replica_id="old") == job.job_id


def test_only_an_open_replica_can_be_drained(driver: Driver) -> None:
    for runtime_id, replica_id, error in (
        ("none", "a", UnknownRuntime),
        ("r", "a", UnknownReplica),
        ("r", "default", UnknownReplica),
    ):
        with pytest.raises(error):
            driver.get(driver.broker.drain_replica(runtime_id, replica_id))
    job = driver.submit()
    assert driver.take() == job.job_id


def test_the_last_output_of_a_job_is_kept(driver: Driver) -> None:
    job = driver.submit()
    assert driver.now(job).output is None
    driver.take()
    driver.get(driver.broker.keep_output(job.job_id, "first"))
    assert driver.now(job).output == "first"
    driver.complete(job)
    long = "ü" * OUTPUT_KEPT + "\nlast\n"
    driver.get(driver.broker.keep_output(job.job_id, long))
    assert driver.now(job).output == long[-OUTPUT_KEPT:]
    with pytest.raises(UnknownJob):
        driver.get(driver.broker.keep_output("none", "x"))


def test_output_counts_against_the_limit_on_kept_bytes(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, retained_bytes=1000)
    jobs = [driver.finish() for _ in range(3)]
    assert driver.kept(jobs) == [True, True, True]
    driver.get(driver.broker.keep_output(jobs[2].job_id, "x" * 999))
    assert driver.kept(jobs) == [False, False, True]
    # Less output than before makes room again.
    driver.get(driver.broker.keep_output(jobs[2].job_id, "x" * 900))
    jobs.append(driver.finish())
    assert driver.kept(jobs) == [False, False, True, True]
