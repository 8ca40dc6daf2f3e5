"""How results reach callers, on each kind of broker."""

from __future__ import annotations

import pytest
from broker_fixtures import Driver

from twisted_cm.broker.interface import JobAlreadyCompleted, UnknownJob
from twisted_cm.model.jobs import JobState

pytestmark = pytest.mark.beside_the_reactor


def test_completion_answers_the_caller(driver: Driver) -> None:
    job = driver.submit()
    caller = driver.call(job)
    driver.take()
    driver.complete(job, b'\x00\xff\xc3\xa9\xed\xa0\x80"\\')
    assert driver.content(driver.get(caller)) == b'\x00\xff\xc3\xa9\xed\xa0\x80"\\'
    driver.get(driver.broker.stop())
    assert driver.brokers.timers() == []


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 256 * 1024, 3 * 1024 * 1024 + 5])
def test_a_result_of_any_size_comes_back_as_it_was(driver: Driver, size: int) -> None:
    job = driver.submit()
    caller = driver.call(job)
    content = bytes(range(256)) * (size // 256 + 1)
    driver.complete(job, content[:size])
    for found in (driver.get(caller), driver.now(job)):
        assert (found.result.size, found.result.complete) == (size, True)
        assert found.result.content_type == "application/octet-stream"
        assert driver.content(found) == content[:size]
    driver.complete(job, content[:size])
    with pytest.raises(JobAlreadyCompleted):
        driver.complete(job, content[: max(size - 1, 0)] + b"U")


@pytest.mark.parametrize("size", [1, 64 * 1024 + 1, 256 * 1024 + 1])
def test_a_result_whose_job_is_forgotten_is_read_whole_or_not_at_all(driver: Driver, size: int) -> None:
    found = driver.now(driver.finish(b"x" * size))
    driver.get(driver.broker.delete_runtime("r"))
    try:
        content = driver.content(found)
    except UnknownJob:
        return
    assert content == b"x" * size


def test_the_same_result_twice_is_accepted_and_a_different_one_is_not(driver: Driver) -> None:
    job = driver.submit()
    driver.complete(job, b"a")
    driver.complete(job, b"a")
    with pytest.raises(JobAlreadyCompleted):
        driver.complete(job, b"b")
    assert driver.content(driver.now(job)) == b"a"


def test_a_canceled_job_is_not_dispatched_and_its_result_is_discarded(driver: Driver) -> None:
    job = driver.submit()
    assert driver.get(driver.broker.cancel(job.job_id, "no longer wanted"))
    assert driver.take() is None
    driver.complete(job, b"late")
    assert driver.now(job).result is None


def test_only_a_job_that_waits_is_canceled_if_the_caller_says_so(driver: Driver) -> None:
    job = driver.submit()
    driver.take()
    assert driver.get(driver.broker.cancel(job.job_id, "why", only_queued=True)) is False
    assert driver.state(job) is JobState.RUNNING
    assert driver.get(driver.broker.cancel(job.job_id, "enough")) is True
    assert driver.now(job).error_message == "enough"
    for only_queued in (True, False):
        assert driver.get(driver.broker.cancel(job.job_id, "again", only_queued=only_queued)) is False
    assert driver.get(driver.broker.fail_job(job.job_id, "again")) is False
    assert driver.now(job).error_message == "enough"


def test_a_caller_without_time_is_answered_at_once(driver: Driver) -> None:
    job = driver.submit()
    for timeout in (0, -1):
        for wait in (driver.broker.wait_result, driver.broker.wait_end):
            assert driver.get(wait(job.job_id, timeout)).state is JobState.QUEUED
    assert driver.brokers.timers() == []


def test_a_caller_times_out_and_the_job_lives_on(driver: Driver) -> None:
    job = driver.submit()
    caller = driver.call(job, 30)
    driver.brokers.advance(30)
    assert driver.get(caller).state is JobState.QUEUED
    assert driver.take() == job.job_id


def test_a_stream_answers_callers_when_it_begins_and_takes_no_second_one(driver: Driver) -> None:
    job = driver.submit()
    caller, patient = driver.call(job), driver.broker.wait_end(job.job_id, 1000)
    result, other = (driver.broker.new_result(job.job_id, None) for _ in range(2))
    assert driver.get(driver.broker.begin_result(job.job_id, result))
    assert not driver.get(driver.broker.begin_result(job.job_id, other))
    assert driver.get(caller).state is JobState.RUNNING
    assert not patient.called
    assert driver.get(driver.broker.fail_job(job.job_id, "broke off"))
    answer = driver.get(patient)
    assert (answer.state, answer.error_message, answer.result) == (JobState.FAILED, "broke off", None)
