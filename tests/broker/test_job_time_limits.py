"""Time limits of jobs, on each kind of broker."""

from __future__ import annotations

import pytest
from broker_fixtures import Driver

from twisted_cm.model.jobs import Job, JobSource, JobState, Submission
from twisted_cm.model.limits import TimeLimits
from twisted_cm.server.job_time_limits import JobTimer

pytestmark = pytest.mark.beside_the_reactor


def timer_of(driver: Driver, limits: dict[str, TimeLimits], expired: list[Job]) -> JobTimer:
    timer = JobTimer(driver.brokers.clock, driver.broker, limits, expired.append)
    timer.start()
    driver.brokers.settle()
    return timer


def submit(driver: Driver, function: str) -> Job:
    job: Job = driver.get(driver.broker.enqueue("r", Submission(function, b"{}", JobSource.CONTOUR_ASYNC)))
    return job


def test_a_job_fails_when_it_runs_for_longer_than_it_may(driver: Driver) -> None:
    expired: list[Job] = []
    timer = timer_of(driver, {"r": TimeLimits(5, {"quick": 1})}, expired)
    slow, quick = submit(driver, "slow"), submit(driver, "quick")
    # The time in the queue does not count.
    driver.brokers.advance(60)
    assert [driver.take(), driver.take()] == [slow.job_id, quick.job_id]
    driver.brokers.advance(0.9)
    assert driver.state(quick) is JobState.RUNNING
    driver.brokers.advance(0.1)
    assert driver.now(quick).error_message == "The job ran for longer than its time limit of 1 seconds."
    assert driver.state(slow) is JobState.RUNNING
    driver.brokers.advance(4)
    assert driver.state(slow) is JobState.FAILED
    assert [job.job_id for job in expired] == [quick.job_id, slow.job_id]
    timer.stop()


def test_a_job_that_ends_or_has_no_limit_does_not_fail(driver: Driver) -> None:
    expired: list[Job] = []
    timer = timer_of(driver, {"r": TimeLimits(None, {"quick": 1}), "other": TimeLimits(1)}, expired)
    done, unlimited = submit(driver, "quick"), submit(driver, "free")
    assert [driver.take(), driver.take()] == [done.job_id, unlimited.job_id]
    driver.complete(done)
    driver.brokers.advance(100)
    assert [driver.state(done), driver.state(unlimited)] == [JobState.SUCCEEDED, JobState.RUNNING]
    assert expired == []
    timer.stop()


def test_each_attempt_has_the_whole_time(driver: Driver) -> None:
    expired: list[Job] = []
    timer = timer_of(driver, {"r": TimeLimits(5)}, expired)
    job = submit(driver, "f")
    driver.take()
    driver.brokers.advance(4)
    driver.get(driver.broker.give_back(job.job_id, 1))
    driver.brokers.settle()
    driver.brokers.advance(20)
    assert driver.state(job) is JobState.QUEUED
    driver.take()
    driver.brokers.advance(4)
    assert driver.state(job) is JobState.RUNNING
    driver.brokers.advance(1)
    assert driver.state(job) is JobState.FAILED
    timer.stop()


def test_jobs_that_run_already_are_limited_from_their_start(driver: Driver) -> None:
    job = submit(driver, "f")
    driver.take()
    driver.brokers.advance(3)
    expired: list[Job] = []
    timer = timer_of(driver, {"r": TimeLimits(5)}, expired)
    driver.brokers.advance(1.9)
    assert driver.state(job) is JobState.RUNNING
    driver.brokers.advance(0.1)
    assert driver.state(job) is JobState.FAILED
    timer.stop()


def test_limits_that_are_set_later_apply_to_the_jobs_that_run_already(driver: Driver) -> None:
    expired: list[Job] = []
    timer = timer_of(driver, {}, expired)
    running = submit(driver, "f")
    driver.take()
    driver.brokers.advance(3)
    timer.replace({"r": TimeLimits(5)})
    driver.brokers.settle()
    later = submit(driver, "f")
    driver.take()
    driver.brokers.advance(2)
    assert [driver.state(running), driver.state(later)] == [JobState.FAILED, JobState.RUNNING]
    driver.brokers.advance(3)
    assert driver.state(later) is JobState.FAILED
    assert [job.job_id for job in expired] == [running.job_id, later.job_id]
    timer.stop()


def test_without_limits_nothing_expires_any_more(driver: Driver) -> None:
    expired: list[Job] = []
    timer = timer_of(driver, {"r": TimeLimits(5)}, expired)
    running = submit(driver, "f")
    driver.take()
    timer.replace({})
    driver.brokers.settle()
    later = submit(driver, "f")
    driver.take()
    driver.brokers.advance(100)
    assert [driver.state(running), driver.state(later)] == [JobState.RUNNING] * 2
    # They can be set again.
    timer.replace({"r": TimeLimits(200)})
    driver.brokers.settle()
    driver.brokers.advance(100)
    assert [driver.state(running), driver.state(later)] == [JobState.FAILED] * 2
    timer.stop()
