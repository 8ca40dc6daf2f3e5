"""Brokers alone, on a clock that only the test moves: the same tests for each kind of broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from attrs import evolve
from broker_fixtures import MemoryBed, NodesBed, RedisBed
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis_server import RedisServer
from twisted.internet.defer import CancelledError, Deferred

from twisted_cm.broker.interface import (
    BrokerStopped,
    Change,
    JobAlreadyCompleted,
    NotBound,
    QueueFull,
    UnknownJob,
    UnknownRuntime,
)
from twisted_cm.model.jobs import IllegalTransition, Job, JobFilter, JobSource, JobState, Submission
from twisted_cm.model.registry import Registry, SessionRequest
from twisted_cm.model.runtimes import Binding, FunctionSchema, Runtime


def submission(query: Any = None, size: int = 0) -> Submission:
    return Submission("f", query, JobSource.CONTOUR_SYNC, size=size)


pytestmark = pytest.mark.beside_the_reactor

KINDS = ["memory", "redis", "nodes"]


def make_bed(kind: str, request: pytest.FixtureRequest) -> MemoryBed:
    if kind == "memory":
        return MemoryBed()
    server: RedisServer = request.getfixturevalue("redis_server")
    return RedisBed(server) if kind == "redis" else NodesBed(server)


@pytest.fixture(params=KINDS)
def bed(request: pytest.FixtureRequest) -> Iterator[MemoryBed]:
    made = make_bed(request.param, request)
    yield made
    made.close()


class Bench:
    """A broker with one runtime, and what tests do with it, each step to its end."""

    def __init__(self, bed: MemoryBed, registry: Registry | None = None, **limits: Any) -> None:
        self.bed = bed
        self.broker = bed.make(registry, **limits)
        if registry is None:
            self.session("r")

    def session(self, runtime_id: str, *args: Any, **kwargs: Any) -> Runtime:
        opened: Runtime = self.bed.get(self.broker.open_session(SessionRequest(runtime_id, *args, **kwargs)))
        return opened

    def submit(self, query: Any = None, runtime_id: str = "r", size: int = 0, held: bool = False) -> Job:
        job: Job = self.bed.get(self.broker.enqueue(runtime_id, submission(query, size), held=held))
        return job

    def take(self, runtime_id: str = "r", wait: float = 0) -> str | None:
        """The id of the next job."""
        job = self.bed.get(self.broker.poll(runtime_id, wait))
        return None if job is None else str(job.job_id)

    def park(self, wait: float, runtime_id: str = "r") -> Deferred[Any]:
        poll: Deferred[Any] = self.broker.poll(runtime_id, wait)
        self.bed.settle()
        return poll

    def call(self, job: Job, timeout: float = 1000) -> Deferred[Any]:
        """A caller that parks."""
        waiting: Deferred[Any] = self.broker.wait_result(job.job_id, timeout)
        self.bed.settle()
        return waiting

    def result(self, job: Job, content: bytes) -> Any:
        """A result that has been posted, and is not the job's yet."""
        body = self.broker.new_result(job.job_id, "application/octet-stream")
        body.write(content)
        return body

    def complete(self, job: Job, content: bytes = b"x") -> None:
        self.bed.get(self.broker.complete(job.job_id, self.result(job, content)))

    def finish(self, content: bytes = b"x", size: int = 0) -> Job:
        job = self.submit(size=size)
        self.take()
        self.complete(job, content)
        return job

    def now(self, job: Job) -> Job:
        """How a job stands."""
        found: Job = self.bed.get(self.broker.job(job.job_id))
        return found

    def state(self, job: Job) -> JobState:
        return self.now(job).state

    def content(self, job: Job) -> bytes:
        assert job.result is not None
        content: bytes = self.bed.get(job.result.read(0, job.result.size))
        return content

    def kept(self, jobs: list[Job]) -> list[bool]:
        found = {job.job_id for job in self.bed.get(self.broker.jobs(JobFilter(), 10_000))}
        return [job.job_id in found for job in jobs]


@pytest.fixture
def bench(bed: MemoryBed) -> Bench:
    return Bench(bed)


