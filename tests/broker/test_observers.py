"""What a broker shows of its jobs and their changes, on each kind of broker."""

from __future__ import annotations

from typing import Any

import pytest
from broker_fixtures import Driver
from twisted.internet.defer import CancelledError

from twisted_cm.broker.interface import Change
from twisted_cm.model.jobs import JobFilter, JobState

pytestmark = pytest.mark.beside_the_reactor


def test_whoever_looks_on_is_told_of_every_change(driver: Driver) -> None:
    seen: list[Change] = []
    observing = driver.broker.observe(seen.append)
    driver.brokers.settle()
    job = driver.finish(b"abc")
    assert [each.job.state.value for each in seen if each.job is not None] == ["queued", "running", "succeeded"] or [
        each.job is job for each in seen if each.job is not None
    ] == [True, True, True]
    last = seen[-1].job
    assert last is not None and (last.job_id, last.state) == (job.job_id, JobState.SUCCEEDED)
    assert last.result is not None and last.result.size == 3
    assert [each.runtime_id for each in seen if each.job is None] == ["r"]
    driver.session("r")
    assert [each.runtime_id for each in seen if each.forgotten] == ["r"]
    observing.addErrback(lambda failure: failure.trap(CancelledError))
    observing.cancel()
    driver.brokers.settle()
    count = len(seen)
    driver.finish()
    assert len(seen) == count


def test_jobs_are_listed_last_first_by_what_they_are(driver: Driver) -> None:
    driver.session("other")
    first, second = driver.submit(), driver.submit()
    third = driver.submit(runtime_id="other")
    driver.take()

    def listed(most: int = 10, **wanted: Any) -> list[str]:
        return [job.job_id for job in driver.get(driver.broker.jobs(JobFilter(**wanted), most))]

    assert listed() == [third.job_id, second.job_id, first.job_id]
    assert listed(2) == [third.job_id, second.job_id]
    assert listed(before=third.number) == [second.job_id, first.job_id]
    assert listed(runtime_id="r") == [second.job_id, first.job_id]
    assert listed(state=JobState.RUNNING) == [first.job_id]
    assert listed(query_type="g") == []
