"""What a broker shows of its jobs and their changes, on each kind of broker."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import astuple
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


def test_an_observation_ends_with_the_broker(driver: Driver) -> None:
    observing = [driver.broker.observe(lambda change: None) for _ in range(2)]
    driver.brokers.settle()
    driver.get(driver.broker.stop())
    assert [driver.get(each) for each in observing] == [None, None]
    assert driver.get(driver.broker.observe(lambda change: None)) is None


def test_the_load_counts_runtimes_jobs_and_those_who_wait(driver: Driver) -> None:
    def load() -> list[int]:
        """Return the load, with the polls and callers of all members together."""
        loads = [astuple(driver.get(each.load())) for each in driver.brokers.members(driver.broker)]
        return [*loads[0][:4], *(sum(each[at] for each in loads) for at in (4, 5))]

    driver.session("idle")
    assert load() == [2, 0, 0, 0, 0, 0]
    parked = [driver.park(5, "idle") for _ in range(2)]
    jobs = [driver.submit() for _ in range(2)]
    driver.submit(held=True)
    driver.take()
    for job in jobs:
        driver.call(job)
    ended = driver.broker.wait_end(jobs[0].job_id, 1000)
    driver.brokers.settle()
    assert load() == [2, 2, 2, 1, 2, 3]
    snapshot = driver.get(driver.broker.snapshot("r"))
    assert (snapshot.queued, snapshot.running, snapshot.parked_polls) == (2, 1, 0)
    driver.brokers.advance(5)
    assert [driver.get(poll) for poll in parked] == [None, None]
    driver.complete(jobs[0])
    assert driver.get(ended).state is JobState.SUCCEEDED
    driver.session("idle")
    assert load() == [2, 1, 2, 0, 0, 1]
    driver.get(driver.broker.delete_runtime("idle"))
    assert load() == [1, 1, 2, 0, 0, 1]
    driver.get(driver.broker.delete_runtime("r"))
    assert load() == [0, 0, 0, 0, 0, 0]


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
