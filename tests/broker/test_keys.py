"""Submissions with an idempotency key, on each kind of broker."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from broker_fixtures import Driver, MemoryFixture, submission

from twisted_cm.broker.interface import IdempotencyKeyReused, QueueFull, UnknownJob
from twisted_cm.model.jobs import Job, JobSource, JobState, Submission

pytestmark = pytest.mark.beside_the_reactor


def keyed(query: Any = 1, key: str | None = "k", **fields: Any) -> Submission:
    """Return a submission with a key."""
    return evolve(submission(query), key=key, **fields)


def send(driver: Driver, query: Any = 1, key: str | None = "k", **fields: Any) -> Job:
    """Submit with a key."""
    job: Job = driver.get(driver.broker.enqueue("r", keyed(query, key, **fields)))
    return job


def test_the_same_submission_is_one_job_in_every_state(driver: Driver) -> None:
    job = send(driver)
    again = [send(driver)]
    assert driver.take() == job.job_id
    again.append(send(driver))
    driver.complete(job, b"result")
    again.append(send(driver))
    assert [each.job_id for each in again] == [job.job_id] * 3
    assert driver.take() is None
    assert driver.content(driver.get(driver.broker.wait_result(again[-1].job_id, 0))) == b"result"
    snapshot = driver.get(driver.broker.snapshot("r"))
    assert (snapshot.queued, snapshot.running) == (0, 0)


def test_a_caller_of_a_job_that_was_submitted_again_gets_its_result(driver: Driver) -> None:
    job = send(driver)
    callers = [driver.call(job), driver.call(send(driver))]
    driver.take()
    driver.complete(job, b"x" * 100_000)
    assert [driver.content(driver.get(caller)) for caller in callers] == [b"x" * 100_000] * 2


def test_without_a_key_and_with_another_each_submission_is_a_job(driver: Driver) -> None:
    jobs = [send(driver, key=None), send(driver, key=None), send(driver, key="a"), send(driver, key="b")]
    assert len({job.job_id for job in jobs}) == 4


@pytest.mark.parametrize(
    "changed",
    [
        {"query": 2},
        {"query_type": "g"},
        {"source": JobSource.CONTOUR_ASYNC},
        {"deployed_app_rid": "ri.other"},
        {"branch": "dev"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_key_stands_for_one_submission(driver: Driver, changed: dict[str, Any]) -> None:
    job = send(driver)
    for state in (JobState.QUEUED, JobState.SUCCEEDED):
        assert driver.state(job) is state
        with pytest.raises(IdempotencyKeyReused) as error:
            send(driver, **changed)
        assert error.value.args == (job.job_id,)
        with pytest.raises(IdempotencyKeyReused):
            driver.get(driver.broker.submitted(keyed(**changed)))
        if state is JobState.QUEUED:
            driver.complete(job)


def test_a_job_is_found_by_its_submission(driver: Driver) -> None:
    assert driver.get(driver.broker.submitted(keyed())) is None
    job = send(driver)
    assert driver.get(driver.broker.submitted(keyed())).job_id == job.job_id
    assert driver.get(driver.broker.submitted(submission(1))) is None


def test_a_full_queue_does_not_refuse_what_is_in_it(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, queue_depth=1)
    job = send(driver)
    with pytest.raises(QueueFull):
        send(driver, key="other")
    assert send(driver).job_id == job.job_id


def test_the_key_of_a_job_that_never_ran_is_free(driver: Driver) -> None:
    canceled = send(driver)
    driver.get(driver.broker.cancel(canceled.job_id, "The caller disconnected.", only_queued=True))
    job = send(driver, 2)
    assert job.job_id != canceled.job_id
    assert driver.take() == job.job_id
    driver.get(driver.broker.cancel(job.job_id, "enough"))
    # This one may have run.
    assert send(driver, 2).job_id == job.job_id
    assert driver.state(canceled) is JobState.CANCELED


def test_a_key_is_kept_as_long_as_its_job(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, retained_jobs=2, retained_seconds=100)
    canceled = send(driver, key="first")
    driver.get(driver.broker.cancel(canceled.job_id, "The caller disconnected.", only_queued=True))
    before = brokers.count_entries(driver.broker)
    jobs = []
    for number in range(4):
        jobs.append(send(driver, key=f"k{number}"))
        driver.take()
        driver.complete(jobs[-1])
    assert driver.kept(jobs) == [False, False, True, True]
    assert send(driver, key="k3").job_id == jobs[3].job_id
    assert send(driver, key="k0").job_id not in {job.job_id for job in jobs}
    driver.take()
    driver.get(driver.broker.delete_runtime("r"))
    with pytest.raises(UnknownJob):
        driver.now(jobs[3])
    driver.session("r")
    assert send(driver, key="k3").job_id != jobs[3].job_id
    driver.get(driver.broker.delete_runtime("r"))
    driver.session("r")
    assert brokers.count_entries(driver.broker) < before


def test_the_key_of_a_forgotten_job_may_stand_for_a_later_one(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, retained_seconds=100)
    canceled = send(driver)
    driver.get(driver.broker.cancel(canceled.job_id, "The caller disconnected.", only_queued=True))
    brokers.advance(50)
    job = send(driver)
    brokers.advance(60)
    assert driver.kept([canceled, job]) == [False, True]
    assert send(driver).job_id == job.job_id
