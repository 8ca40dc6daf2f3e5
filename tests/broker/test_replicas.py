"""Replicas of a runtime, on each kind of broker."""

from __future__ import annotations

from typing import Any

import pytest
from broker_fixtures import Driver, MemoryFixture
from twisted.internet.defer import Deferred

from twisted_cm.broker.interface import (
    BrokerStopped,
    Change,
    NotBound,
    ReplicaExists,
    TokenInUse,
    UnknownReplica,
    UnknownRuntime,
)
from twisted_cm.model.jobs import Job, JobState
from twisted_cm.model.registry import Registry
from twisted_cm.model.replicas import GONE_KEPT, ModuleIdentity, ReplicaRequest
from twisted_cm.model.runtimes import Binding, FunctionSchema, Runtime

pytestmark = pytest.mark.beside_the_reactor


def identity(driver: Driver, token: str) -> Any:
    return driver.get(driver.broker.module_runtime(token))


# Opening


def test_a_runtime_has_a_default_replica_without_a_limit(driver: Driver) -> None:
    token = driver.get(driver.broker.runtime("r")).module_auth_token
    (default,) = driver.get(driver.broker.replicas("r"))
    assert (default.replica.replica_id, default.replica.limit, default.replica.token) == ("default", None, token)
    assert identity(driver, token) == ModuleIdentity("r", "default")
    jobs = [driver.submit() for _ in range(5)]
    assert [driver.take() for _ in jobs] == [job.job_id for job in jobs]
    assert driver.replicas() == {"default": ("responsive", [job.job_id for job in jobs])}
    assert {driver.now(job).replica_id for job in jobs} == {"default"}


def test_a_replica_has_a_token_and_a_limit_of_its_own(driver: Driver) -> None:
    driver.brokers.advance(3)
    first, second = driver.open("a"), driver.open(limit=5)
    assert (first.replica_id, first.limit, first.opened_at) == ("a", 1, 3000)
    assert second.limit == 5 and len(second.replica_id) > 10
    tokens = {first.token, second.token, driver.get(driver.broker.runtime("r")).module_auth_token}
    assert len(tokens) == 3 and all(each.startswith("foundry_module_auth_") for each in tokens)
    assert first.token not in repr(first)
    for _ in range(2):
        # On each node.
        assert identity(driver, first.token) == ModuleIdentity("r", "a")
        assert identity(driver, second.token) == ModuleIdentity("r", second.replica_id)
    assert list(driver.replicas()) == ["default", "a", second.replica_id]


def test_a_replica_id_is_open_once(driver: Driver) -> None:
    driver.open("a")
    for each in ("a", "default"):
        with pytest.raises(ReplicaExists):
            driver.open(each)
    driver.open("a", runtime_id="new")
    with pytest.raises(ReplicaExists):
        driver.open("default", runtime_id="new")


def test_a_replica_may_bring_a_token_that_nothing_has(driver: Driver) -> None:
    driver.open("a", token="a token of its own")
    assert identity(driver, "a token of its own") == ModuleIdentity("r", "a")
    runtime_token = driver.get(driver.broker.runtime("r")).module_auth_token
    for token in ("a token of its own", runtime_token):
        with pytest.raises(TokenInUse):
            driver.open("b", token=token)
    assert list(driver.replicas()) == ["default", "a"]
    driver.get(driver.broker.close_replica("r", "a"))
    driver.open("b", token="a token of its own")
    assert identity(driver, "a token of its own") == ModuleIdentity("r", "b")


def test_opening_a_replica_resets_nothing(driver: Driver) -> None:
    token = driver.session("r", "ri.app", display_name="App").module_auth_token
    running, queued = driver.submit(), driver.submit()
    driver.take()
    driver.get(driver.broker.put_schemas("r", [FunctionSchema("f", {})]))
    before = driver.get(driver.broker.snapshot("r"))
    driver.open("a", deployed_app_rid="ri.app")
    after = driver.get(driver.broker.snapshot("r"))
    assert after.runtime.module_auth_token == token
    assert after.runtime.schemas == before.runtime.schemas
    assert after.bindings == before.bindings
    assert [driver.state(job) for job in (running, queued)] == [JobState.RUNNING, JobState.QUEUED]


def test_a_parked_poll_stays_when_a_replica_is_opened(driver: Driver) -> None:
    parked = driver.park(30)
    driver.open("a")
    job = driver.submit()
    assert driver.get(parked).job_id == job.job_id


