"""Random sequences of calls, on each kind of broker."""

from __future__ import annotations

from typing import Any

import pytest
from broker_fixtures import KINDS, Driver, MemoryFixture, make_fixture
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred

from twisted_cm.broker.interface import JobAlreadyCompleted, UnknownJob
from twisted_cm.model.jobs import Job, JobFilter, JobState

pytestmark = pytest.mark.beside_the_reactor


class BrokerMachine(RuleBasedStateMachine):
    """Random calls, after each of which every job has one place and at most one end, and every Deferred fires once."""

    def __init__(self, brokers: MemoryFixture, **limits: Any) -> None:
        super().__init__()
        self.brokers = brokers
        self.driver = Driver(brokers, **limits)
        self.broker = self.driver.broker
        self.jobs: list[Job] = []
        self.ends: dict[str, JobState] = {}
        self.answers: list[list[Any]] = []
        self.parked: list[tuple[Deferred[Any], list[Any]]] = []
        self.polls: list[tuple[Deferred[Any], list[Any]]] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the state of every job. Jobs that are no longer kept must have finished."""
        listed = {job.job_id: job for job in self.brokers.get(self.broker.jobs(JobFilter(), 10_000))}
        self.current = [listed.get(job.job_id) for job in self.jobs]

    def park(self, deferred: Deferred[Any], shelf: list[tuple[Deferred[Any], list[Any]]]) -> None:
        answered: list[Any] = []
        deferred.addBoth(answered.append)
        self.answers.append(answered)
        shelf.append((deferred, answered))
        self.brokers.settle()

    def finished(self, job: Job) -> bool:
        current = self.current[self.jobs.index(job)]
        return current is None or current.state.finished

    @rule()
    def enqueue(self) -> None:
        job = self.driver.submit()
        self.jobs.append(job)
        self.park(self.broker.wait_result(job.job_id, 30), self.parked)

    @rule(wait=st.sampled_from([0, 2]))
    def poll(self, wait: float) -> None:
        self.park(self.broker.poll("r", wait), self.polls)

    @precondition(lambda self: self.polls)
    @rule(data=st.data())
    def vanish(self, data: Any) -> None:
        deferred, answered = data.draw(st.sampled_from(self.polls))
        if answered and isinstance(answered[0], Job):
            job = answered[0]
            attempt = data.draw(st.integers(1, max(1, job.attempts)))
            self.brokers.get(self.broker.give_back(job.job_id, attempt))
        else:
            deferred.cancel()
            self.brokers.settle()

    @precondition(lambda self: self.polls)
    @rule(data=st.data())
    def deliver(self, data: Any) -> None:
        _, answered = data.draw(st.sampled_from(self.polls))
        if answered and isinstance(answered[0], Job):
            self.brokers.get(self.broker.delivered(answered[0].job_id, answered[0].attempts))

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def caller_leaves(self, data: Any) -> None:
        data.draw(st.sampled_from(self.parked))[0].cancel()
        self.brokers.settle()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), content=st.sampled_from([b"a", b"b"]))
    def result(self, data: Any, content: bytes) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        try:
            self.driver.complete(job, content)
        except (JobAlreadyCompleted, UnknownJob):
            assert self.finished(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), whole=st.booleans())
    def stream(self, data: Any, whole: bool) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        result = self.broker.new_result(job.job_id, None)
        try:
            if self.brokers.get(self.broker.begin_result(job.job_id, result)):
                result.write(b"s")
                if whole:
                    self.brokers.get(self.broker.complete(job.job_id, result))
                    assert self.driver.content(self.driver.now(job)) == b"s"
                else:
                    assert self.brokers.get(self.broker.fail_job(job.job_id, "broke off"))
                    assert self.driver.now(job).result is None
            else:
                assert self.finished(job)
        except UnknownJob:
            assert self.finished(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), only_queued=st.booleans())
    def cancel(self, data: Any, only_queued: bool) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        try:
            self.brokers.get(self.broker.cancel(job.job_id, "no longer wanted", only_queued))
        except UnknownJob:
            assert self.finished(job)

    @rule(seconds=st.sampled_from([1, 2, 30]))
    def time_passes(self, seconds: float) -> None:
        self.brokers.advance(seconds)

    @rule()
    def restart(self) -> None:
        lost = self.brokers.get(self.broker.restart("r"))
        self.refresh()
        for job, current in zip(self.jobs, self.current, strict=True):
            assert job.job_id not in lost or current is None or current.state is JobState.FAILED

    @rule()
    def reset(self) -> None:
        self.driver.session("r")
        self.refresh()
        assert all(self.finished(job) for job in self.jobs)

    @invariant()
    def broker_is_consistent(self) -> None:
        self.refresh()
        self.one_end()
        self.one_place()
        self.finished_jobs_have_no_callers()

    def one_end(self) -> None:
        for job, current in zip(self.jobs, self.current, strict=True):
            if current is not None and current.state.finished:
                assert self.ends.setdefault(job.job_id, current.state) is current.state
            assert job.job_id not in self.ends or self.finished(job)

    def one_place(self) -> None:
        snapshot = self.brokers.get(self.broker.snapshot("r"))
        states = [current.state for current in self.current if current is not None]
        assert snapshot.queued == states.count(JobState.QUEUED)
        assert snapshot.running == states.count(JobState.RUNNING)
        assert not (snapshot.queued and snapshot.parked_polls)
        assert snapshot.parked_polls == sum(not answered for _, answered in self.polls)
        dispatched = [answered[0].job_id for _, answered in self.polls if answered and isinstance(answered[0], Job)]
        for current in self.current:
            assert current is None or dispatched.count(current.job_id) <= current.attempts

    def finished_jobs_have_no_callers(self) -> None:
        for job, (_, answered) in zip(self.jobs, self.parked, strict=True):
            assert answered or not self.finished(job)

    def teardown(self) -> None:
        self.brokers.get(self.broker.stop())
        assert all(len(answered) == 1 for answered in self.answers)
        assert self.brokers.timers() == []
        self.brokers.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "limits", [{}, {"lease": 5, "max_attempts": 2, "retained_jobs": 3, "retained_seconds": 20}], ids=["", "limited"]
)
def test_whatever_the_interleaving(kind: str, limits: dict[str, Any], request: pytest.FixtureRequest) -> None:
    examples, steps = (100, 40) if kind == "memory" else (40, 30)
    run_state_machine_as_test(
        lambda: BrokerMachine(make_fixture(kind, request), **limits),
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None),
    )
