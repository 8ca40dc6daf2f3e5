"""Runtimes, bindings and seeds, on each kind of broker."""

from __future__ import annotations

import pytest
from broker_fixtures import Driver, MemoryFixture

from twisted_cm.broker.interface import NotBound, UnknownJob, UnknownRuntime
from twisted_cm.model.jobs import JobState
from twisted_cm.model.registry import Registry
from twisted_cm.model.replicas import ModuleIdentity
from twisted_cm.model.runtimes import Binding, FunctionSchema, Runtime

pytestmark = pytest.mark.beside_the_reactor


def test_a_session_reset_answers_everybody(driver: Driver) -> None:
    before = driver.session("r").module_auth_token
    jobs = [driver.submit() for _ in range(2)]
    callers = [driver.call(job) for job in jobs]
    driver.take()
    after = driver.session("r").module_auth_token
    answers = [driver.get(caller) for caller in callers]
    assert [each.state for each in answers] == [JobState.FAILED, JobState.FAILED]
    assert "reset" in answers[0].error_message
    assert before != after
    assert driver.get(driver.broker.module_runtime(before)) is None
    with pytest.raises(UnknownJob):
        driver.now(jobs[0])


def test_a_session_reset_answers_parked_polls(driver: Driver) -> None:
    poll = driver.park(30)
    driver.session("r")
    assert driver.get(poll) is None


def test_restart_fails_what_was_running_and_keeps_what_was_queued(driver: Driver) -> None:
    running, queued = (driver.submit() for _ in range(2))
    driver.take()
    caller = driver.call(running)
    assert driver.get(driver.broker.restart("r")) == [running.job_id]
    assert driver.get(caller).error_message == "runtime restarted"
    assert driver.take() == queued.job_id


def test_bindings_are_taken_over_kept_and_dropped(driver: Driver) -> None:
    def resolve(branch: str | None = None) -> str:
        return str(driver.get(driver.broker.resolve("ri.x", branch)).runtime_id)

    driver.session("a", "ri.x")
    assert resolve() == "a"
    driver.session("b", "ri.x")
    assert resolve("master") == "b"
    driver.session("b", keep_bindings=True)
    assert resolve("master") == "b"
    driver.session("b")
    with pytest.raises(NotBound):
        resolve()


def test_a_post_of_schemas_replaces_those_before(driver: Driver) -> None:
    assert driver.get(driver.broker.runtime("r")).schemas is None
    driver.get(driver.broker.put_schemas("r", []))
    assert driver.get(driver.broker.runtime("r")).schemas == {}
    payload = {"inputs": [], "nothing": {}, "text": "\u00e9"}
    for names, posted in ((("f", "g"), {"old": 1}), (("f", "h"), payload)):
        driver.brokers.advance(1)
        report = [FunctionSchema(name, posted, ("CANNOT_PARSE_INPUTS",)) for name in names]
        driver.get(driver.broker.put_schemas("r", report))
    runtime = driver.get(driver.broker.runtime("r"))
    assert runtime.schemas["f"] == FunctionSchema("f", payload, ("CANNOT_PARSE_INPUTS",), 2000)
    assert (sorted(runtime.schemas), runtime.last_schema_post_at) == (["f", "h"], 2000)
    driver.get(driver.broker.put_schemas("r", []))
    assert driver.get(driver.broker.runtime("r")).schemas == {}
    driver.session("r")
    assert driver.get(driver.broker.runtime("r")).schemas is None
    with pytest.raises(UnknownRuntime):
        driver.get(driver.broker.put_schemas("nobody", []))


def test_a_runtime_knows_when_it_was_opened(brokers: MemoryFixture) -> None:
    brokers.advance(1)
    driver = Driver(brokers, seeded(("seeded", "s")))
    brokers.advance(1)
    driver.session("r")

    def opened(runtime_id: str) -> int:
        found: int = brokers.get(driver.broker.runtime(runtime_id)).opened_at
        return found

    assert (opened("seeded"), opened("r")) == (1000, 2000)
    brokers.advance(1)
    driver.session("r")
    assert (opened("seeded"), opened("r")) == (1000, 3000)
    brokers.get(driver.broker.reset(seeded(("seeded", "s"))))
    assert opened("seeded") == 3000


def test_a_runtime_is_connected_when_it_has_polled(driver: Driver) -> None:
    assert not driver.get(driver.broker.runtime("r")).connected
    driver.brokers.advance(5)
    driver.take()
    snapshot = driver.get(driver.broker.snapshot("r"))
    assert (snapshot.runtime.connected, snapshot.runtime.last_poll_at) == (True, 5000)
    polls = [driver.park(9) for _ in range(2)]
    assert driver.get(driver.broker.snapshot("r")).parked_polls == 2
    driver.brokers.advance(9)
    assert [driver.get(poll) for poll in polls] == [None, None]
    assert driver.get(driver.broker.snapshot("r")).parked_polls == 0