def test_opening_a_replica_creates_its_runtime_and_takes_its_deployed_app_over(driver: Driver) -> None:
    driver.session("former", "ri.app")
    replica = driver.open("a", runtime_id="new", deployed_app_rid="ri.app")
    runtime = driver.get(driver.broker.runtime("new"))
    assert runtime.module_auth_token not in ("", replica.token)
    assert identity(driver, runtime.module_auth_token) == ModuleIdentity("new", "default")
    assert driver.get(driver.broker.resolve("ri.app", "master")).runtime_id == "new"
    driver.open("b", runtime_id="new", deployed_app_rid="ri.app", branch="dev")
    bound = [(each.deployed_app_rid, each.branch) for each in driver.get(driver.broker.snapshot("new")).bindings]
    assert bound == [("ri.app", "master"), ("ri.app", "dev")]
    assert driver.get(driver.broker.snapshot("former")).bindings == []


def test_there_must_be_such_a_runtime_and_such_a_replica(driver: Driver) -> None:
    for wrong in (
        lambda: driver.broker.replicas("nobody"),
        lambda: driver.broker.close_replica("nobody", "a"),
        lambda: driver.broker.poll("nobody", 0, "a"),
        lambda: driver.broker.restart("nobody", "a"),
    ):
        with pytest.raises(UnknownRuntime):
            driver.get(wrong())
    driver.open("gone")
    driver.get(driver.broker.close_replica("r", "gone"))
    for each in ("a", "gone"):
        for call in (
            lambda each=each: driver.broker.close_replica("r", each),
            lambda each=each: driver.broker.poll("r", 30, each),
            lambda each=each: driver.broker.poll("r", 0, each),
            lambda each=each: driver.broker.restart("r", each),
        ):
            with pytest.raises(UnknownReplica):
                driver.get(call())
    with pytest.raises(UnknownReplica):
        driver.get(driver.broker.close_replica("r", "default"))


# Dispatch


def test_a_replica_gets_no_more_jobs_than_its_limit(driver: Driver) -> None:
    driver.open("a", limit=2)
    jobs = [driver.submit() for _ in range(4)]
    assert [driver.take(replica_id="a") for _ in range(3)] == [jobs[0].job_id, jobs[1].job_id, None]
    assert driver.replicas()["a"] == ("busy", [job.job_id for job in jobs[:2]])
    driver.complete(jobs[0])
    assert driver.replicas()["a"] == ("responsive", [jobs[1].job_id])
    assert [driver.take(replica_id="a") for _ in range(2)] == [jobs[2].job_id, None]
    assert driver.take() == jobs[3].job_id


@pytest.mark.parametrize("how", ["completed", "failed", "canceled", "given back", "restarted"])
def test_a_parked_poll_of_a_full_replica_gets_the_next_job_when_one_ends(driver: Driver, how: str) -> None:
    driver.open("a")
    first, second = driver.submit(), driver.submit()
    assert driver.take(replica_id="a") == first.job_id
    parked = driver.park(30, replica_id="a")
    assert not parked.called
    broker = driver.broker
    if how == "completed":
        driver.complete(first)
    elif how == "failed":
        driver.get(broker.fail_job(first.job_id, "no"))
    elif how == "canceled":
        driver.get(broker.cancel(first.job_id, "no"))
    elif how == "given back":
        driver.get(broker.give_back(first.job_id, 1))
    else:
        assert driver.get(broker.restart("r", "a")) == [first.job_id]
    got = driver.get(parked)
    assert got.job_id == (first.job_id if how == "given back" else second.job_id)
    assert (got.replica_id, got.state) == ("a", JobState.RUNNING)


def test_a_lease_that_runs_out_frees_a_place(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, lease=10)
    driver.open("a")
    job = driver.submit()
    assert driver.take(replica_id="a") == job.job_id
    parked = driver.park(50, replica_id="a")
    brokers.advance(10)
    assert brokers.get(parked).job_id == job.job_id
    assert driver.now(job).attempts == 2


def test_a_job_goes_to_the_replica_with_room_whose_poll_has_waited_longest(driver: Driver) -> None:
    driver.open("a")
    driver.open("b", limit=2)
    polls = {each: driver.park(1000, replica_id=each) for each in ("a", "b", "default")}
    jobs = [driver.submit()]
    assert driver.get(polls["a"]).job_id == jobs[0].job_id
    # This poll waits longest from now on, but its replica is full.
    polls["a"] = driver.park(1000, replica_id="a")
    jobs.append(driver.submit())
    assert driver.get(polls["b"]).job_id == jobs[1].job_id
    polls["b"] = driver.park(1000, replica_id="b")
    driver.complete(jobs[0])
    jobs += [driver.submit() for _ in range(3)]
    assert [driver.get(polls[each]).job_id for each in ("default", "a", "b")] == [each.job_id for each in jobs[2:]]
    assert [driver.now(job).replica_id for job in jobs] == ["a", "b", "default", "a", "b"]


