"""What happens when Redis can be reached and refuses to work: it is full, busy, a replica, or forbids."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
import pytest_twisted
from attrs import frozen
from conftest import RUNTIMES, Harness, make_harness, pause, raw, serve_one
from node_fixtures import stop, until, until_parked
from redis_server import RedisServer
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from twisted_cm.model.jobs import JobFilter, JobState

#: A result that is written to Redis in parts.
LARGE = b"x" * 300_000


@pytest.fixture
def one(redis: RedisServer) -> Iterator[Harness]:
    """Start an emulator on the Redis."""
    made = make_harness(broker=redis.url)
    pytest_twisted.blockon(made.broker.node.when_up())
    yield made
    stop(made)


def received(redis: RedisServer) -> int:
    """Return the number of bytes that Redis has received."""
    found = re.search(rb"total_net_input_bytes:(\d+)", redis.command("INFO", "stats"))
    assert found is not None
    return int(found[1])


async def set_memory(redis: RedisServer, most: str) -> None:
    assert await deferToThread(redis.command, "CONFIG", "SET", "maxmemory", most) == b"+OK\r\n"


async def taken(harness: Harness) -> str:
    """Take a job as the runtime; return its id."""
    status, envelope, _ = await harness.module("GET", "/job")
    assert status == 200
    return str(envelope["computeModuleJobV1"]["jobId"])


@pytest_twisted.ensureDeferred
async def test_a_result_that_a_full_redis_refuses_is_sent_once(one: Harness, redis: RedisServer) -> None:
    caller = one.execute()
    job_id = await taken(one)
    await set_memory(redis, "1")
    before = received(redis)
    posted = Deferred.fromCoroutine(one.module("POST", f"/results/{job_id}", LARGE))
    status, answer, headers = await posted.addTimeout(10, reactor)
    assert (status, answer["error"], headers.getRawHeaders("Retry-After")) == (503, "unavailable", ["1"])
    assert "OOM" in answer["error_description"]
    await pause(0.5)
    assert received(redis) - before < 2 * len(LARGE)
    # The job is still there for the same result.
    await set_memory(redis, "0")
    assert (await one.module("POST", f"/results/{job_id}", LARGE))[0] == 204
    assert (await caller)[:2] == (200, LARGE)


@pytest_twisted.ensureDeferred
async def test_nothing_is_sent_for_a_post_whose_sender_has_gone(one: Harness, redis: RedisServer) -> None:
    one.execute().addErrback(lambda failure: None)
    job_id = await taken(one)
    head = f"POST {RUNTIMES}/one/results/{job_id} HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: token-one\r\n"
    opened, before = one.connections(), received(redis)
    with closing(raw(one, f"{head}Content-Length: 1000000\r\n\r\n")) as post:
        post.sendall(LARGE)
        await until(lambda: received(redis) - before >= len(LARGE))
        redis.pause()
        # So few that the emulator goes on reading, and sees the end of the connection.
        post.sendall(LARGE[:100_000])
        await until(lambda: one.connections() > opened)
        # The bytes wait for a Redis that hangs, and then for one that is not there.
        await pause(0.2)
        redis.kill()
        await until(lambda: not one.broker.node.up)
    await until(lambda: one.connections() == opened)
    await deferToThread(redis.start)
    await one.broker.node.when_up()
    before = received(redis)
    await pause(0.5)
    assert received(redis) - before < len(LARGE) // 10


@frozen
class Refusal:
    """A way in which Redis refuses commands.

    Attributes:
        word: The first word of the refusals.
        begin: Makes Redis refuse.
        end: Lets Redis accept again.
    """

    word: str
    begin: Callable[[RedisServer], None]
    end: Callable[[RedisServer], None]


def _commands(*commands: str) -> Callable[[RedisServer], None]:
    def run(redis: RedisServer) -> None:
        for each in commands:
            assert redis.command(*each.split(" ")) == b"+OK\r\n", each

    return run


def _begin_script(redis: RedisServer) -> None:
    _commands("CONFIG SET busy-reply-threshold 1")(redis)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(redis.socket))
        client.sendall(b'EVAL "while true do end" 0\r\n')
        client.settimeout(0.2)
        with suppress(TimeoutError):
            client.recv(1)


REFUSALS = [
    Refusal("BUSY", _begin_script, _commands("SCRIPT KILL")),
    Refusal("READONLY", _commands("REPLICAOF 127.0.0.1 1"), _commands("REPLICAOF NO ONE")),
    Refusal(
        "MASTERDOWN",
        _commands("CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1"),
        _commands("REPLICAOF NO ONE"),
    ),
    Refusal(
        "NOREPLICAS", _commands("CONFIG SET min-replicas-to-write 1"), _commands("CONFIG SET min-replicas-to-write 0")
    ),
    Refusal("NOPERM", _commands("ACL SETUSER default -fcall"), _commands("ACL SETUSER default +@all")),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda each: each.word)
@pytest_twisted.ensureDeferred
async def test_a_refusal_is_answered_with_503_and_who_is_parked_goes_on_afterwards(
    one: Harness, redis: RedisServer, refusal: Refusal
) -> None:
    running = one.execute("running")
    job_id = await taken(one)
    caller = one.execute("kept", rid="ri.two")
    await until_parked([one], callers=2)
    poll = Deferred.fromCoroutine(one.module("GET", "/job"))
    await until_parked([one], polls=1)
    before = received(redis)
    await deferToThread(refusal.begin, redis)
    try:
        for request in (
            one.module("POST", f"/results/{job_id}", LARGE),
            one.module("POST", f"/results/{job_id}", b"small"),
            one.execute("refused"),
            one.app("GET", f"/jobs/{job_id}/status"),
        ):
            answered = Deferred.fromCoroutine(request) if not isinstance(request, Deferred) else request
            status, answer, headers = await answered.addTimeout(10, reactor)
            assert (status, answer["error"], headers.getRawHeaders("Retry-After")) == (503, "unavailable", ["1"])
        await pause(0.5)
    finally:
        await deferToThread(refusal.end, redis)
    await one.broker.node.when_up()
    assert received(redis) - before < 3 * len(LARGE)
    assert (await one.module("POST", f"/results/{job_id}", LARGE))[0] == 204
    assert (await running)[:2] == (200, LARGE)
    assert (await serve_one(one, b"result", "two"))["query"] == "kept"
    assert (await caller)[:2] == (200, b"result")
    # The poll that was parked meanwhile gets the next job.
    last = one.execute("next")
    envelope = (await poll)[1]["computeModuleJobV1"]
    assert envelope["query"] == "next"
    await one.module("POST", f"/results/{envelope['jobId']}", b"last")
    assert (await last)[1] == b"last"


@pytest_twisted.ensureDeferred
async def test_a_redis_that_has_lost_its_functions_gets_them_again(one: Harness, redis: RedisServer) -> None:
    caller = one.execute("kept")
    await until_parked([one], callers=1)
    assert await deferToThread(redis.command, "FUNCTION", "FLUSH") == b"+OK\r\n"
    assert (await one.execute("refused"))[0] == 503
    await one.broker.node.when_up()
    assert (await serve_one(one, b"there"))["query"] == "kept"
    assert (await caller)[:2] == (200, b"there")


@pytest_twisted.ensureDeferred
async def test_an_emulator_joins_a_redis_that_is_full(one: Harness, redis: RedisServer) -> None:
    caller = one.execute("kept")
    await until_parked([one], callers=1)
    await set_memory(redis, "1")
    former = one.broker.node.node_id
    one.broker.node.drop_link()
    await until(lambda: one.broker.node.up and one.broker.node.node_id != former)
    assert (await one.module("GET", "/job"))[0] == 200
    await set_memory(redis, "0")
    assert await one.broker.restart("one")
    assert (await caller)[0] == 500


@pytest_twisted.ensureDeferred
async def test_a_caller_that_leaves_while_redis_refuses_has_canceled_its_job(one: Harness, redis: RedisServer) -> None:
    caller = one.execute()
    await until_parked([one], callers=1)
    (job,) = await one.broker.jobs(JobFilter(), 10)
    # No heartbeat finds out before the caller leaves.
    one.broker.node.lease = 1000
    await pause(1.2)
    _commands("REPLICAOF 127.0.0.1 1")(redis)
    caller.addErrback(lambda failure: None)
    caller.cancel()
    await until(lambda: not one.broker.node.up)
    await deferToThread(_commands("REPLICAOF NO ONE"), redis)
    await one.broker.node.when_up()
    assert (await one.broker.job(job.job_id)).state is JobState.CANCELED
