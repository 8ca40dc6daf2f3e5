"""The broker alone, on a clock that only the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from twisted_cm.broker import (
    BrokerStopped,
    JobAlreadyCompleted,
    JobLimits,
    MemoryBroker,
    NotBound,
    QueueFull,
    SessionRequest,
    UnknownJob,
    UnknownRuntime,
)
from twisted_cm.jobs import IllegalTransition, Job, JobSource, JobState, Submission
from twisted_cm.registry import Binding, Registry, Runtime
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
    assert now(caller).result.peek(0, 10) == b"\x00\xff"
    now(broker.stop())
    assert clock.getDelayedCalls() == []


def test_the_same_result_twice_is_accepted_and_a_different_one_is_not(broker: MemoryBroker) -> None:
    job = now(broker.enqueue("r", submission()))
    now(broker.complete(job.job_id, body(b"a")))
    now(broker.complete(job.job_id, body(b"a")))
    with pytest.raises(JobAlreadyCompleted):
        now(broker.complete(job.job_id, body(b"b")))
    assert job.result is not None
    assert job.result.peek(0, 10) == b"a"


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


def limited(clock: Clock, **limits: Any) -> MemoryBroker:
    made = MemoryBroker(clock, limits=JobLimits(**limits))
    now(made.open_session(SessionRequest("r")))
    return made


def finish(broker: MemoryBroker, content: bytes = b"x", size: int = 0) -> Job:
    job = now(broker.enqueue("r", Submission("f", None, JobSource.CONTOUR_ASYNC, size=size)))
    now(broker.poll("r", 0))
    now(broker.complete(job.job_id, body(content)))
    found: Job = job
    return found


def test_a_job_whose_lease_ran_out_is_queued_again_and_then_fails(clock: Clock) -> None:
    broker = limited(clock, lease=10, max_attempts=2)
    job = now(broker.enqueue("r", submission()))
    behind = now(broker.enqueue("r", submission()))
    caller = broker.wait_result(job.job_id, 1000)
    assert now(broker.poll("r", 0)) is job
    clock.advance(9)
    # A word from the runtime begins the lease anew.
    now(broker.open_result("r", job.job_id))
    clock.advance(9)
    assert job.state is JobState.RUNNING
    clock.advance(1)
    assert job.state is JobState.QUEUED
    assert now(broker.poll("r", 0)) is job
    assert now(broker.poll("r", 0)) is behind
    clock.advance(10)
    assert now(caller).error_message == "There was no result within the lease of 10 seconds, in 2 attempts."
    log = [(each.started_at, each.ended_at, each.outcome) for each in job.attempt_log]
    assert log == [(0, 19000, "lease ran out"), (19000, 29000, "lease ran out")]
    # The other one had its lease, too, and waits for the next poll.
    assert behind.state is JobState.QUEUED


def test_a_poll_that_is_parked_gets_the_job_whose_lease_ran_out(clock: Clock) -> None:
    broker = limited(clock, lease=10)
    job = now(broker.enqueue("r", submission()))
    now(broker.poll("r", 0))
    parked = broker.poll("r", 100)
    clock.advance(10)
    assert now(parked) is job


def test_a_late_result_counts_while_the_job_is_not_finished(clock: Clock) -> None:
    broker = limited(clock, lease=10)
    waiting, running = [now(broker.enqueue("r", submission())) for _ in range(2)]
    for _ in range(2):
        now(broker.poll("r", 0))
    clock.advance(10)
    assert now(broker.poll("r", 0)) is running
    for job in (waiting, running):
        now(broker.complete(job.job_id, body(b"late")))
        assert job.state is JobState.SUCCEEDED
    assert now(broker.poll("r", 0)) is None
    clock.advance(1000)
    assert running.state is JobState.SUCCEEDED


def test_a_lease_is_renewed_by_what_is_written_and_not_by_who_looks(clock: Clock) -> None:
    broker = limited(clock, lease=10, max_attempts=1)
    job = now(broker.enqueue("r", submission()))
    now(broker.poll("r", 0))
    now(broker.open_result("r", job.job_id))
    result = broker.new_result(job.job_id, None)
    for _ in range(3):
        clock.advance(9)
        result.write(b"x")
    clock.advance(9)
    now(broker.job(job.job_id))
    assert job.state is JobState.RUNNING
    clock.advance(1)
    assert job.state is JobState.FAILED


def test_a_stream_has_no_lease(clock: Clock) -> None:
    broker = limited(clock, lease=10)
    job = now(broker.enqueue("r", submission()))
    now(broker.poll("r", 0))
    result = ResultBody()
    now(broker.begin_result(job.job_id, result))
    clock.advance(1000)
    assert job.state is JobState.RUNNING
    now(broker.complete(job.job_id, result))


def test_finished_jobs_are_kept_by_count_bytes_and_age(clock: Clock) -> None:
    broker = limited(clock, retained_jobs=3, retained_bytes=100, retained_seconds=60)

    def kept(jobs: list[Job]) -> list[bool]:
        return [job.job_id in broker._jobs for job in jobs]

    jobs = [finish(broker) for _ in range(4)]
    assert kept(jobs) == [False, True, True, True]
    jobs = [finish(broker, b"x" * 30, size=10) for _ in range(3)]
    assert kept(jobs) == [False, True, True]
    # One that is too large by itself is kept until the next.
    large = finish(broker, b"x" * 1000)
    assert kept([*jobs, large]) == [False, False, False, True]
    small = finish(broker)
    assert kept([large, small]) == [False, True]
    clock.advance(30)
    second = finish(broker)
    clock.advance(31)
    assert kept([small, second]) == [False, True]
    clock.advance(30)
    assert kept([second]) == [False]
    assert (broker._finished_bytes, len(broker._jobs), len(broker._work["r"].job_ids)) == (0, 0, 0)
    with pytest.raises(UnknownJob):
        now(broker.job(second.job_id))


def test_jobs_that_are_not_finished_are_kept_however_many(clock: Clock) -> None:
    broker = limited(clock, retained_jobs=1, retained_seconds=1)
    waiting = [now(broker.enqueue("r", submission())) for _ in range(5)]
    clock.advance(100)
    assert [now(broker.poll("r", 0)) for _ in waiting] == waiting


def test_a_queue_that_is_full_takes_no_more(clock: Clock) -> None:
    broker = limited(clock, queue_depth=2)
    now(broker.enqueue("r", submission()))
    now(broker.enqueue("r", submission(), held=True))
    with pytest.raises(QueueFull) as full:
        now(broker.enqueue("r", submission()))
    assert full.value.args == ("r", 2, "jobs")
    now(broker.poll("r", 0))
    now(broker.enqueue("r", submission()))


def test_queries_may_take_so_many_bytes_until_their_jobs_are_finished(clock: Clock) -> None:
    broker = limited(clock, queue_bytes=10)
    job = now(broker.enqueue("r", evolve(submission(), size=6)))
    with pytest.raises(QueueFull) as full:
        now(broker.enqueue("r", evolve(submission(), size=5)))
    assert full.value.args == ("r", 10, "bytes")
    now(broker.poll("r", 0))
    now(broker.fail_job(job.job_id, "enough"))
    now(broker.enqueue("r", evolve(submission(), size=10)))
    now(broker.delete_runtime("r"))
    now(broker.open_session(SessionRequest("r")))
    now(broker.enqueue("r", evolve(submission(), size=10)))


def test_a_held_job_is_never_dispatched(broker: MemoryBroker, clock: Clock) -> None:
    parked = broker.poll("r", 5)
    held = now(broker.enqueue("r", submission(), held=True))
    clock.advance(5)
    assert now(parked) is None
    assert now(broker.snapshot("r")).queued == 1
    now(broker.cancel(held.job_id, "enough"))
    assert now(broker.snapshot("r")).queued == 0


def test_a_delivery_is_repeated_to_the_next_poll(broker: MemoryBroker) -> None:
    job, finished = [now(broker.enqueue("r", submission())) for _ in range(2)]
    for _ in range(2):
        each = now(broker.poll("r", 0))
        now(broker.deliver_again(each.job_id))
    now(broker.complete(finished.job_id, body(b"x")))
    assert [now(broker.poll("r", 0)) for _ in range(2)] == [job, None]
    assert job.attempts == 1
    parked = broker.poll("r", 5)
    now(broker.deliver_again(job.job_id))
    assert now(parked) is job


def seeded(*runtimes: tuple[str, str], bindings: tuple[tuple[str, str], ...] = ()) -> Registry:
    registry = Registry()
    for runtime_id, token in runtimes:
        registry.add(Runtime(runtime_id, token))
    for rid, runtime_id in bindings:
        registry.bind(Binding(rid, "master", runtime_id))
    return registry


def test_a_reset_goes_back_to_the_seed_and_answers_everybody(clock: Clock) -> None:
    def seed() -> Registry:
        return seeded(("a", "token-a"), bindings=(("ri.a", "a"),))

    broker = MemoryBroker(clock, seed())
    now(broker.open_session(SessionRequest("b", "ri.a")))
    jobs = [now(broker.enqueue(runtime_id, submission())) for runtime_id in "ab"]
    callers = [broker.wait_result(job.job_id, 100) for job in jobs]
    now(broker.poll("b", 0))
    parked = broker.poll("b", 100)
    now(broker.reset(seed()))
    assert [now(caller).error_message for caller in callers] == ["The emulator was reset."] * 2
    assert now(parked) is None
    assert [each.runtime.runtime_id for each in now(broker.snapshots())] == ["a"]
    assert now(broker.resolve("ri.a", None)).runtime_id == "a"
    assert now(broker.module_runtime("token-a")) == "a"
    assert broker._jobs == {}
    clock.advance(10_000)
    assert clock.getDelayedCalls() == []


def test_another_seed_changes_what_differs_and_nothing_else(clock: Clock) -> None:
    former = (("kept", "k"), ("gone", "g"), ("changed", "c"))
    apps = (("ri.kept", "kept"), ("ri.gone", "gone"), ("ri.changed", "changed"), ("ri.moved", "kept"))
    broker = MemoryBroker(clock, seeded(*former, bindings=apps))
    now(broker.open_session(SessionRequest("mine", "ri.mine")))
    jobs = {each: now(broker.enqueue(each, submission())) for each in ("kept", "gone", "changed", "mine")}
    changed = seeded(
        ("kept", "k"),
        ("changed", "c2"),
        ("new", "n"),
        bindings=(("ri.kept", "kept"), ("ri.changed", "changed"), ("ri.moved", "new")),
    )
    now(broker.reseed(seeded(*former, bindings=apps), changed))
    assert {each: job.state for each, job in jobs.items()} == {
        "kept": JobState.QUEUED,
        "gone": JobState.FAILED,
        "changed": JobState.FAILED,
        "mine": JobState.QUEUED,
    }
    with pytest.raises(UnknownRuntime):
        now(broker.runtime("gone"))
    with pytest.raises(NotBound):
        now(broker.resolve("ri.gone", None))
    resolved = {
        rid: now(broker.resolve(rid, None)).runtime_id for rid in ("ri.kept", "ri.changed", "ri.moved", "ri.mine")
    }
    assert resolved == {"ri.kept": "kept", "ri.changed": "changed", "ri.moved": "new", "ri.mine": "mine"}
    assert now(broker.module_runtime("c2")) == "changed"
    assert now(broker.module_runtime("c")) is None


def test_an_illegal_transition_is_refused() -> None:
    job = Job("j", "r", submission(), 0)
    job.transition(JobState.CANCELED, 1)
    with pytest.raises(IllegalTransition):
        job.transition(JobState.RUNNING, 2)


class BrokerMachine(RuleBasedStateMachine):
    """Whatever the interleaving, every job has one holder and one end, and every parked party one answer."""

    limits = JobLimits()

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.broker = MemoryBroker(self.clock, limits=self.limits)
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
        result = ResultBody()
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
        assert all(job.state is JobState.FAILED for job in self.jobs if job.job_id in lost)

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


class LimitedBrokerMachine(BrokerMachine):
    """The same where leases run out and jobs are forgotten soon."""

    limits = JobLimits(lease=5, max_attempts=2, retained_jobs=3, retained_seconds=20)


TestBrokerMachine = BrokerMachine.TestCase
TestLimitedBrokerMachine = LimitedBrokerMachine.TestCase
for machine in (TestBrokerMachine, TestLimitedBrokerMachine):
    machine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