def seeded(*runtimes: tuple[str, str], bindings: tuple[tuple[str, str], ...] = ()) -> Registry:
    registry = Registry()
    for runtime_id, token in runtimes:
        registry.add(Runtime(runtime_id, token))
    for rid, runtime_id in bindings:
        registry.bind(Binding(rid, "master", runtime_id))
    return registry


def test_a_reset_goes_back_to_the_seed_and_answers_everybody(brokers: MemoryFixture) -> None:
    def seed() -> Registry:
        return seeded(("a", "token-a"), ("made-up", ""), bindings=(("ri.a", "a"),))

    driver = Driver(brokers, seed())
    made_up = brokers.get(driver.broker.runtime("made-up")).module_auth_token
    driver.session("b", "ri.a")
    jobs = [driver.submit(runtime_id=runtime_id) for runtime_id in "ab"]
    callers = [driver.call(job) for job in jobs]
    driver.take("b")
    parked = driver.park(100, "b")
    brokers.get(driver.broker.reset(seed()))
    assert [brokers.get(caller).error_message for caller in callers] == ["The emulator was reset."] * 2
    assert brokers.get(parked) is None
    assert [each.runtime.runtime_id for each in brokers.get(driver.broker.snapshots())] == ["a", "made-up"]
    assert brokers.get(driver.broker.resolve("ri.a", None)).runtime_id == "a"
    assert brokers.get(driver.broker.module_runtime("token-a")) == ModuleIdentity("a", "default")
    assert brokers.get(driver.broker.module_runtime(made_up)).runtime_id == "made-up"
    assert made_up.startswith("foundry_module_auth_")
    assert driver.kept(jobs) == [False, False]
    brokers.advance(10_000)
    assert brokers.timers() == []


def test_another_seed_changes_what_differs_and_nothing_else(brokers: MemoryFixture) -> None:
    former = (("kept", "k"), ("gone", "g"), ("changed", "c"), ("made-up", ""))
    apps = (("ri.kept", "kept"), ("ri.gone", "gone"), ("ri.changed", "changed"), ("ri.moved", "kept"))
    driver = Driver(brokers, seeded(*former, bindings=apps))
    driver.session("mine", "ri.mine")
    jobs = {each: driver.submit(runtime_id=each) for each in ("kept", "gone", "changed", "mine", "made-up")}
    callers = {each: driver.call(jobs[each]) for each in ("gone", "changed")}
    changed = seeded(
        ("kept", "k"),
        ("changed", "c2"),
        ("new", "n"),
        ("made-up", ""),
        bindings=(("ri.kept", "kept"), ("ri.changed", "changed"), ("ri.moved", "new")),
    )
    # The second time changes nothing. With several nodes, each of them reads the seed again.
    for _ in range(2):
        brokers.get(driver.broker.reseed(changed))
        assert [driver.state(jobs[each]) for each in ("kept", "mine", "made-up")] == [JobState.QUEUED] * 3
    assert [brokers.get(caller).state for caller in callers.values()] == [JobState.FAILED] * 2
    with pytest.raises(UnknownRuntime):
        brokers.get(driver.broker.runtime("gone"))
    with pytest.raises(NotBound):
        brokers.get(driver.broker.resolve("ri.gone", None))
    resolved = {
        rid: brokers.get(driver.broker.resolve(rid, None)).runtime_id
        for rid in ("ri.kept", "ri.changed", "ri.moved", "ri.mine")
    }
    assert resolved == {"ri.kept": "kept", "ri.changed": "changed", "ri.moved": "new", "ri.mine": "mine"}
    assert brokers.get(driver.broker.module_runtime("c2")) == ModuleIdentity("changed")
    assert brokers.get(driver.broker.module_runtime("c")) is None


def test_a_binding_that_is_no_longer_seeded_ends_and_its_runtime_stays(brokers: MemoryFixture) -> None:
    driver = Driver(brokers, seeded(("a", "t"), bindings=(("ri.a", "a"), ("ri.b", "a"), ("ri.mine", "a"))))
    driver.session("mine", "ri.mine")
    job = driver.submit(runtime_id="a")
    brokers.get(driver.broker.reseed(seeded(("a", "t"), bindings=(("ri.b", "a"),))))
    with pytest.raises(NotBound):
        brokers.get(driver.broker.resolve("ri.a", None))
    assert brokers.get(driver.broker.resolve("ri.b", None)).runtime_id == "a"
    # A session has taken this one over.
    assert brokers.get(driver.broker.resolve("ri.mine", None)).runtime_id == "mine"
    assert driver.take("a") == job.job_id
