"""What happens while Redis is there and refuses commands: it is full, read-only or busy."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import pytest_twisted
from conftest import SEED, Harness, make_harness, raw_caller, raw_stream, receive_until
from node_fixtures import Nodes, stop, until_parked, within
from redis_server import RedisServer
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from twisted_cm.broker.interface import BrokerUnavailable
from twisted_cm.model.jobs import JobSource, Submission
from twisted_cm.model.registry import SessionRequest

#: Bytes of a result that is too large to travel with the end of its job.
LARGE = 300_000


@pytest.fixture
def one(redis: RedisServer) -> Iterator[Harness]:
    """Start an emulator on a Redis that only this test uses."""
    made = make_harness(SEED, broker=redis.url)
    pytest_twisted.blockon(made.broker.node.when_up())
    yield made
    redis.command("REPLICAOF", "NO", "ONE")
    redis.command("CONFIG", "SET", "maxmemory", "0")
    stop(made)


async def run(redis: RedisServer, *words: str) -> bytes:
    """Run a command of Redis beside the reactor."""
    answer: bytes = await deferToThread(redis.command, *words)
    return answer


async def received(redis: RedisServer) -> int:
    """Return the number of bytes that clients have sent to Redis."""
    found = re.search(rb"total_net_input_bytes:(\d+)", await run(redis, "INFO", "stats"))
    assert found is not None
    return int(found[1])


async def take(harness: Harness) -> str:
    """Poll for a job and return its id."""
    status, envelope, _ = await harness.module("GET", "/job")
    assert status == 200
    return str(envelope["computeModuleJobV1"]["jobId"])


@pytest.mark.parametrize(
    ("refuse", "allow"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["full", "read-only"],
)
@pytest_twisted.ensureDeferred
async def test_a_large_result_is_refused_at_once_and_may_be_posted_again(
    one: Harness, redis: RedisServer, refuse: tuple[str, ...], allow: tuple[str, ...]
) -> None:
    caller = one.execute()
    job_id = await take(one)
    assert await run(redis, *refuse) == b"+OK\r\n"
    before = await received(redis)
    for size in (10, LARGE):
        status, answer, headers = await one.module("POST", f"/results/{job_id}", b"x" * size)
        assert (status, answer["error"]) == (503, "unavailable")
        assert headers.getRawHeaders("Retry-After") == ["1"]
    assert await received(redis) - before < 4 * LARGE
    assert await run(redis, *allow) == b"+OK\r\n"
    await one.broker.node.when_up()
    assert (await one.module("POST", f"/results/{job_id}", b"y" * LARGE))[0] == 204
    assert (await caller)[1] == b"y" * LARGE


@pytest_twisted.ensureDeferred
async def test_a_stream_that_a_full_redis_refuses_fails_its_job(one: Harness, redis: RedisServer) -> None:
    caller = await deferToThread(raw_caller, one)
    job_id = await take(one)
    post = await deferToThread(raw_stream, one, job_id, "first")
    await receive_until(caller, b"first\r\n")
    before = await received(redis)
    assert await run(redis, "CONFIG", "SET", "maxmemory", "1") == b"+OK\r\n"
    post.setblocking(True)
    await deferToThread(post.sendall, b"%x\r\n%s\r\n0\r\n\r\n" % (LARGE, b"x" * LARGE))
    assert (await receive_until(post, b"}")).startswith(b"HTTP/1.1 503 ")
    # The caller's answer ends without its last chunk.
    assert await receive_until(caller, None) == b""
    state = (await one.app("GET", f"/jobs/{job_id}/status"))[1]
    assert state["type"] == "failed"
    assert "The result stream cannot be kept" in state["failed"]["message"]
    assert await received(redis) - before < 4 * LARGE
    post.close()
    caller.close()


@pytest_twisted.ensureDeferred
async def test_a_poll_is_refused_at_once(one: Harness, redis: RedisServer) -> None:
    assert await run(redis, "REPLICAOF", "127.0.0.1", "1") == b"+OK\r\n"
    status, answer, _ = await one.module("GET", "/job")
    assert (status, answer["error"]) == (503, "unavailable")


@pytest_twisted.ensureDeferred
async def test_a_parked_poll_ends_in_time_though_it_cannot_be_taken_back(one: Harness, redis: RedisServer) -> None:
    poll = Deferred.fromCoroutine(
        one.call(
            "GET",
            "/_emulate/foundry/compute-modules/runtimes/one/job",
            None,
            Module_Auth_Token="token-one",
            Prefer="wait=3",
        )
    )
    await until_parked([one], polls=1)
    assert await run(redis, "REPLICAOF", "127.0.0.1", "1") == b"+OK\r\n"
    # The next heartbeat is refused. From then on, the poll waits as if Redis were away.
    assert (await poll)[0] == 204


@pytest.mark.beside_the_reactor
def test_a_poll_outlives_a_large_job_that_is_gone_before_it_is_read(nodes: Nodes) -> None:
    node, other = nodes.node(), nodes.node()
    nodes.get(node.open_session(SessionRequest("r")))
    poll = node.poll("r", 1000)
    nodes.settle()
    call = node.node.call

    def reset_first(operation: str, *args: str) -> Deferred[object]:
        if operation != "job":
            return call(operation, *args)
        node.node.call = call
        return other.open_session(SessionRequest("r")).addCallback(lambda _: call(operation, *args))

    node.node.call = reset_first
    submission = Submission("f", "x" * 100_000, JobSource.CONTOUR_ASYNC)
    nodes.get(other.enqueue("r", submission))
    assert not poll.called
    job = nodes.get(other.enqueue("r", Submission("f", "next", JobSource.CONTOUR_ASYNC)))
    assert nodes.get(poll).job_id == job.job_id


@pytest.mark.beside_the_reactor
@pytest.mark.parametrize("given_back", [True, False], ids=["given back", "delivered"])
def test_what_became_of_a_job_is_told_again_when_redis_accepts_it(nodes: Nodes, given_back: bool) -> None:
    nodes.lease = 5
    node = nodes.node()
    nodes.get(node.open_session(SessionRequest("r")))
    job = nodes.get(node.enqueue("r", Submission("f", b"null", JobSource.CONTOUR_ASYNC)))
    assert nodes.get(node.poll("r", 0)).job_id == job.job_id
    former = node.node.node_id
    assert nodes.server.command("REPLICAOF", "127.0.0.1", "1") == b"+OK\r\n"
    try:
        if given_back:
            with pytest.raises(BrokerUnavailable):
                pytest_twisted.blockon(node.give_back(job.job_id, 1))
        else:
            told = node.delivered(job.job_id, 1)
            within(5, lambda: not node.node.up)
    finally:
        assert nodes.server.command("REPLICAOF", "NO", "ONE") == b"+OK\r\n"
    within(5, lambda: node.node.up and node.node.node_id != former)
    if not given_back:
        nodes.get(told)
    # An emulator that leaves gives back what it has not delivered.
    nodes.brokers.remove(node)
    nodes.get(node.stop())
    nodes.get(node.close())
    again = nodes.get(nodes.node().poll("r", 0))
    assert (None if again is None else again.job_id) == (job.job_id if given_back else None)
