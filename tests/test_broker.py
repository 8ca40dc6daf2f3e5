"""The broker alone, on a clock that only the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from twisted_cm.broker import BrokerStopped, JobAlreadyCompleted, MemoryBroker, SessionRequest, UnknownJob
from twisted_cm.jobs import IllegalTransition, Job, JobSource, JobState, Submission
from twisted_cm.results import ResultBody


def submission(query: Any = None) -> Submission:
    return Submission("f", query, JobSource.CONTOUR_SYNC)


def now(deferred: Deferred[Any]) -> Any:
    """The result of a Deferred that must have one."""
    results: list[Any] = []
    errors: list[Any] = []
    deferred.addCallbacks(results.append, errors.append)
    if errors:
        errors[0].raiseException()
    assert results, "has not fired"
    return results[0]


def body(content: bytes) -> ResultBody:
    result = ResultBody("application/octet-stream")
    result.write(content)
    return result


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def broker(clock: Clock) -> MemoryBroker:
    made = MemoryBroker(clock)
    now(made.open_session(SessionRequest("r")))
    return made


def test_first_in_first_out(broker: MemoryBroker) -> None:
    jobs = [now(broker.enqueue("r", submission(n))) for n in range(3)]
    assert [now(broker.poll("r", 1)) for _ in jobs] == jobs


def test_each_job_goes_to_the_poll_that_waited_longest(broker: MemoryBroker) -> None:
    polls = [broker.poll("r", 9) for _ in range(2)]
    first = now(broker.enqueue("r", submission()))
    assert now(polls[0]) is first
    assert not polls[1].called


def test_a_poll_times_out_with_no_job_and_leaves_no_timer(broker: MemoryBroker, clock: Clock) -> None:
    poll = broker.poll("r", 2)
    clock.advance(1.9)
    assert not poll.called
    clock.advance(0.1)
    assert now(poll) is None
    assert clock.getDelayedCalls() == []


def test_a_vanished_poll_gets_no_job(broker: MemoryBroker, clock: Clock) -> None:
    poll = broker.poll("r", 2)
    poll.addErrback(lambda failure: failure.trap(CancelledError))
    poll.cancel()
    job = now(broker.enqueue("r", submission()))
    assert job.state is JobState.QUEUED
    assert clock.getDelayedCalls() == []


def test_a_job_given_back_is_first_again(broker: MemoryBroker) -> None:
    first, second = (now(broker.enqueue("r", submission(n))) for n in range(2))
    taken = now(broker.poll("r", 1))
    now(broker.give_back(taken.job_id, taken.attempts))
    assert [now(broker.poll("r", 1)), now(broker.poll("r", 1))] == [first, second]


def test_a_job_dispatched_again_is_not_given_back_by_its_former_poller(broker: MemoryBroker) -> None:
    job = now(broker.enqueue("r", submission()))
    now(broker.poll("r", 1))
    now(broker.give_back(job.job_id, 1))
    now(broker.poll("r", 1))
    now(broker.give_back(job.job_id, 1))
    assert job.state is JobState.RUNNING


def test_completion_answers_the_caller(broker: MemoryBroker, clock: Clock) -> None:
    job = now(broker.enqueue("r", submission()))
    caller = broker.wait_result(job.job_id, 30)
    now(broker.poll("r", 1))
    now(broker.complete(job.job_id, body(b"\x00\xff")))
    assert now(caller).result.as_bytes() == b"\x00\xff"
    assert clock.getDelayedCalls() == []


def test_the_same_result_twice_is_accepted_and_a_different_one_is_not(broker: MemoryBroker) -> None:
    job = now(broker.enqueue("r", submission()))
    now(broker.complete(job.job_id, body(b"a")))
    now(broker.complete(job.job_id, body(b"a")))
    with pytest.raises(JobAlreadyCompleted):
        now(broker.complete(job.job_id, body(b"b")))
    assert job.result is not None
    assert job.result.as_bytes() == b"a"


def test_a_canceled_job_is_not_dispatched_and_its_result_is_discarded(broker: MemoryBroker) -> None:
    job = now(broker.enqueue("r", submission()))
    assert now(broker.cancel(job.job_id, "no longer wanted"))
    assert now(broker.poll("r", 0)) is None
    now(broker.complete(job.job_id, body(b"late")))
    assert job.result is None


def test_a_caller_times_out_and_the_job_lives_on(broker: MemoryBroker, clock: Clock) -> None:
    job = now(broker.enqueue("r", submission()))
    caller = broker.wait_result(job.job_id, 30)
    clock.advance(30)
    assert now(caller).state is JobState.QUEUED
    assert now(broker.poll("r", 1)) is job


def test_a_session_reset_answers_everybody(broker: MemoryBroker) -> None:
    jobs = [now(broker.enqueue("r", submission())) for _ in range(2)]
    callers = [broker.wait_result(job.job_id, 30) for job in jobs]
    now(broker.poll("r", 1))
    before = broker.registry.runtimes["r"].module_auth_token
    after = now(broker.open_session(SessionRequest("r"))).module_auth_token
    assert [now(caller).state for caller in callers] == [JobState.FAILED, JobState.FAILED]
    assert "reset" in (jobs[0].error_message or "")
    assert before != after
    assert now(broker.module_runtime(before)) is None
    with pytest.raises(UnknownJob):
        now(broker.job(jobs[0].job_id))


def test_a_session_reset_answers_parked_polls(broker: MemoryBroker) -> None:
    poll = broker.poll("r", 30)
    now(broker.open_session(SessionRequest("r")))
    assert now(poll) is None


def test_restart_fails_what_was_running_and_keeps_what_was_queued(broker: MemoryBroker) -> None:
    running, queued = (now(broker.enqueue("r", submission())) for _ in range(2))
    now(broker.poll("r", 1))
    caller = broker.wait_result(running.job_id, 30)
    assert now(broker.restart("r")) == [running.job_id]
    assert now(caller).error_message == "runtime restarted"
    assert now(broker.poll("r", 1)) is queued


def test_bindings_are_taken_over_kept_and_dropped(broker: MemoryBroker) -> None:
    now(broker.open_session(SessionRequest("a", "ri.x")))
    assert now(broker.resolve("ri.x", None)).runtime_id == "a"
    now(broker.open_session(SessionRequest("b", "ri.x")))
    assert now(broker.resolve("ri.x", "master")).runtime_id == "b"
    now(broker.open_session(SessionRequest("b", keep_bindings=True)))
    assert now(broker.resolve("ri.x", "master")).runtime_id == "b"
    now(broker.open_session(SessionRequest("b")))
    assert broker.registry.resolve("ri.x", None) is None


def test_stop_answers_everybody_and_takes_no_more(broker: MemoryBroker, clock: Clock) -> None:
    now(broker.open_session(SessionRequest("idle")))
    poll = broker.poll("idle", 30)
    job = now(broker.enqueue("r", submission()))
    caller = broker.wait_result(job.job_id, 30)
    now(broker.stop())
    assert now(poll) is None
    for refused in (caller, broker.enqueue("r", submission())):
        with pytest.raises(BrokerStopped):
            now(refused)
    assert clock.getDelayedCalls() == []


def test_an_illegal_transition_is_refused() -> None:
    job = Job("j", "r", submission(), 0)
    job.transition(JobState.CANCELED, 1)
    with pytest.raises(IllegalTransition):
        job.transition(JobState.RUNNING, 2)


class BrokerMachine(RuleBasedStateMachine):
    """Whatever the interleaving, every job has one holder and one end, and every parked party one answer."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.broker = MemoryBroker(self.clock)
        self.jobs: list[Job] = []
        self.ends: dict[str, JobState] = {}
        self.holders: dict[str, int] = {}
        self.answers: list[list[Any]] = []
        self.parked: list[tuple[Deferred[Any], list[Any]]] = []
        self.polls: list[tuple[Deferred[Any], list[Any]]] = []
        now(self.broker.open_session(SessionRequest("r")))

    def park(self, deferred: Deferred[Any], shelf: list[tuple[Deferred[Any], list[Any]]]) -> None:
        answered: list[Any] = []
        deferred.addBoth(answered.append)
        self.answers.append(answered)
        shelf.append((deferred, answered))

    @rule()
    def enqueue(self) -> None:
        job = now(self.broker.enqueue("r", submission()))
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
            now(self.broker.give_back(job.job_id, data.draw(st.integers(1, max(1, job.attempts)))))
        else:
            deferred.cancel()

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def caller_leaves(self, data: Any) -> None:
        data.draw(st.sampled_from(self.parked))[0].cancel()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), content=st.sampled_from([b"a", b"b"]))
    def result(self, data: Any, content: bytes) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        try:
            now(self.broker.complete(job.job_id, body(content)))
        except (JobAlreadyCompleted, UnknownJob):
            assert job.state.finished

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), whole=st.booleans())
    def stream(self, data: Any, whole: bool) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        result = ResultBody(streamed=True)
        try:
            if now(self.broker.begin_result(job.job_id, result)):
                result.write(b"s")
                if whole:
                    now(self.broker.complete(job.job_id, result))
                else:
                    now(self.broker.fail_job(job.job_id, "broke off"))
                    assert result.aborted
        except UnknownJob:
            assert job.state.finished

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), only_queued=st.booleans())
    def cancel(self, data: Any, only_queued: bool) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        try:
            now(self.broker.cancel(job.job_id, "no longer wanted", only_queued))
        except UnknownJob:
            assert job.state.finished

    @rule(seconds=st.sampled_from([1, 2, 30]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        lost = now(self.broker.restart("r"))
        assert all(now(self.broker.job(job_id)).state is JobState.FAILED for job_id in lost)

    @rule()
    def reset(self) -> None:
        now(self.broker.open_session(SessionRequest("r")))
        assert all(job.state.finished for job in self.jobs)

    @invariant()
    def one_end(self) -> None:
        for job in self.jobs:
            if job.state.finished:
                assert self.ends.setdefault(job.job_id, job.state) is job.state
            assert job.job_id not in self.ends or job.state.finished

    @invariant()
    def one_holder(self) -> None:
        snapshot = now(self.broker.snapshot("r"))
        states = [job.state for job in self.jobs]
        assert snapshot.queued == states.count(JobState.QUEUED)
        assert snapshot.running == states.count(JobState.RUNNING)
        assert not (snapshot.queued and snapshot.parked_polls)
        dispatched = [answered[0].job_id for _, answered in self.polls if answered and isinstance(answered[0], Job)]
        for job in self.jobs:
            assert dispatched.count(job.job_id) <= max(job.attempts, 0)

    @invariant()
    def nobody_waits_for_an_end_that_was(self) -> None:
        for job, (_, answered) in zip(self.jobs, self.parked, strict=True):
            assert answered or not job.state.finished

    def teardown(self) -> None:
        now(self.broker.stop())
        assert all(len(answered) == 1 for answered in self.answers)
        assert self.clock.getDelayedCalls() == []


TestBrokerMachine = BrokerMachine.TestCase
TestBrokerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