def test_polls_of_a_full_replica_keep_their_turn(driver: Driver) -> None:
    driver.open("a")
    job = driver.submit()
    driver.take(replica_id="a")
    first = driver.park(1000, replica_id="a")
    second = driver.park(1000)
    driver.complete(job)
    driver.submit()
    assert driver.get(first).replica_id == "a"
    assert not second.called
    driver.submit()
    assert driver.get(second).replica_id == "default"


def test_a_poll_of_a_full_replica_times_out_and_may_vanish(driver: Driver) -> None:
    driver.open("a")
    driver.submit()
    driver.take(replica_id="a")
    parked, vanishing = (driver.park(5, replica_id="a") for _ in range(2))
    vanishing.addErrback(lambda _: None)
    vanishing.cancel()
    driver.brokers.settle()
    assert driver.get(driver.broker.snapshot("r")).parked_polls == 1
    driver.brokers.advance(5)
    assert driver.get(parked) is None
    assert driver.brokers.timers() == []


def test_a_repeated_delivery_counts_on_both_replicas(driver: Driver) -> None:
    driver.open("a")
    driver.open("b")
    job, other = driver.submit(), driver.submit()
    assert driver.take(replica_id="a") == job.job_id
    driver.get(driver.broker.deliver_again(job.job_id))
    assert driver.take(replica_id="b") == job.job_id
    assert [driver.replicas()[each] for each in "ab"] == [("busy", [job.job_id])] * 2
    parked = driver.park(30, replica_id="b")
    driver.get(driver.broker.give_back(job.job_id, 1))
    assert driver.get(parked).job_id == other.job_id
    assert driver.state(job) is JobState.RUNNING


def test_a_repeated_delivery_ends_with_its_replica(driver: Driver) -> None:
    driver.open("a")
    driver.open("b")
    job = driver.submit()
    driver.take(replica_id="a")
    driver.get(driver.broker.deliver_again(job.job_id))
    assert driver.take(replica_id="b") == job.job_id
    driver.get(driver.broker.close_replica("r", "b"))
    assert driver.state(job) is JobState.RUNNING
    driver.get(driver.broker.give_back(job.job_id, 1))
    assert driver.state(job) is JobState.QUEUED
    assert driver.take(replica_id="a") == job.job_id


class Process:
    """A module's process: polls while it has room, and works on each job for as long as its query says."""

    def __init__(self, driver: Driver, replica_id: str, limit: int) -> None:
        self.driver = driver
        self.replica_id = replica_id
        self.limit = limit
        self.most = 0
        self.jobs: dict[str, float] = {}
        self.polls: list[Deferred[Any]] = []
        self.started: dict[str, float] = {}
        driver.open(replica_id, limit)

    def step(self, now: float) -> None:
        """Take the jobs that have come, finish those that are due, and poll."""
        for job_id, due in list(self.jobs.items()):
            if due <= now + 1e-9:
                body = self.driver.broker.new_result(job_id, None)
                body.write(b"done")
                del self.jobs[job_id]
                self.driver.get(self.driver.broker.complete(job_id, body))
        # One poll more than there is room for, as of a client that does not know its limit.
        while len(self.polls) < 2:
            self.polls.append(self.driver.park(1000, replica_id=self.replica_id))
        self.collect(now)

    def collect(self, now: float) -> None:
        for poll in [each for each in self.polls if each.called]:
            self.polls.remove(poll)
            job = self.driver.get(poll)
            self.started[job.job_id] = now
            self.jobs[job.job_id] = now + float(job.submission.query)
        self.most = max(self.most, len(self.jobs))


