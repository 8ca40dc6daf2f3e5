"""Random sequences of calls, on each kind of broker."""

from __future__ import annotations

from collections import Counter
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


#: The limits of the replicas beside the default one.
LIMITS = {"a": 1, "b": 2}


class BrokerMachine(RuleBasedStateMachine):
    """Random calls, after each of which every job has one place and at most one end, and every Deferred fires once."""

    def __init__(self, brokers: MemoryFixture, **limits: Any) -> None:
        super().__init__()
        self.brokers = brokers
        self.driver = Driver(brokers, **limits)
        self.broker = self.driver.broker
        self.open_replicas()
        self.jobs: list[Job] = []
        self.ends: dict[str, JobState] = {}
        self.repeated: Counter[str] = Counter()
        self.answers: list[list[Any]] = []
        self.parked: list[tuple[Deferred[Any], list[Any]]] = []
        self.polls: list[tuple[Deferred[Any], list[Any]]] = []
        self.refresh()

    def refresh(self) -> None:
        """Read the state of every job. Jobs that are no longer kept must have finished."""
        listed = {job.job_id: job for job in self.brokers.get(self.broker.jobs(JobFilter(), 10_000))}
        self.current = [listed.get(job.job_id) for job in self.jobs]

    def open_replicas(self) -> None:
        for replica_id, limit in LIMITS.items():
            self.driver.open(replica_id, limit)

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

    @rule(wait=st.sampled_from([0, 2]), replica_id=st.sampled_from(["default", *LIMITS]))
    def poll(self, wait: float, replica_id: str) -> None:
        self.park(self.broker.poll("r", wait, replica_id), self.polls)

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

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def repeat(self, data: Any) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        try:
            self.brokers.get(self.broker.deliver_again(job.job_id))
            self.repeated[job.job_id] += 1
        except UnknownJob:
            assert self.finished(job)

    @rule(replica_id=st.sampled_from(["default", *LIMITS]))
    def restart(self, replica_id: str) -> None:
        before = self.places()
        lost = self.brokers.get(self.broker.restart("r", replica_id))
        self.lost(before, lost, replica_id)

    @rule(replica_id=st.sampled_from(list(LIMITS)))
    def close(self, replica_id: str) -> None:
        before = self.places()
        lost = [job_id for job_id, place in before.items() if place == (JobState.RUNNING, replica_id)]
        self.brokers.get(self.broker.close_replica("r", replica_id))
        self.lost(before, lost, replica_id)
        self.driver.open(replica_id, LIMITS[replica_id])

    def places(self) -> dict[str, tuple[JobState, str | None]]:
        """Return the state and the replica that each job has now."""
        return {each.job_id: (each.state, each.replica_id) for each in self.current if each is not None}

    def lost(self, before: dict[str, tuple[JobState, str | None]], lost: list[str], replica_id: str) -> None:
        """Check that the jobs of one replica have failed, and no others."""
        self.refresh()
        for job, current in zip(self.jobs, self.current, strict=True):
            if job.job_id in lost:
                assert before[job.job_id] == (JobState.RUNNING, replica_id)
                assert current is None or current.state is JobState.FAILED
            elif job.job_id in before and current is not None:
                assert current.state.finished == before[job.job_id][0].finished

    @rule()
    def reset(self) -> None:
        self.driver.session("r")
        self.open_replicas()
        self.refresh()
        assert all(self.finished(job) for job in self.jobs)

    @invariant()
    def broker_is_consistent(self) -> None:
        self.refresh()
        self.one_end()
        self.one_place()
        self.limits_hold()
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
        assert snapshot.parked_polls == sum(not answered for _, answered in self.polls)
        dispatched = [answered[0].job_id for _, answered in self.polls if answered and isinstance(answered[0], Job)]
        for current in self.current:
            assert (
                current is None or dispatched.count(current.job_id) <= current.attempts + self.repeated[current.job_id]
            )

    def limits_hold(self) -> None:
        queued = [current for current in self.current if current is not None and current.state is JobState.QUEUED]
        running = [current for current in self.current if current is not None and current.state is JobState.RUNNING]
        replicas = self.brokers.get(self.broker.replicas("r"))
        assert {each.job_id for each in running} == {job_id for each in replicas for job_id in each.job_ids}
        for each in replicas:
            if each.replica.gone:
                assert not each.job_ids and not each.parked_polls
                continue
            assert len(each.job_ids) <= (each.replica.limit or 1000)
            assert each.replica.last_poll_at is None or (each.state.value == "busy") == (
                len(each.job_ids) == each.replica.limit and each.state.value != "silent"
            )
            own = {job.job_id for job in running if job.replica_id == each.replica.replica_id}
            assert own <= set(each.job_ids)
            # No poll waits beside a job that it could have.
            assert not (queued and each.parked_polls and each.replica.has_room(len(each.job_ids)))

    def finished_jobs_have_no_callers(self) -> None:
        for job, (_, answered) in zip(self.jobs, self.parked, strict=True):
            assert answered or not self.finished(job)

    def teardown(self) -> None:
        self.brokers.get(self.broker.stop())
        assert all(len(answered) == 1 for answered in self.answers)
        assert self.brokers.timers() == []
        self.brokers.close()


@pytest.mark.long
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
