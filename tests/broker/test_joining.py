"""What a node changes for the others when it joins, and what it catches up on when it joins again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import pytest_twisted
from conftest import SEED, Harness, logged, make_harness, pause
from node_fixtures import Nodes, until, until_parked, within
from redis_server import RedisServer
from twisted.internet.defer import CancelledError
from twisted.internet.threads import deferToThread

from twisted_cm.broker.interface import Change, QueueFull
from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.jobs import JobFilter, JobSource, JobState, Submission
from twisted_cm.model.registry import Registry
from twisted_cm.model.runtimes import Runtime


@pytest.mark.beside_the_reactor
def test_a_node_without_a_seed_changes_nothing(nodes: Nodes) -> None:
    seed = Registry()
    seed.add(Runtime("seeded", "token"))
    first = nodes.node(seed, queue_depth=1)
    second = nodes.node(None, queue_depth=5)
    assert [each.runtime.runtime_id for each in nodes.get(second.snapshots())] == ["seeded"]
    submission = Submission("f", b"null", JobSource.CONTOUR_ASYNC)
    nodes.get(first.enqueue("seeded", submission))
    for each in (first, second):
        with pytest.raises(QueueFull):
            nodes.get(each.enqueue("seeded", submission))


@pytest.mark.beside_the_reactor
def test_a_node_joins_no_nodes_that_it_cannot_read(nodes: Nodes) -> None:
    first = nodes.node()
    # An emulator of an earlier version would not have set it.
    nodes.server.command("DEL", "twisted-cm:0:form")
    with logged("Emulators of another version use it. Stop them, or choose another database.") as refused:
        second = nodes.node()
    assert len(refused) == 1 and not second.node.up
    nodes.brokers.remove(first)
    first.stop()
    nodes.get(first.close())
    within(5, lambda: second.node.up)


@pytest_twisted.ensureDeferred
async def test_an_emulator_without_a_seed_changes_nothing(redis: RedisServer) -> None:
    first = make_harness(SEED, broker=redis.url)
    await first.broker.node.when_up()
    await first.service.faults.add(FaultPlan(FaultKind.FAIL_JOB))
    second = make_harness("", broker=redis.url)
    await second.broker.node.when_up()
    for harness in (first, second):
        runtimes = [each.runtime.runtime_id for each in await harness.broker.snapshots()]
        assert runtimes == ["one", "two"]
        assert [each.plan.kind for each in await harness.service.faults.all()] == [FaultKind.FAIL_JOB]
    for harness in (second, first):
        await harness.pool.closeCachedConnections()
        await harness.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_caller_that_leaves_while_redis_is_away_has_canceled_its_job(
    three: list[Harness], redis: RedisServer
) -> None:
    first, second, _ = three
    caller = first.execute()
    await until_parked([first], callers=1)
    (job,) = (await first.call("GET", "/_emulate/foundry/compute-modules/jobs", Authorization="Bearer app-token"))[1][
        "jobs"
    ]
    await deferToThread(redis.stop)
    await until(lambda: not first.broker.node.up)
    before = first.connections()
    caller.cancel()
    caller.addErrback(lambda _: None)
    await until(lambda: first.connections() < before)
    await deferToThread(redis.start)
    await first.broker.node.when_up()
    await second.broker.node.when_up()
    status = (await second.app("GET", f"/jobs/{job['job_id']}/status"))[1]
    assert status["type"] == "canceled"


@pytest.mark.beside_the_reactor
def test_observers_are_told_to_look_again_after_an_outage(nodes: Nodes) -> None:
    node = nodes.node()
    seen: list[Change] = []
    node.observe(seen.append)
    nodes.settle()
    assert not any(each.missed for each in seen)
    node.node.drop_link()
    within(5, lambda: any(each.missed for each in seen))
    assert [each.missed for each in seen].count(True) == 1


@pytest.mark.parametrize("shared", [False, True], ids=["memory", "redis"])
@pytest_twisted.ensureDeferred
async def test_a_recording_has_the_queries(redis: RedisServer, tmp_path: Path, shared: bool) -> None:
    path = tmp_path / "recorded.jsonl"
    harness = make_harness(SEED, broker=redis.url if shared else None, record=path)
    if shared:
        await harness.broker.node.when_up()
    _, job, _ = await harness.app(
        "POST", "/deployed-apps/jobs", {"deployedAppRid": "ri.one", "queryType": "f", "query": {"a": 1}}
    )
    await harness.app("DELETE", f"/jobs/{job['id']}")
    await until(lambda: path.read_bytes().endswith(b"\n"))
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["query"] == {"a": 1}
    await harness.pool.closeCachedConnections()
    await harness.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_caller_that_leaves_before_its_job_is_known_to_be_queued_has_canceled_it(redis: RedisServer) -> None:
    harness = make_harness(SEED, broker=redis.url)
    broker = harness.broker
    await broker.node.when_up()
    redis.pause()
    queued = broker.enqueue("one", Submission("f", b"1", JobSource.CONTOUR_SYNC))
    # Let the reactor write: Redis has the command in its socket, and the answer is lost.
    await pause(0.1)
    broker.node.drop_link()
    await until(lambda: not broker.node.up)
    queued.addErrback(lambda failure: failure.trap(CancelledError))
    queued.cancel()
    redis.resume()
    await broker.node.when_up()
    (job,) = await broker.jobs(JobFilter(), 10)
    assert job.state is JobState.CANCELED
    await harness.pool.closeCachedConnections()
    await harness.service.stopService()