def test_no_short_job_waits_behind_long_ones_while_a_replica_is_idle(driver: Driver) -> None:
    processes = [Process(driver, "a", 1), Process(driver, "b", 1)]
    now, submitted, long_jobs = 0.0, {}, 0
    for step in range(160):
        for each in processes:
            each.step(now)
        idle = [each for each in processes if not each.jobs]
        if step % 80 == 0:
            driver.submit(6.0)
            long_jobs += 1
        elif step % 3 == 0 and idle:
            submitted[driver.submit(0.05).job_id] = now
        for each in processes:
            each.collect(now)
        driver.brokers.advance(0.05)
        now += 0.05
    started = {job_id: at for each in processes for job_id, at in each.started.items()}
    assert long_jobs == 2 and len(submitted) > 30
    assert all(started[job_id] == at for job_id, at in submitted.items())
    assert [each.most for each in processes] == [1, 1]


# Closing and restarting


def test_closing_a_replica_fails_what_it_runs_and_nothing_else(driver: Driver) -> None:
    tokens = {each: driver.open(each, 2).token for each in "ab"}
    jobs = [driver.submit() for _ in range(4)]
    caller = driver.call(jobs[0])
    assert [driver.take(replica_id=each) for each in ("a", "b", "default")] == [job.job_id for job in jobs[:3]]
    driver.get(driver.broker.cancel(jobs[3].job_id, "enough"))
    parked = {each: driver.park(30, replica_id=each) for each in ("a", "b")}
    driver.brokers.advance(2)
    driver.get(driver.broker.close_replica("r", "a"))
    answer = driver.get(caller)
    assert (answer.state, answer.error_message) == (JobState.FAILED, "replica stopped")
    assert driver.get(parked["a"]) is None
    assert not parked["b"].called
    assert [driver.state(job) for job in jobs[1:3]] == [JobState.RUNNING] * 2
    for _ in range(2):
        assert identity(driver, tokens["a"]) is None
        assert identity(driver, tokens["b"]) == ModuleIdentity("r", "b")
    gone = driver.get(driver.broker.replicas("r"))[1]
    assert (gone.state.value, gone.job_ids, gone.parked_polls) == ("gone", [], 0)
    assert (gone.replica.ended_at, gone.replica.ended_why) == (2000, "replica stopped")
    job = driver.submit()
    assert driver.get(parked["b"]).job_id == job.job_id


def test_a_replica_that_is_gone_may_be_opened_again(driver: Driver) -> None:
    former = driver.open("a").token
    job = driver.submit()
    driver.take(replica_id="a")
    driver.get(driver.broker.close_replica("r", "a", "out of memory"))
    assert driver.now(job).error_message == "out of memory"
    driver.brokers.advance(1)
    replica = driver.open("a", limit=3)
    assert (replica.limit, replica.opened_at, replica.gone) == (3, 1000, False)
    assert identity(driver, former) is None
    assert identity(driver, replica.token) == ModuleIdentity("r", "a")
    assert driver.replicas() == {"default": ("starting", []), "a": ("starting", [])}
    jobs = [driver.submit() for _ in range(2)]
    assert [driver.take(replica_id="a") for _ in jobs] == [job.job_id for job in jobs]


def test_the_last_replicas_that_are_gone_are_remembered(driver: Driver) -> None:
    driver.open("stays")
    for number in range(GONE_KEPT + 3):
        driver.open(f"gone-{number}")
        driver.brokers.advance(1)
        driver.get(driver.broker.close_replica("r", f"gone-{number}"))
    kept = [f"gone-{number}" for number in range(3, GONE_KEPT + 3)]
    assert list(driver.replicas()) == ["default", "stays", *kept]


def test_replicas_that_come_and_go_leave_nothing_behind(driver: Driver) -> None:
    def come_and_go(count: int) -> None:
        for _ in range(count):
            driver.open("a")
            job = driver.submit()
            assert driver.take(replica_id="a") == job.job_id
            parked = driver.park(30, replica_id="a")
            driver.get(driver.broker.close_replica("r", "a"))
            assert driver.get(parked) is None
            driver.brokers.advance(4000)

    come_and_go(2)
    before = driver.brokers.count_entries(driver.broker)
    come_and_go(5)
    assert driver.brokers.count_entries(driver.broker) <= before
    assert driver.brokers.timers() == []


def test_restart_concerns_one_replica(driver: Driver) -> None:
    for each in "ab":
        driver.open(each, 2)
    jobs = [driver.submit() for _ in range(5)]
    for each in ("a", "b", "default", "a"):
        driver.take(replica_id=each)
    assert driver.get(driver.broker.restart("r", "a")) == [jobs[0].job_id, jobs[3].job_id]
    assert driver.now(jobs[0]).error_message == "runtime restarted"
    states = [driver.state(job).value for job in jobs]
    assert states == ["failed", "running", "running", "failed", "queued"]
    assert driver.get(driver.broker.restart("r")) == [jobs[2].job_id]