def test_first_in_first_out(bench: Bench) -> None:
    jobs = [bench.submit(n) for n in range(3)]
    assert [bench.take() for _ in jobs] == [job.job_id for job in jobs]


def test_each_job_goes_to_the_poll_that_waited_longest(bench: Bench) -> None:
    polls = [bench.park(9) for _ in range(2)]
    first = bench.submit()
    assert bench.bed.get(polls[0]).job_id == first.job_id
    assert not polls[1].called


def test_a_poll_gets_the_job_as_it_was_submitted(bench: Bench) -> None:
    query = {"text": '\u00e9\ud800"\\/\x7f', "empty": [{}, [], None, 1.5, 10**30], "large": "x" * 100_000}
    for parked in (True, False):
        poll = bench.park(9) if parked else None
        submitted = evolve(submission(query), deployed_app_rid="ri.\u00fc", branch="b", submitter="jane", size=7)
        job = bench.bed.get(bench.broker.enqueue("r", submitted))
        taken = bench.bed.get(poll or bench.broker.poll("r", 0))
        assert (taken.submission, taken.state, taken.attempts) == (submitted, JobState.RUNNING, 1)
        assert (taken.job_id, taken.number) == (job.job_id, job.number)
        assert bench.now(job).submission == submitted


def test_a_poll_times_out_with_no_job_and_leaves_no_timer(bench: Bench) -> None:
    poll = bench.park(2)
    bench.bed.advance(1.9)
    assert not poll.called
    bench.bed.advance(0.1)
    assert bench.bed.get(poll) is None
    assert bench.bed.timers() == []


def test_a_vanished_poll_gets_no_job(bench: Bench) -> None:
    poll = bench.park(2)
    poll.addErrback(lambda failure: failure.trap(CancelledError))
    poll.cancel()
    bench.bed.settle()
    job = bench.submit()
    assert bench.state(job) is JobState.QUEUED
    assert bench.bed.timers() == []


def test_a_job_given_back_is_first_again(bench: Bench) -> None:
    jobs = [bench.submit(n) for n in range(3)]
    taken = [bench.bed.get(bench.broker.poll("r", 1)) for _ in range(2)]
    for each in reversed(taken):
        bench.bed.get(bench.broker.give_back(each.job_id, each.attempts))
    assert [bench.take() for _ in jobs] == [job.job_id for job in jobs]


def test_a_job_that_was_delivered_is_given_back_no_more_than_once(bench: Bench) -> None:
    job = bench.submit()
    bench.take()
    bench.bed.get(bench.broker.delivered(job.job_id, 1))
    assert bench.state(job) is JobState.RUNNING
    bench.bed.get(bench.broker.give_back(job.job_id, 1))
    assert bench.take() == job.job_id
    bench.bed.get(bench.broker.give_back(job.job_id, 1))
    assert bench.state(job) is JobState.RUNNING


