"""How jobs go from their queue to polls, on each kind of broker."""

from __future__ import annotations

import pytest
from attrs import evolve
from broker_fixtures import Driver, MemoryFixture, submission
from twisted.internet.defer import CancelledError

from twisted_cm.broker.interface import QueueFull
from twisted_cm.model.jobs import JobState

pytestmark = pytest.mark.beside_the_reactor


def test_first_in_first_out(driver: Driver) -> None:
    jobs = [driver.submit(n) for n in range(3)]
    assert [driver.take() for _ in jobs] == [job.job_id for job in jobs]


def test_each_job_goes_to_the_poll_that_waited_longest(driver: Driver) -> None:
    polls = [driver.park(9) for _ in range(2)]
    first = driver.submit()
    assert driver.get(polls[0]).job_id == first.job_id
    assert not polls[1].called


def test_a_poll_gets_the_job_as_it_was_submitted(driver: Driver) -> None:
    query = {"text": '\u00e9\ud800"\\/\x7f', "empty": [{}, [], None, 1.5, 10**30], "large": "x" * 100_000}
    for parked in (True, False):
        poll = driver.park(9) if parked else None
        submitted = evolve(submission(query), deployed_app_rid="ri.\u00fc", branch="b", submitter="jane", size=7)
        job = driver.get(driver.broker.enqueue("r", submitted))
        taken = driver.get(poll or driver.broker.poll("r", 0))
        assert (taken.submission, taken.state, taken.attempts) == (submitted, JobState.RUNNING, 1)
        assert (taken.job_id, taken.number) == (job.job_id, job.number)
        assert driver.now(job).submission == submitted


def test_a_poll_times_out_with_no_job_and_leaves_no_timer(driver: Driver) -> None:
    poll = driver.park(2)
    driver.brokers.advance(1.9)
    assert not poll.called
    driver.brokers.advance(0.1)
    assert driver.get(poll) is None
    assert driver.brokers.timers() == []


def test_a_vanished_poll_gets_no_job(driver: Driver) -> None:
    poll = driver.park(2)
    poll.addErrback(lambda failure: failure.trap(CancelledError))
    poll.cancel()
    driver.brokers.settle()
    job = driver.submit()
    assert driver.state(job) is JobState.QUEUED
    assert driver.brokers.timers() == []


def test_a_job_given_back_is_first_again(driver: Driver) -> None:
    jobs = [driver.submit(n) for n in range(3)]
    taken = [driver.get(driver.broker.poll("r", 1)) for _ in range(2)]
    for each in reversed(taken):
        driver.get(driver.broker.give_back(each.job_id, each.attempts))
    assert [driver.take() for _ in jobs] == [job.job_id for job in jobs]


def test_only_the_attempt_that_runs_is_given_back(driver: Driver) -> None:
    job = driver.submit()
    driver.take()
    # Of several nodes, the one that took the job holds it.
    held = [driver.get(each.holds(job.job_id, 1)) for each in driver.brokers.members(driver.broker)]
    assert held.count(True) == 1
    for attempt in (0, 2):
        driver.get(driver.broker.give_back(job.job_id, attempt))
        assert driver.state(job) is JobState.RUNNING


def test_a_poll_parks_for_any_time_above_none(driver: Driver) -> None:
    for wait in (0, -1):
        assert driver.get(driver.broker.poll("r", wait)) is None
    parked = driver.park(0.5)
    assert not parked.called
    job = driver.submit()
    assert driver.get(parked).job_id == job.job_id


def test_a_job_that_was_delivered_is_given_back_no_more_than_once(driver: Driver) -> None:
    job = driver.submit()
    driver.take()
    driver.get(driver.broker.delivered(job.job_id, 1))
    assert driver.state(job) is JobState.RUNNING
    driver.get(driver.broker.give_back(job.job_id, 1))
    assert driver.take() == job.job_id
    driver.get(driver.broker.give_back(job.job_id, 1))
    assert driver.state(job) is JobState.RUNNING


def test_a_queue_that_is_full_takes_no_more(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, queue_depth=2)
    driver.submit()
    driver.submit(held=True)
    with pytest.raises(QueueFull) as full:
        driver.submit()
    assert full.value.args == ("r", 2, "jobs")
    driver.take()
    driver.submit()


def test_queries_may_take_so_many_bytes_until_their_jobs_are_finished(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, queue_bytes=10)
    job = driver.submit(size=6)
    with pytest.raises(QueueFull) as full:
        driver.submit(size=5)
    assert full.value.args == ("r", 10, "bytes")
    driver.take()
    brokers.get(driver.broker.fail_job(job.job_id, "enough"))
    driver.submit(size=10)
    brokers.get(driver.broker.delete_runtime("r"))
    driver.session("r")
    driver.submit(size=10)


def test_a_held_job_is_never_dispatched(driver: Driver) -> None:
    parked = driver.park(5)
    held = driver.submit(held=True)
    driver.brokers.advance(5)
    assert driver.get(parked) is None
    assert driver.get(driver.broker.snapshot("r")).queued == 1
    driver.get(driver.broker.cancel(held.job_id, "enough"))
    assert driver.get(driver.broker.snapshot("r")).queued == 0


def test_a_repeated_delivery_that_is_given_back_leaves_the_job_with_its_first_poller(driver: Driver) -> None:
    job = driver.submit()
    driver.take()
    driver.get(driver.broker.deliver_again(job.job_id))
    assert driver.take() == job.job_id
    driver.get(driver.broker.give_back(job.job_id, 1))
    assert driver.state(job) is JobState.RUNNING
    assert driver.take() is None
    # Now nobody has it.
    driver.get(driver.broker.give_back(job.job_id, 1))
    assert driver.state(job) is JobState.QUEUED
    assert driver.take() == job.job_id
    # A new attempt begins without copies.
    driver.get(driver.broker.give_back(job.job_id, 2))
    assert driver.state(job) is JobState.QUEUED


def test_each_of_several_copies_is_given_back_by_itself(driver: Driver) -> None:
    job = driver.submit()
    driver.take()
    for _ in range(3):
        driver.get(driver.broker.deliver_again(job.job_id))
        assert driver.take() == job.job_id
    for _ in range(3):
        driver.get(driver.broker.give_back(job.job_id, 1))
        assert driver.state(job) is JobState.RUNNING
    driver.get(driver.broker.give_back(job.job_id, 1))
    assert driver.state(job) is JobState.QUEUED


def test_a_job_that_is_queued_again_is_not_repeated(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, lease=10)
    job = driver.submit()
    driver.take()
    driver.get(driver.broker.deliver_again(job.job_id))
    brokers.advance(10)
    assert driver.state(job) is JobState.QUEUED
    driver.get(driver.broker.deliver_again(job.job_id))
    assert driver.take() == job.job_id
    assert (driver.state(job), driver.now(job).attempts) == (JobState.RUNNING, 2)
    assert driver.take() is None


def test_a_delivery_is_repeated_to_the_next_poll(driver: Driver) -> None:
    job, finished = [driver.submit() for _ in range(2)]
    for _ in range(2):
        driver.get(driver.broker.deliver_again(driver.take()))
    driver.complete(finished)
    assert [driver.take() for _ in range(2)] == [job.job_id, None]
    assert driver.now(job).attempts == 1
    parked = driver.park(5)
    driver.get(driver.broker.deliver_again(job.job_id))
    assert driver.get(parked).job_id == job.job_id