def test_a_late_result_of_another_replica_counts(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, lease=10)
    driver.open("a")
    driver.open("b")
    job = driver.submit()
    driver.take(replica_id="a")
    brokers.advance(10)
    assert driver.take(replica_id="b") == job.job_id
    opened = brokers.get(driver.broker.open_result("r", job.job_id, "a"))
    assert (opened.job_id, opened.replica_id) == (job.job_id, "b")
    driver.complete(job)
    assert driver.state(job) is JobState.SUCCEEDED
    assert driver.replicas()["b"] == ("responsive", [])


def test_a_queued_job_whose_result_begins_runs_on_the_replica_that_writes_it(driver: Driver) -> None:
    driver.open("a")
    job = driver.submit()
    driver.take(replica_id="a")
    driver.get(driver.broker.give_back(job.job_id, 1))
    assert driver.now(job).replica_id is None
    stream = driver.broker.new_result(job.job_id, None)
    assert driver.get(driver.broker.begin_result(job.job_id, stream, "a"))
    assert driver.now(job).replica_id == "a"
    assert driver.replicas()["a"] == ("busy", [job.job_id])


# What ends and keeps all replicas


@pytest.mark.parametrize("how", ["session", "delete", "reset"])
def test_replicas_end_with_their_runtime(brokers: MemoryFixture, how: str) -> None:
    registry = Registry()
    registry.add(Runtime("r", "token-r"))
    driver = Driver(brokers, registry)
    token = driver.open("a").token
    job = driver.submit()
    caller = driver.call(job)
    driver.take(replica_id="a")
    parked = driver.park(1000, replica_id="a")
    if how == "session":
        driver.session("r")
    elif how == "delete":
        brokers.get(driver.broker.delete_runtime("r"))
        driver.session("r")
    else:
        brokers.get(driver.broker.reset(registry))
    assert brokers.get(parked) is None
    assert brokers.get(caller).state is JobState.FAILED
    for _ in range(2):
        assert identity(driver, token) is None
    assert driver.replicas() == {"default": ("starting", [])}
    with pytest.raises(UnknownReplica):
        driver.take(replica_id="a")
    driver.open("a")
    job = driver.submit()
    assert driver.take(replica_id="a") == job.job_id


def test_another_seed_leaves_the_replicas_of_runtimes_that_stay(brokers: MemoryFixture) -> None:
    def seed(*runtime_ids: str) -> Registry:
        registry = Registry()
        for each in runtime_ids:
            registry.add(Runtime(each, f"token-{each}"))
            registry.bind(Binding(f"ri.{each}", "master", each))
        return registry

    driver = Driver(brokers, seed("r", "dropped"))
    tokens = [driver.open("a", runtime_id=each).token for each in ("r", "dropped", "mine")]
    job = driver.submit()
    driver.take(replica_id="a")
    brokers.get(driver.broker.reseed(seed("r", "new")))
    assert driver.replicas()["a"] == ("busy", [job.job_id])
    assert [identity(driver, each) for each in tokens] == [
        ModuleIdentity("r", "a"),
        None,
        ModuleIdentity("mine", "a"),
    ]
    with pytest.raises(NotBound):
        brokers.get(driver.broker.resolve("ri.dropped", None))


# Observers and the end


def test_observers_hear_of_replicas(driver: Driver) -> None:
    seen: list[Change] = []
    driver.broker.observe(seen.append).addErrback(lambda _: None)
    driver.brokers.settle()
    driver.open("a")
    opened = len([each for each in seen if each.runtime_id == "r" and each.job is None])
    assert opened >= 1
    driver.get(driver.broker.close_replica("r", "a"))
    assert len([each for each in seen if each.runtime_id == "r" and each.job is None]) > opened
    jobs: list[Job] = [each.job for each in seen if each.job is not None]
    assert jobs == []


def test_a_broker_that_stops_opens_no_replica_and_answers_their_polls(driver: Driver) -> None:
    driver.open("a")
    driver.submit()
    driver.take(replica_id="a")
    parked = driver.park(30, replica_id="a")
    driver.get(driver.broker.stop())
    assert driver.get(parked) is None
    assert driver.get(driver.broker.poll("r", 30, "a")) is None
    with pytest.raises(BrokerStopped):
        driver.get(driver.broker.open_replica(ReplicaRequest("r", "b")))
    assert driver.brokers.timers() == []
