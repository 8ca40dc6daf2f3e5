"""Which finished jobs are kept, on each kind of broker."""

from __future__ import annotations

import pytest
from broker_fixtures import Driver, MemoryFixture

from twisted_cm.broker.interface import UnknownJob

pytestmark = pytest.mark.beside_the_reactor


def test_finished_jobs_are_kept_by_count_bytes_and_age(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, retained_jobs=3, retained_bytes=100, retained_seconds=60)
    jobs = [driver.finish() for _ in range(4)]
    assert driver.kept(jobs) == [False, True, True, True]
    jobs = [driver.finish(b"x" * 30, size=10) for _ in range(3)]
    assert driver.kept(jobs) == [False, True, True]
    # A job that exceeds the limit by itself is kept until the next one finishes.
    large = driver.finish(b"x" * 1000)
    assert driver.kept([*jobs, large]) == [False, False, False, True]
    small = driver.finish()
    assert driver.kept([large, small]) == [False, True]
    brokers.advance(30)
    second = driver.finish()
    brokers.advance(31)
    assert driver.kept([small, second]) == [False, True]
    brokers.advance(30)
    assert driver.kept([second]) == [False]
    with pytest.raises(UnknownJob):
        driver.now(second)


def test_a_job_is_kept_for_as_long_as_the_limit_says(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, retained_seconds=60)
    first = driver.finish()
    brokers.advance(20)
    second = driver.finish()
    brokers.advance(39.5)
    assert driver.kept([first, second]) == [True, True]
    brokers.advance(0.5)
    assert driver.kept([first, second]) == [False, True]
    brokers.advance(19.5)
    assert driver.kept([second]) == [True]
    brokers.advance(0.5)
    assert driver.kept([second]) == [False]


def test_the_limits_on_kept_jobs_may_be_reached(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, retained_jobs=2, retained_bytes=10)
    jobs = [driver.finish(b"x" * 5) for _ in range(2)]
    assert driver.kept(jobs) == [True, True]
    jobs.append(driver.finish(b""))
    assert driver.kept(jobs) == [False, True, True]
    jobs.append(driver.finish(b"x" * 6))
    assert driver.kept(jobs) == [False, False, True, True]


def test_nothing_is_left_of_a_repeated_delivery(brokers: MemoryFixture) -> None:
    driver = Driver(brokers)

    def left(repeated: int) -> int:
        """Finish a job, and return how many entries are left of it."""
        before = brokers.count_entries(driver.broker)
        job = driver.submit()
        driver.take()
        for _ in range(repeated):
            driver.get(driver.broker.deliver_again(job.job_id))
        if repeated:
            driver.take()
        for each in brokers.members(driver.broker):
            driver.get(each.delivered(job.job_id, 1))
        driver.complete(job)
        assert driver.take() is None
        return brokers.count_entries(driver.broker) - before

    left(repeated=0)
    assert left(repeated=2) == left(repeated=0)


def test_nothing_is_left_of_a_job_that_is_forgotten(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, retained_seconds=60, retained_bytes=20, queue_bytes=5)
    driver.finish()
    brokers.advance(61)
    before = brokers.count_entries(driver.broker)
    for size in (1, 1_000_000):
        job = driver.submit(size=5)
        driver.call(job, 5)
        driver.take()
        driver.get(driver.broker.delivered(job.job_id, 1))
        driver.complete(job, b"x" * size)
    assert brokers.count_entries(driver.broker) > before
    brokers.advance(61)
    assert brokers.count_entries(driver.broker) == before
    # Neither do their bytes count towards the limits.
    jobs = [driver.finish(b"x" * 5, size=5) for _ in range(2)]
    assert driver.kept(jobs) == [True, True]


def test_jobs_that_are_not_finished_are_kept_however_many(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, retained_jobs=1, retained_seconds=1)
    waiting = [driver.submit() for _ in range(5)]
    brokers.advance(100)
    assert [driver.take() for _ in waiting] == [job.job_id for job in waiting]
