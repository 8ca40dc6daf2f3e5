"""Leases of dispatched jobs, on each kind of broker."""

from __future__ import annotations

import pytest
from broker_fixtures import Driver, MemoryFixture

from twisted_cm.model.jobs import JobState

pytestmark = pytest.mark.beside_the_reactor


def test_a_job_whose_lease_ran_out_is_queued_again_and_then_fails(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, lease=10, max_attempts=2)
    job, behind = driver.submit(), driver.submit()
    caller = driver.call(job)
    assert driver.take() == job.job_id
    brokers.advance(9)
    # When the runtime begins to post a result, its lease is renewed.
    brokers.get(driver.broker.open_result("r", job.job_id))
    brokers.advance(9)
    assert driver.state(job) is JobState.RUNNING
    brokers.advance(1)
    assert driver.state(job) is JobState.QUEUED
    assert driver.take() == job.job_id
    assert driver.take() == behind.job_id
    brokers.advance(10)
    answer = brokers.get(caller)
    assert answer.error_message == "There was no result within the lease of 10 seconds, in 2 attempts."
    log = [(each.started_at, each.ended_at, each.outcome) for each in answer.attempt_log]
    assert log == [(0, 19000, "lease ran out"), (19000, 29000, "lease ran out")]
    # The lease of the second job has expired too. It waits for the next poll.
    assert driver.state(behind) is JobState.QUEUED


def test_a_poll_that_is_parked_gets_the_job_whose_lease_ran_out(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, lease=10)
    job = driver.submit()
    driver.take()
    parked = driver.park(100)
    brokers.advance(10)
    assert brokers.get(parked).job_id == job.job_id


def test_a_second_post_does_not_give_a_streaming_job_a_lease_again(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, lease=10)
    job = driver.submit()
    driver.take()
    stream = driver.broker.new_result(job.job_id, None)
    assert brokers.get(driver.broker.begin_result(job.job_id, stream))
    brokers.get(driver.broker.open_result("r", job.job_id))
    second = driver.broker.new_result(job.job_id, None)
    second.write(b"x")
    brokers.advance(100)
    assert driver.state(job) is JobState.RUNNING


def test_a_late_result_counts_while_the_job_is_not_finished(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, lease=10)
    jobs = [driver.submit() for _ in range(2)]
    for _ in jobs:
        driver.take()
    brokers.advance(10)
    # Both leases expire at the same time, in either order.
    assert driver.take() in [job.job_id for job in jobs]
    for job in jobs:
        driver.complete(job, b"late")
        assert driver.state(job) is JobState.SUCCEEDED
    assert driver.take() is None
    brokers.advance(1000)
    assert driver.state(jobs[1]) is JobState.SUCCEEDED


def test_a_lease_is_renewed_by_what_is_written_and_not_by_who_looks(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, lease=10, max_attempts=1)
    job = driver.submit()
    driver.take()
    brokers.get(driver.broker.open_result("r", job.job_id))
    result = driver.broker.new_result(job.job_id, None)
    for _ in range(3):
        brokers.advance(9)
        result.write(b"x")
        brokers.settle()
    brokers.advance(9)
    assert driver.state(job) is JobState.RUNNING
    brokers.advance(1)
    assert driver.state(job) is JobState.FAILED


def test_a_stream_has_no_lease(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, lease=10)
    job = driver.submit()
    driver.take()
    result = driver.broker.new_result(job.job_id, None)
    assert brokers.get(driver.broker.begin_result(job.job_id, result))
    brokers.advance(1000)
    assert driver.state(job) is JobState.RUNNING
    brokers.get(driver.broker.complete(job.job_id, result))
    assert driver.state(job) is JobState.SUCCEEDED