def test_completion_answers_the_caller(bench: Bench) -> None:
    job = bench.submit()
    caller = bench.call(job)
    bench.take()
    bench.complete(job, b'\x00\xff\xc3\xa9\xed\xa0\x80"\\')
    assert bench.content(bench.bed.get(caller)) == b'\x00\xff\xc3\xa9\xed\xa0\x80"\\'
    bench.bed.get(bench.broker.stop())
    assert bench.bed.timers() == []


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 256 * 1024, 3 * 1024 * 1024 + 5])
def test_a_result_of_any_size_comes_back_as_it_was(bench: Bench, size: int) -> None:
    job = bench.submit()
    caller = bench.call(job)
    content = bytes(range(256)) * (size // 256 + 1)
    bench.complete(job, content[:size])
    for found in (bench.bed.get(caller), bench.now(job)):
        assert (found.result.size, found.result.complete) == (size, True)
        assert found.result.content_type == "application/octet-stream"
        assert bench.content(found) == content[:size]
    bench.complete(job, content[:size])
    with pytest.raises(JobAlreadyCompleted):
        bench.complete(job, content[: max(size - 1, 0)] + b"U")


def test_the_same_result_twice_is_accepted_and_a_different_one_is_not(bench: Bench) -> None:
    job = bench.submit()
    bench.complete(job, b"a")
    bench.complete(job, b"a")
    with pytest.raises(JobAlreadyCompleted):
        bench.complete(job, b"b")
    assert bench.content(bench.now(job)) == b"a"


def test_a_canceled_job_is_not_dispatched_and_its_result_is_discarded(bench: Bench) -> None:
    job = bench.submit()
    assert bench.bed.get(bench.broker.cancel(job.job_id, "no longer wanted"))
    assert bench.take() is None
    bench.complete(job, b"late")
    assert bench.now(job).result is None


def test_a_caller_times_out_and_the_job_lives_on(bench: Bench) -> None:
    job = bench.submit()
    caller = bench.call(job, 30)
    bench.bed.advance(30)
    assert bench.bed.get(caller).state is JobState.QUEUED
    assert bench.take() == job.job_id


def test_a_session_reset_answers_everybody(bench: Bench) -> None:
    before = bench.session("r").module_auth_token
    jobs = [bench.submit() for _ in range(2)]
    callers = [bench.call(job) for job in jobs]
    bench.take()
    after = bench.session("r").module_auth_token
    answers = [bench.bed.get(caller) for caller in callers]
    assert [each.state for each in answers] == [JobState.FAILED, JobState.FAILED]
    assert "reset" in answers[0].error_message
    assert before != after
    assert bench.bed.get(bench.broker.module_runtime(before)) is None
    with pytest.raises(UnknownJob):
        bench.now(jobs[0])


def test_a_session_reset_answers_parked_polls(bench: Bench) -> None:
    poll = bench.park(30)
    bench.session("r")
    assert bench.bed.get(poll) is None


def test_restart_fails_what_was_running_and_keeps_what_was_queued(bench: Bench) -> None:
    running, queued = (bench.submit() for _ in range(2))
    bench.take()
    caller = bench.call(running)
    assert bench.bed.get(bench.broker.restart("r")) == [running.job_id]
    assert bench.bed.get(caller).error_message == "runtime restarted"
    assert bench.take() == queued.job_id


def test_bindings_are_taken_over_kept_and_dropped(bench: Bench) -> None:
    def resolve(branch: str | None = None) -> str:
        return str(bench.bed.get(bench.broker.resolve("ri.x", branch)).runtime_id)

    bench.session("a", "ri.x")
    assert resolve() == "a"
    bench.session("b", "ri.x")
    assert resolve("master") == "b"
    bench.session("b", keep_bindings=True)
    assert resolve("master") == "b"
    bench.session("b")
    with pytest.raises(NotBound):
        resolve()


def test_schemas_are_kept_and_updated_by_name(bench: Bench) -> None:
    assert bench.bed.get(bench.broker.runtime("r")).schemas is None
    bench.bed.get(bench.broker.put_schemas("r", []))
    assert bench.bed.get(bench.broker.runtime("r")).schemas == {}
    payload = {"inputs": [], "nothing": {}, "text": "\u00e9"}
    for name, posted in (("f", {"old": 1}), ("g", {}), ("f", payload)):
        bench.bed.advance(1)
        bench.bed.get(bench.broker.put_schemas("r", [FunctionSchema(name, posted, ("CANNOT_PARSE_INPUTS",))]))
    runtime = bench.bed.get(bench.broker.runtime("r"))
    assert runtime.schemas["f"] == FunctionSchema("f", payload, ("CANNOT_PARSE_INPUTS",), 3000)
    assert (sorted(runtime.schemas), runtime.last_schema_post_at) == (["f", "g"], 3000)
    bench.session("r")
    assert bench.bed.get(bench.broker.runtime("r")).schemas is None
    with pytest.raises(UnknownRuntime):
        bench.bed.get(bench.broker.put_schemas("nobody", []))


def test_a_runtime_is_connected_when_it_has_polled(bench: Bench) -> None:
    assert not bench.bed.get(bench.broker.runtime("r")).connected
    bench.bed.advance(5)
    bench.take()
    snapshot = bench.bed.get(bench.broker.snapshot("r"))
    assert (snapshot.runtime.connected, snapshot.runtime.last_poll_at) == (True, 5000)
    polls = [bench.park(9) for _ in range(2)]
    assert bench.bed.get(bench.broker.snapshot("r")).parked_polls == 2
    bench.bed.advance(9)
    assert [bench.bed.get(poll) for poll in polls] == [None, None]
    assert bench.bed.get(bench.broker.snapshot("r")).parked_polls == 0


def test_whoever_looks_on_is_told_of_every_change(bench: Bench) -> None:
    seen: list[Change] = []
    observing = bench.broker.observe(seen.append)
    bench.bed.settle()
    job = bench.finish(b"abc")
    assert [each.job.state.value for each in seen if each.job is not None] == ["queued", "running", "succeeded"] or [
        each.job is job for each in seen if each.job is not None
    ] == [True, True, True]
    last = seen[-1].job
    assert last is not None and (last.job_id, last.state) == (job.job_id, JobState.SUCCEEDED)
    assert last.result is not None and last.result.size == 3
    assert [each.runtime_id for each in seen if each.job is None] == ["r"]
    bench.session("r")
    assert [each.runtime_id for each in seen if each.forgotten] == ["r"]
    observing.addErrback(lambda failure: failure.trap(CancelledError))
    observing.cancel()
    bench.bed.settle()
    count = len(seen)
    bench.finish()
    assert len(seen) == count


def test_jobs_are_listed_last_first_by_what_they_are(bench: Bench) -> None:
    bench.session("other")
    first, second = bench.submit(), bench.submit()
    third = bench.submit(runtime_id="other")
    bench.take()

    def listed(most: int = 10, **wanted: Any) -> list[str]:
        return [job.job_id for job in bench.bed.get(bench.broker.jobs(JobFilter(**wanted), most))]

    assert listed() == [third.job_id, second.job_id, first.job_id]
    assert listed(2) == [third.job_id, second.job_id]
    assert listed(before=third.number) == [second.job_id, first.job_id]
    assert listed(runtime_id="r") == [second.job_id, first.job_id]
    assert listed(state=JobState.RUNNING) == [first.job_id]
    assert listed(query_type="g") == []


def test_stop_answers_everybody_and_takes_no_more(bench: Bench) -> None:
    bench.session("idle")
    poll = bench.park(30, "idle")
    caller = bench.call(bench.submit())
    bench.bed.get(bench.broker.stop())
    assert bench.bed.get(poll) is None
    for refused in (caller, bench.broker.enqueue("r", submission())):
        with pytest.raises(BrokerStopped):
            bench.bed.get(refused)
    assert bench.bed.timers() == []


def test_a_job_whose_lease_ran_out_is_queued_again_and_then_fails(bed: MemoryBed) -> None:
    bench = Bench(bed, lease=10, max_attempts=2)
    job, behind = bench.submit(), bench.submit()
    caller = bench.call(job)
    assert bench.take() == job.job_id
    bed.advance(9)
    # A word from the runtime begins the lease anew.
    bed.get(bench.broker.open_result("r", job.job_id))
    bed.advance(9)
    assert bench.state(job) is JobState.RUNNING
    bed.advance(1)
    assert bench.state(job) is JobState.QUEUED
    assert bench.take() == job.job_id
    assert bench.take() == behind.job_id
    bed.advance(10)
    answer = bed.get(caller)
    assert answer.error_message == "There was no result within the lease of 10 seconds, in 2 attempts."
    log = [(each.started_at, each.ended_at, each.outcome) for each in answer.attempt_log]
    assert log == [(0, 19000, "lease ran out"), (19000, 29000, "lease ran out")]
    # The other one had its lease, too, and waits for the next poll.
    assert bench.state(behind) is JobState.QUEUED


def test_a_poll_that_is_parked_gets_the_job_whose_lease_ran_out(bed: MemoryBed) -> None:
    bench = Bench(bed, lease=10)
    job = bench.submit()
    bench.take()
    parked = bench.park(100)
    bed.advance(10)
    assert bed.get(parked).job_id == job.job_id


def test_a_late_result_counts_while_the_job_is_not_finished(bed: MemoryBed) -> None:
    bench = Bench(bed, lease=10)
    jobs = [bench.submit() for _ in range(2)]
    for _ in jobs:
        bench.take()
    bed.advance(10)
    # Which of the two leases is looked at first is of no matter.
    assert bench.take() in [job.job_id for job in jobs]
    for job in jobs:
        bench.complete(job, b"late")
        assert bench.state(job) is JobState.SUCCEEDED
    assert bench.take() is None
    bed.advance(1000)
    assert bench.state(jobs[1]) is JobState.SUCCEEDED


def test_a_lease_is_renewed_by_what_is_written_and_not_by_who_looks(bed: MemoryBed) -> None:
    bench = Bench(bed, lease=10, max_attempts=1)
    job = bench.submit()
    bench.take()
    bed.get(bench.broker.open_result("r", job.job_id))
    result = bench.broker.new_result(job.job_id, None)
    for _ in range(3):
        bed.advance(9)
        result.write(b"x")
        bed.settle()
    bed.advance(9)
    assert bench.state(job) is JobState.RUNNING
    bed.advance(1)
    assert bench.state(job) is JobState.FAILED


def test_a_stream_has_no_lease(bed: MemoryBed) -> None:
    bench = Bench(bed, lease=10)
    job = bench.submit()
    bench.take()
    result = bench.broker.new_result(job.job_id, None)
    assert bed.get(bench.broker.begin_result(job.job_id, result))
    bed.advance(1000)
    assert bench.state(job) is JobState.RUNNING
    bed.get(bench.broker.complete(job.job_id, result))
    assert bench.state(job) is JobState.SUCCEEDED


def test_a_stream_answers_callers_when_it_begins_and_takes_no_second_one(bench: Bench) -> None:
    job = bench.submit()
    caller, patient = bench.call(job), bench.broker.wait_end(job.job_id, 1000)
    result, other = (bench.broker.new_result(job.job_id, None) for _ in range(2))
    assert bench.bed.get(bench.broker.begin_result(job.job_id, result))
    assert not bench.bed.get(bench.broker.begin_result(job.job_id, other))
    assert bench.bed.get(caller).state is JobState.RUNNING
    assert not patient.called
    assert bench.bed.get(bench.broker.fail_job(job.job_id, "broke off"))
    answer = bench.bed.get(patient)
    assert (answer.state, answer.error_message, answer.result) == (JobState.FAILED, "broke off", None)


def test_finished_jobs_are_kept_by_count_bytes_and_age(bed: MemoryBed) -> None:
    bench = Bench(bed, retained_jobs=3, retained_bytes=100, retained_seconds=60)
    jobs = [bench.finish() for _ in range(4)]
    assert bench.kept(jobs) == [False, True, True, True]
    jobs = [bench.finish(b"x" * 30, size=10) for _ in range(3)]
    assert bench.kept(jobs) == [False, True, True]
    # One that is too large by itself is kept until the next.
    large = bench.finish(b"x" * 1000)
    assert bench.kept([*jobs, large]) == [False, False, False, True]
    small = bench.finish()
    assert bench.kept([large, small]) == [False, True]
    bed.advance(30)
    second = bench.finish()
    bed.advance(31)
    assert bench.kept([small, second]) == [False, True]
    bed.advance(30)
    assert bench.kept([second]) == [False]
    with pytest.raises(UnknownJob):
        bench.now(second)


def test_nothing_is_left_of_a_job_that_is_forgotten(bed: MemoryBed) -> None:
    bench = Bench(bed, retained_seconds=60)
    bench.finish()
    bed.advance(61)
    before = bed.weight(bench.broker)
    for size in (1, 1_000_000):
        job = bench.submit(size=5)
        bench.call(job, 5)
        bench.take()
        bed.get(bench.broker.delivered(job.job_id, 1))
        bench.complete(job, b"x" * size)
    assert bed.weight(bench.broker) > before
    bed.advance(61)
    assert bed.weight(bench.broker) == before


def test_jobs_that_are_not_finished_are_kept_however_many(bed: MemoryBed) -> None:
    bench = Bench(bed, retained_jobs=1, retained_seconds=1)
    waiting = [bench.submit() for _ in range(5)]
    bed.advance(100)
    assert [bench.take() for _ in waiting] == [job.job_id for job in waiting]


def test_a_queue_that_is_full_takes_no_more(bed: MemoryBed) -> None:
    bench = Bench(bed, queue_depth=2)
    bench.submit()
    bench.submit(held=True)
    with pytest.raises(QueueFull) as full:
        bench.submit()
    assert full.value.args == ("r", 2, "jobs")
    bench.take()
    bench.submit()


def test_queries_may_take_so_many_bytes_until_their_jobs_are_finished(bed: MemoryBed) -> None:
    bench = Bench(bed, queue_bytes=10)
    job = bench.submit(size=6)
    with pytest.raises(QueueFull) as full:
        bench.submit(size=5)
    assert full.value.args == ("r", 10, "bytes")
    bench.take()
    bed.get(bench.broker.fail_job(job.job_id, "enough"))
    bench.submit(size=10)
    bed.get(bench.broker.delete_runtime("r"))
    bench.session("r")
    bench.submit(size=10)


def test_a_held_job_is_never_dispatched(bench: Bench) -> None:
    parked = bench.park(5)
    held = bench.submit(held=True)
    bench.bed.advance(5)
    assert bench.bed.get(parked) is None
    assert bench.bed.get(bench.broker.snapshot("r")).queued == 1
    bench.bed.get(bench.broker.cancel(held.job_id, "enough"))
    assert bench.bed.get(bench.broker.snapshot("r")).queued == 0


def test_a_delivery_is_repeated_to_the_next_poll(bench: Bench) -> None:
    job, finished = [bench.submit() for _ in range(2)]
    for _ in range(2):
        bench.bed.get(bench.broker.deliver_again(bench.take()))
    bench.complete(finished)
    assert [bench.take() for _ in range(2)] == [job.job_id, None]
    assert bench.now(job).attempts == 1
    parked = bench.park(5)
    bench.bed.get(bench.broker.deliver_again(job.job_id))
    assert bench.bed.get(parked).job_id == job.job_id


def test_nobody_is_found_who_is_not_there(bench: Bench) -> None:
    for asked in (
        bench.broker.poll("nobody", 1),
        bench.broker.enqueue("nobody", submission()),
        bench.broker.runtime("nobody"),
        bench.broker.snapshot("nobody"),
        bench.broker.restart("nobody"),
        bench.broker.delete_runtime("nobody"),
    ):
        with pytest.raises(UnknownRuntime):
            bench.bed.get(asked)
    bench.session("other")
    theirs = bench.submit(runtime_id="other")
    for asked in (
        bench.broker.job("nothing"),
        bench.broker.wait_result("nothing", 1),
        bench.broker.wait_end("nothing", 0),
        bench.broker.cancel("nothing", "why"),
        bench.broker.fail_job("nothing", "why"),
        bench.broker.deliver_again("nothing"),
        bench.broker.open_result("r", theirs.job_id),
        bench.broker.begin_result("nothing", bench.broker.new_result("nothing", None)),
        bench.broker.complete("nothing", bench.broker.new_result("nothing", None)),
    ):
        with pytest.raises(UnknownJob):
            bench.bed.get(asked)
    assert bench.bed.get(bench.broker.give_back("nothing", 1)) is None
    assert bench.bed.get(bench.broker.delivered("nothing", 1)) is None


def seeded(*runtimes: tuple[str, str], bindings: tuple[tuple[str, str], ...] = ()) -> Registry:
    registry = Registry()
    for runtime_id, token in runtimes:
        registry.add(Runtime(runtime_id, token))
    for rid, runtime_id in bindings:
        registry.bind(Binding(rid, "master", runtime_id))
    return registry


def test_a_reset_goes_back_to_the_seed_and_answers_everybody(bed: MemoryBed) -> None:
    def seed() -> Registry:
        return seeded(("a", "token-a"), ("made-up", ""), bindings=(("ri.a", "a"),))

    bench = Bench(bed, seed())
    made_up = bed.get(bench.broker.runtime("made-up")).module_auth_token
    bench.session("b", "ri.a")
    jobs = [bench.submit(runtime_id=runtime_id) for runtime_id in "ab"]
    callers = [bench.call(job) for job in jobs]
    bench.take("b")
    parked = bench.park(100, "b")
    bed.get(bench.broker.reset(seed()))
    assert [bed.get(caller).error_message for caller in callers] == ["The emulator was reset."] * 2
    assert bed.get(parked) is None
    assert [each.runtime.runtime_id for each in bed.get(bench.broker.snapshots())] == ["a", "made-up"]
    assert bed.get(bench.broker.resolve("ri.a", None)).runtime_id == "a"
    assert bed.get(bench.broker.module_runtime("token-a")) == "a"
    assert bed.get(bench.broker.module_runtime(made_up)) == "made-up"
    assert made_up.startswith("foundry_module_auth_")
    assert bench.kept(jobs) == [False, False]
    bed.advance(10_000)
    assert bed.timers() == []


def test_another_seed_changes_what_differs_and_nothing_else(bed: MemoryBed) -> None:
    former = (("kept", "k"), ("gone", "g"), ("changed", "c"), ("made-up", ""))
    apps = (("ri.kept", "kept"), ("ri.gone", "gone"), ("ri.changed", "changed"), ("ri.moved", "kept"))
    bench = Bench(bed, seeded(*former, bindings=apps))
    bench.session("mine", "ri.mine")
    jobs = {each: bench.submit(runtime_id=each) for each in ("kept", "gone", "changed", "mine", "made-up")}
    callers = {each: bench.call(jobs[each]) for each in ("gone", "changed")}
    changed = seeded(
        ("kept", "k"),
        ("changed", "c2"),
        ("new", "n"),
        ("made-up", ""),
        bindings=(("ri.kept", "kept"), ("ri.changed", "changed"), ("ri.moved", "new")),
    )
    # The second time it is no news, as where each node is told to read its seed again.
    for _ in range(2):
        bed.get(bench.broker.reseed(changed))
        assert [bench.state(jobs[each]) for each in ("kept", "mine", "made-up")] == [JobState.QUEUED] * 3
    assert [bed.get(caller).state for caller in callers.values()] == [JobState.FAILED] * 2
    with pytest.raises(UnknownRuntime):
        bed.get(bench.broker.runtime("gone"))
    with pytest.raises(NotBound):
        bed.get(bench.broker.resolve("ri.gone", None))
    resolved = {
        rid: bed.get(bench.broker.resolve(rid, None)).runtime_id
        for rid in ("ri.kept", "ri.changed", "ri.moved", "ri.mine")
    }
    assert resolved == {"ri.kept": "kept", "ri.changed": "changed", "ri.moved": "new", "ri.mine": "mine"}
    assert bed.get(bench.broker.module_runtime("c2")) == "changed"
    assert bed.get(bench.broker.module_runtime("c")) is None


def test_an_illegal_transition_is_refused() -> None:
    job = Job("j", "r", submission(), 0)
    job.transition(JobState.CANCELED, 1)
    with pytest.raises(IllegalTransition):
        job.transition(JobState.RUNNING, 2)


class BrokerMachine(RuleBasedStateMachine):
    """Whatever the interleaving, every job has one holder and one end, and every parked party one answer."""

    def __init__(self, bed: MemoryBed, **limits: Any) -> None:
        super().__init__()
        self.bed = bed
        self.bench = Bench(bed, **limits)
        self.broker = self.bench.broker
        self.jobs: list[Job] = []
        self.ends: dict[str, JobState] = {}
        self.answers: list[list[Any]] = []
        self.parked: list[tuple[Deferred[Any], list[Any]]] = []
        self.polls: list[tuple[Deferred[Any], list[Any]]] = []
        self.look()

    def look(self) -> None:
        """See how every job stands: what is known of one that is no longer kept is how it ended."""
        listed = {job.job_id: job for job in self.bed.get(self.broker.jobs(JobFilter(), 10_000))}
        self.stands = [listed.get(job.job_id) for job in self.jobs]

    def park(self, deferred: Deferred[Any], shelf: list[tuple[Deferred[Any], list[Any]]]) -> None:
        answered: list[Any] = []
        deferred.addBoth(answered.append)
        self.answers.append(answered)
        shelf.append((deferred, answered))
        self.bed.settle()

    def over(self, job: Job) -> bool:
        stands = self.stands[self.jobs.index(job)]
        return stands is None or stands.state.finished

    @rule()
    def enqueue(self) -> None:
        job = self.bench.submit()
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
            self.bed.get(self.broker.give_back(job.job_id, attempt))
        else:
            deferred.cancel()
            self.bed.settle()

    @precondition(lambda self: self.polls)
    @rule(data=st.data())
    def deliver(self, data: Any) -> None:
        _, answered = data.draw(st.sampled_from(self.polls))
        if answered and isinstance(answered[0], Job):
            self.bed.get(self.broker.delivered(answered[0].job_id, answered[0].attempts))

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def caller_leaves(self, data: Any) -> None:
        data.draw(st.sampled_from(self.parked))[0].cancel()
        self.bed.settle()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), content=st.sampled_from([b"a", b"b"]))
    def result(self, data: Any, content: bytes) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        try:
            self.bench.complete(job, content)
        except (JobAlreadyCompleted, UnknownJob):
            assert self.over(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), whole=st.booleans())
    def stream(self, data: Any, whole: bool) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        result = self.broker.new_result(job.job_id, None)
        try:
            if self.bed.get(self.broker.begin_result(job.job_id, result)):
                result.write(b"s")
                if whole:
                    self.bed.get(self.broker.complete(job.job_id, result))
                    assert self.bench.content(self.bench.now(job)) == b"s"
                else:
                    assert self.bed.get(self.broker.fail_job(job.job_id, "broke off"))
                    assert self.bench.now(job).result is None
            else:
                assert self.over(job)
        except UnknownJob:
            assert self.over(job)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), only_queued=st.booleans())
    def cancel(self, data: Any, only_queued: bool) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        try:
            self.bed.get(self.broker.cancel(job.job_id, "no longer wanted", only_queued))
        except UnknownJob:
            assert self.over(job)

    @rule(seconds=st.sampled_from([1, 2, 30]))
    def time_passes(self, seconds: float) -> None:
        self.bed.advance(seconds)

    @rule()
    def restart(self) -> None:
        lost = self.bed.get(self.broker.restart("r"))
        self.look()
        for job, stands in zip(self.jobs, self.stands, strict=True):
            assert job.job_id not in lost or stands is None or stands.state is JobState.FAILED

    @rule()
    def reset(self) -> None:
        self.bench.session("r")
        self.look()
        assert all(self.over(job) for job in self.jobs)

    @invariant()
    def all_is_well(self) -> None:
        self.look()
        self.one_end()
        self.one_holder()
        self.nobody_waits_for_an_end_that_was()

    def one_end(self) -> None:
        for job, stands in zip(self.jobs, self.stands, strict=True):
            if stands is not None and stands.state.finished:
                assert self.ends.setdefault(job.job_id, stands.state) is stands.state
            assert job.job_id not in self.ends or self.over(job)

    def one_holder(self) -> None:
        snapshot = self.bed.get(self.broker.snapshot("r"))
        states = [stands.state for stands in self.stands if stands is not None]
        assert snapshot.queued == states.count(JobState.QUEUED)
        assert snapshot.running == states.count(JobState.RUNNING)
        assert not (snapshot.queued and snapshot.parked_polls)
        assert snapshot.parked_polls == sum(not answered for _, answered in self.polls)
        dispatched = [answered[0].job_id for _, answered in self.polls if answered and isinstance(answered[0], Job)]
        for stands in self.stands:
            assert stands is None or dispatched.count(stands.job_id) <= stands.attempts

    def nobody_waits_for_an_end_that_was(self) -> None:
        for job, (_, answered) in zip(self.jobs, self.parked, strict=True):
            assert answered or not self.over(job)

    def teardown(self) -> None:
        self.bed.get(self.broker.stop())
        assert all(len(answered) == 1 for answered in self.answers)
        assert self.bed.timers() == []
        self.bed.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "limits", [{}, {"lease": 5, "max_attempts": 2, "retained_jobs": 3, "retained_seconds": 20}], ids=["", "limited"]
)
def test_whatever_the_interleaving(kind: str, limits: dict[str, Any], request: pytest.FixtureRequest) -> None:
    examples, steps = (100, 40) if kind == "memory" else (40, 30)
    run_state_machine_as_test(
        lambda: BrokerMachine(make_bed(kind, request), **limits),
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None),
    )
