"""Emulators that share a Redis: nodes that die, and a Redis that is away."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import pytest_twisted
from conftest import CONTOUR, ROOT, RUNTIMES, Harness, make_harness, raw_stream_head, serve_one
from node_fixtures import BASE, Nodes, until, until_parked, within
from redis_server import RedisServer
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from twisted_cm.broker.interface import BrokerUnavailable
from twisted_cm.broker.redis.broker import RedisBroker
from twisted_cm.model.jobs import JobSource, JobState, Submission
from twisted_cm.model.registry import SessionRequest


@pytest.mark.beside_the_reactor
def test_what_a_dead_node_held_goes_to_the_others(nodes: Nodes) -> None:
    dying, living = (nodes.node(lease=10) for _ in range(2))
    nodes.get(dying.open_session(SessionRequest("r")))
    # The poll that is parked there gets no job.
    taken, delivered, streamed = nodes.hold(dying)
    nodes.die(dying)
    again = living.poll("r", 1000)
    within(5, lambda: again.called)
    assert nodes.get(again).job_id == taken.job_id
    broken = nodes.get(living.job(streamed.job_id))
    assert (broken.state, broken.error_message) == (
        JobState.FAILED,
        "The node was lost that received the result stream.",
    )
    assert nodes.get(living.job(delivered.job_id)).state is JobState.RUNNING
    # The other node keeps its timers.
    nodes.advance(10)
    assert nodes.get(living.job(delivered.job_id)).state is JobState.QUEUED


@pytest.mark.beside_the_reactor
def test_nothing_is_published_to_a_dead_node_that_observed(nodes: Nodes) -> None:
    dying, living = (nodes.node() for _ in range(2))
    for each in (dying, living):
        each.observe(lambda change: None)

    def observing(broker: RedisBroker) -> bool:
        return broker.node.node_id.encode() in nodes.server.command("SMEMBERS", "twisted-cm:0:observing")

    within(5, lambda: observing(dying) and observing(living))
    nodes.die(dying)
    within(5, lambda: not observing(dying))
    assert observing(living)


@pytest.mark.beside_the_reactor
def test_a_node_that_leaves_gives_back_what_it_has_not_delivered(nodes: Nodes) -> None:
    leaving, staying = (nodes.node() for _ in range(2))
    nodes.get(leaving.open_session(SessionRequest("r")))
    job = nodes.get(leaving.enqueue("r", Submission("f", b"null", JobSource.CONTOUR_ASYNC)))
    nodes.get(leaving.poll("r", 0))
    nodes.brokers.remove(leaving)
    nodes.get(leaving.stop())
    nodes.get(leaving.close())
    assert nodes.get(staying.poll("r", 0)).job_id == job.job_id


@pytest.mark.beside_the_reactor
def test_a_node_that_was_taken_for_dead_joins_anew_and_whoever_waits_there_is_served(nodes: Nodes) -> None:
    late, other = (nodes.node() for _ in range(2))
    nodes.get(late.open_session(SessionRequest("r")))
    poll = late.poll("r", 1000)
    nodes.settle()
    former = late.node.node_id
    assert nodes.server.command("SREM", "twisted-cm:0:nodes", former) == b":1\r\n"
    within(5, lambda: late.node.up and late.node.node_id != former)
    job = nodes.get(other.enqueue("r", Submission("f", b"null", JobSource.CONTOUR_ASYNC)))
    assert nodes.get(poll).job_id == job.job_id


@pytest.mark.beside_the_reactor
def test_a_node_keeps_what_it_holds_though_it_takes_several_attempts_to_join_anew(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding = nodes.node()
    nodes.get(holding.open_session(SessionRequest("r")))
    job = nodes.get(holding.enqueue("r", Submission("f", b"null", JobSource.CONTOUR_ASYNC)))
    nodes.get(holding.poll("r", 0))
    node, former = holding.node, holding.node.node_id
    greet, load, done = node.connection.greet, node.load, []

    # A Redis that has just been started refuses commands for a while. It may be lost again after the node has joined.
    async def first_refused(protocol: Any) -> None:
        done.append("greet")
        if done == ["greet"]:
            raise BrokerUnavailable("LOADING")
        await greet(protocol)

    async def first_lost() -> None:
        done.append("load")
        if done.count("load") == 1:
            raise BrokerUnavailable("lost")
        await load()

    monkeypatch.setattr(node.connection, "greet", first_refused)
    monkeypatch.setattr(node, "load", first_lost)
    node.drop_link()
    within(5, lambda: node.up and node.node_id != former)
    nodes.settle()
    held = nodes.server.command("SMEMBERS", f"twisted-cm:0:handing:{node.node_id}")
    assert f"{job.job_id}:1".encode() in held
    assert nodes.get(holding.job(job.job_id)).state is JobState.RUNNING


@pytest_twisted.ensureDeferred
async def test_whoever_is_parked_outlives_a_redis_that_is_killed(three: list[Harness], redis: RedisServer) -> None:
    first, second, third = three
    poll = Deferred.fromCoroutine(second.module("GET", "/job", runtime="two"))
    caller = first.execute("kept")
    _, handle, _ = await third.app("POST", "/deployed-apps/jobs", {"deployedAppRid": "ri.two", "queryType": "f"})
    assert (await poll)[0] == 200
    poll = Deferred.fromCoroutine(second.module("GET", "/job", runtime="two"))
    await until_parked([second], polls=1)
    await until_parked([first], callers=1)
    redis.kill()
    await until(lambda: not any(each.broker.node.up for each in three))
    for request in (
        first.execute("refused"),
        first.module("GET", "/job"),
        third.app("GET", f"/jobs/{handle['id']}/status"),
        third.call("POST", RUNTIMES, {"runtimeId": "new"}),
        third.call("POST", f"{BASE}/reset"),
    ):
        status, answer, headers = await request
        assert (status, answer["error"], headers.getRawHeaders("Retry-After")) == (503, "unavailable", ["1"])
    await deferToThread(redis.start)
    for each in three:
        await each.broker.node.when_up()
    assert (await serve_one(third, b"result"))["query"] == "kept"
    assert (await caller)[:2] == (200, b"result")
    # The job that was delivered is not dispatched again: the parked poll gets the next one.
    _, submitted, _ = await first.app("POST", "/deployed-apps/jobs", {"deployedAppRid": "ri.two", "queryType": "g"})
    _, envelope, _ = await poll
    assert envelope["computeModuleJobV1"]["jobId"] == submitted["id"]
    await second.module("POST", f"/results/{handle['id']}", b"late", "two")
    assert (await first.app("GET", f"/jobs/{handle['id']}/result"))[1] == b"late"


async def _stream_execute(harness: Harness) -> Any:
    """Execute a job; return the response as soon as its head has arrived."""
    return await harness.http.request(
        "POST",
        f"{harness.service.addresses.http}{CONTOUR}/compute-modules/jobs/execute",
        headers={"Authorization": "Bearer app-token"},
        data=b'{"deployedAppRid": "ri.one", "queryType": "f"}',
    )


@pytest_twisted.ensureDeferred
async def test_a_stream_goes_on_where_it_was_after_redis_was_killed(three: list[Harness], redis: RedisServer) -> None:
    request = Deferred.fromCoroutine(_stream_execute(three[0]))
    job = (await three[1].module("GET", "/job"))[1]["computeModuleJobV1"]
    post = raw_stream_head(three[1], job["jobId"])
    post.sendall(b"3\r\none\r\n")
    # The answer has begun, so the caller's node follows the stream.
    response = await request
    redis.kill()
    await until(lambda: not any(each.broker.node.up for each in three))
    post.sendall(b"3\r\ntwo\r\n")
    await deferToThread(redis.start)
    post.sendall(b"5\r\nthree\r\n0\r\n\r\n")
    assert (response.code, await response.content()) == (200, b"onetwothree")
    post.close()


@pytest_twisted.ensureDeferred
async def test_a_redis_that_hangs_is_as_good_as_away(redis: RedisServer) -> None:
    harness = make_harness(broker=redis.url)
    await harness.broker.node.when_up()
    harness.broker.node.lease = 0.5
    redis.pause()
    try:
        await until(lambda: not harness.broker.node.up)
        status, answer, _ = await harness.app("GET", "/jobs/x/status")
        assert (status, answer["error"]) == (503, "unavailable")
    finally:
        redis.resume()
    await harness.broker.node.when_up()
    assert (await harness.app("GET", "/jobs/x/status"))[0] == 404
    await harness.pool.closeCachedConnections()
    await harness.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_redis_that_is_full_takes_no_more_and_lets_go(three: list[Harness], redis: RedisServer) -> None:
    first, second, _ = three
    caller = first.execute("kept")
    await until_parked([first], callers=1)
    assert await deferToThread(redis.command, "CONFIG", "SET", "maxmemory", "1") == b"+OK\r\n"
    status, answer, _ = await second.execute("refused")
    assert (status, answer["error"]) == (503, "unavailable")
    _, envelope, _ = await second.module("GET", "/job")
    job_id = envelope["computeModuleJobV1"]["jobId"]
    assert (await second.module("POST", f"/results/{job_id}", b"late"))[0] == 503
    assert (await second.app("GET", f"/jobs/{job_id}/status"))[1]["type"] == "running"
    await deferToThread(redis.command, "CONFIG", "SET", "maxmemory", "0")
    assert (await second.module("POST", f"/results/{job_id}", b"late"))[0] == 204
    assert (await caller)[:2] == (200, b"late")


@pytest_twisted.ensureDeferred
async def test_an_emulator_that_starts_before_its_redis_waits_for_it(redis: RedisServer) -> None:
    redis.stop()
    harness = make_harness(broker=redis.url)
    status, answer, _ = await harness.execute()
    assert (status, answer["error"]) == (503, "unavailable")
    await deferToThread(redis.start)
    await harness.broker.node.when_up()
    caller = harness.execute()
    await serve_one(harness, b"there")
    assert (await caller)[:2] == (200, b"there")
    await harness.pool.closeCachedConnections()
    await harness.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_redis_that_comes_back_with_nothing_is_seeded_again(redis: RedisServer) -> None:
    harness = make_harness(broker=redis.url)
    await harness.broker.node.when_up()
    caller = harness.execute()
    await until_parked([harness], callers=1)
    former = harness.broker.node.node_id
    await deferToThread(redis.command, "FLUSHALL")
    harness.broker.node.drop_link()
    assert (await caller)[1]["error"] == "not_found"
    await until(lambda: harness.broker.node.up and harness.broker.node.node_id != former)
    caller = harness.execute()
    await serve_one(harness, b"there")
    assert (await caller)[:2] == (200, b"there")
    await harness.pool.closeCachedConnections()
    await harness.service.stopService()


@pytest.mark.long
def test_nothing_is_lost_when_a_node_and_redis_are_killed_under_load() -> None:
    command = [sys.executable, str(ROOT / "tests/bench/nodes.py"), "--jobs", "1200", "--rate-jobs", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert (figures["lost"], figures["wrong results"], figures["done twice for no reason"]) == (0, 0, 0)
