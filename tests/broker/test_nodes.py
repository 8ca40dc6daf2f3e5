"""Emulators that share a Redis: real processes, a real Redis that goes away, and a real nginx before them."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from broker_fixtures import RedisBed
from conftest import (
    ROOT,
    RUNTIMES,
    SEED,
    Harness,
    make_harness,
    pause,
    raw_caller,
    raw_stream_head,
    receive_until,
    serve_one,
)
from emulator import MIB, Emulator, read_answer
from redis_server import KEEPS_ALL, RedisServer
from stream import open_stream
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from twisted_cm.broker.faults import FaultBook
from twisted_cm.broker.interface import BrokerUnavailable
from twisted_cm.broker.redis.address import InvalidAddress, parse_address
from twisted_cm.broker.redis.broker import RedisBroker
from twisted_cm.broker.redis.node import RedisNode
from twisted_cm.config.seed import parse_seed
from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.jobs import JobSource, JobState, Submission
from twisted_cm.model.registry import Registry, SessionRequest

BASE = "/_emulate/foundry/compute-modules"
OAUTH_SEED = (
    SEED.replace("foundry:", "foundry:\n  oauth_clients: [{client_id: app, client_secret: secret}]")
    + "      - {deployed_app_rid: ri.open, runtime_id: open}\n"
)


def stop(harness: Harness) -> None:
    pytest_twisted.blockon(harness.pool.closeCachedConnections())
    pytest_twisted.blockon(harness.service.stopService())


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of the test's own, which keeps what it has."""
    with closing(RedisServer(*KEEPS_ALL)) as server:
        yield server


@pytest.fixture
def three(redis: RedisServer) -> Iterator[list[Harness]]:
    """Three emulators that share it."""
    made = [make_harness(OAUTH_SEED, broker=redis.url) for _ in range(3)]
    for each in made:
        pytest_twisted.blockon(each.broker.node.when_up())
    yield made
    for each in made:
        stop(each)


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(2000):
        if condition():
            return
        await pause(0.005)
    raise AssertionError("never became true")


# What one node was told, each knows


@pytest_twisted.ensureDeferred
async def test_a_job_is_submitted_to_one_node_polled_from_another_and_asked_of_a_third(three: list[Harness]) -> None:
    first, second, third = three
    caller = first.execute({"n": 1})
    job = await serve_one(second, b"\x00\xff")
    assert (job["query"], job["userId"]) == ({"n": 1}, "jane")
    status, content, headers = await caller
    assert (status, content) == (200, b"\x00\xff")
    assert headers.getRawHeaders("X-Job-Id") == [job["jobId"]]
    _, answer, _ = await third.app("GET", f"/jobs/{job['jobId']}/status")
    assert answer["type"] == "succeeded"
    for each in three:
        assert (await each.app("GET", f"/jobs/{job['jobId']}/result"))[:2] == (200, b"\x00\xff")


@pytest_twisted.ensureDeferred
async def test_a_session_opened_at_one_node_is_there_at_every_other_at_once(three: list[Harness]) -> None:
    for n in range(5):
        body = {"runtimeId": "one", "deployedAppRid": f"ri.{n}"}
        _, session, _ = await three[n % 3].call("POST", RUNTIMES, body)
        token = session["moduleAuthToken"]
        for each in three:
            poll = await each.call("GET", f"{RUNTIMES}/one/job", Module_Auth_Token=token, Prefer="wait=0")
            assert poll[0] == 204
            assert (await each.call("GET", f"{RUNTIMES}/one/job", Module_Auth_Token="token-one"))[0] == 401
            assert (await each.app("GET", f"/schemas?rid=ri.{n}"))[0] == 200
            assert (await each.app("GET", f"/schemas?rid=ri.{n - 1}"))[0] == 404


@pytest_twisted.ensureDeferred
async def test_a_reset_at_one_node_answers_whoever_is_parked_at_another(three: list[Harness]) -> None:
    first, second, third = three
    poll = Deferred.fromCoroutine(second.module("GET", "/job", runtime="two"))
    caller = third.execute()
    await until(lambda: second.broker._polls and third.broker._waiters)
    assert (await first.call("POST", f"{BASE}/reset"))[0] == 204
    assert (await poll)[0] == 204
    status, answer, _ = await caller
    assert (status, answer["error_description"]) == (500, "The emulator was reset.")


@pytest_twisted.ensureDeferred
async def test_made_up_tokens_and_issued_tokens_are_the_same_at_every_node(three: list[Harness]) -> None:
    tokens = {(await each.broker.runtime("open")).module_auth_token for each in three}
    assert len(tokens) == 1
    form = b"grant_type=client_credentials&client_id=app&client_secret=secret"
    content_type = "application/x-www-form-urlencoded"
    _, issued, _ = await three[0].call("POST", "/multipass/api/oauth2/token", form, Content_Type=content_type)
    for each in three:
        status, me, _ = await each.call("GET", "/multipass/api/me", Authorization=f"Bearer {issued['access_token']}")
        assert (status, me["username"]) == (200, "app")
    revoked = b"client_id=app&client_secret=secret&token=" + issued["access_token"].encode()
    await three[1].call("POST", "/multipass/api/oauth2/revoke_token", revoked, Content_Type=content_type)
    status, _, _ = await three[2].call("GET", "/multipass/api/me", Authorization=f"Bearer {issued['access_token']}")
    assert status == 401


@pytest_twisted.ensureDeferred
async def test_a_fault_strikes_as_often_as_it_may_at_all_nodes_together(three: list[Harness]) -> None:
    _, fault, _ = await three[0].call("POST", f"{BASE}/faults", {"kind": "poll_error", "count": 4})
    polls = [Deferred.fromCoroutine(three[n % 3].module("GET", "/job")) for n in range(9)]
    await until(lambda: sum(each.called for each in polls) == 4)
    await until(lambda: sum(len(each.broker._polls) for each in three) == 5)
    for each in three:
        _, faults, _ = await each.call("GET", f"{BASE}/faults")
        assert [(found["fault_id"], found["struck"], found["spent"]) for found in faults] == [
            (fault["fault_id"], 4, True)
        ]
    assert (await three[1].call("DELETE", f"{BASE}/faults/{fault['fault_id']}"))[0] == 204
    assert (await three[2].call("DELETE", f"{BASE}/faults/{fault['fault_id']}"))[0] == 404
    await three[0].call("POST", f"{BASE}/reset")
    assert [(await each)[0] for each in polls].count(500) == 4


@pytest_twisted.ensureDeferred
async def test_a_fault_strikes_in_the_same_places_wherever_it_is_drawn(three: list[Harness]) -> None:
    plan = FaultPlan(FaultKind.POLL_ERROR, probability=0.3, random_seed=7)
    alone = FaultBook([plan])
    expected = [await alone.draw(FaultKind.POLL_ERROR, "r") is not None for _ in range(60)]
    await three[0].service.faults.add(plan)
    drawn = [await three[n % 3].service.faults.draw(FaultKind.POLL_ERROR, "r") is not None for n in range(60)]
    assert drawn == expected
    assert 5 < sum(drawn) < 40


@pytest_twisted.ensureDeferred
async def test_a_seed_read_again_by_every_node_counts_once(three: list[Harness]) -> None:
    text = OAUTH_SEED.replace("token-one", "other") + "    faults: [{kind: poll_error, count: 1, runtime_id: two}]\n"
    for each in three:
        await each.service.reseed(parse_seed(text))
        _, job, _ = await three[0].call("POST", f"{RUNTIMES}/one/jobs", {"queryType": "f"}, Module_Auth_Token="other")
        if each is three[0]:
            first = job["job_id"]
            assert (await three[2].module("GET", "/job", runtime="two"))[0] == 500
    assert (await three[1].broker.job(first)).state is JobState.QUEUED
    _, (fault,), _ = await three[1].call("GET", f"{BASE}/faults")
    assert fault["struck"] == 1


# Streams


@pytest_twisted.ensureDeferred
async def test_a_stream_is_followed_from_another_node_from_its_first_byte(three: list[Harness]) -> None:
    first, second, third = three
    callers = [raw_caller(first), raw_caller(third)]
    for chunked in range(2):
        job = (await second.module("GET", "/job"))[1]["computeModuleJobV1"]
        post = raw_stream_head(second, job["jobId"])
        caller = callers[chunked]
        for word in (b"first", b"second"):
            post.sendall(b"%x\r\n%s\r\n" % (len(word), word))
            await receive_until(caller, word + b"\r\n")
        if chunked:
            # A stream that breaks off has failed its job, and its answer is not whole.
            post.close()
            assert await receive_until(caller, None) == b""
            assert (await first.broker.job(job["jobId"])).state is JobState.FAILED
        else:
            post.sendall(b"0\r\n\r\n")
            assert await receive_until(caller, b"0\r\n\r\n") == b"0\r\n\r\n"
            assert (await first.app("GET", f"/jobs/{job['jobId']}/result"))[1] == b"firstsecond"
            post.close()
        caller.close()


def test_a_large_result_is_held_by_no_node(redis: RedisServer) -> None:
    size = 96 * MIB
    with ExitStack() as stack:
        options = ("--broker", redis.url, "--max-body", str(2 * size))
        posting, calling = (stack.enter_context(closing(Emulator(*options))) for _ in range(2))
        runtime = stack.enter_context(posting.connect("http"))
        caller = stack.enter_context(calling.caller("http"))
        open_stream(runtime, posting.take(runtime))
        idle = [each.memory("VmRSS") for each in (posting, calling)]
        for each in (posting, calling):
            each.forget_peak()
        chunk = b"40000\r\n%s\r\n" % bytes(0x40000)

        def send() -> None:
            for _ in range(size // 0x40000):
                runtime.sendall(chunk)
            runtime.sendall(b"0\r\n\r\n")

        sender = threading.Thread(target=send)
        sender.start()
        received, tail = 0, b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            data = caller.recv(MIB)
            assert data, "the stream broke off"
            received += len(data)
            tail = (tail + data)[-16:]
        sender.join()
        head, _ = read_answer(runtime)
        assert head.startswith(b"HTTP/1.1 204")
        assert received > size
        for each, before in zip((posting, calling), idle, strict=True):
            assert each.memory("VmHWM") - before < 16 * MIB


# Nodes that die, and a Redis that is away


class Nodes(RedisBed):
    """Brokers whose death is noticed soon."""

    lease = 0.4

    def die(self, broker: RedisBroker) -> None:
        """Let a node end as a killed process does: without a word."""
        self._made.remove(broker)
        broker.node._stopped = True
        broker.node._drop()


@pytest.fixture
def nodes(redis_server: RedisServer) -> Iterator[Nodes]:
    made = Nodes(redis_server)
    yield made
    made.close()


def within(seconds: float, condition: Callable[[], Any]) -> Any:
    """Let the reactor run until something is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        pytest_twisted.blockon(pause(0.01))
    raise AssertionError("never became true")


@pytest.mark.beside_the_reactor
def test_what_a_dead_node_held_goes_to_the_others(nodes: Nodes) -> None:
    dying, living = (nodes.node(lease=10) for _ in range(2))
    nodes.get(dying.open_session(SessionRequest("r")))
    submission = Submission("f", None, JobSource.CONTOUR_ASYNC)
    taken, delivered, streamed = (nodes.get(dying.enqueue("r", submission)) for _ in range(3))
    for _ in range(3):
        nodes.get(dying.poll("r", 0))
    nodes.get(dying.delivered(delivered.job_id, 1))
    stream = dying.new_result(streamed.job_id, None)
    assert nodes.get(dying.begin_result(streamed.job_id, stream))
    # A poll that is parked there is in nobody's way.
    dying.poll("r", 1000).addErrback(lambda failure: None)
    nodes.settle()
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
    # Its timers go on.
    nodes.advance(10)
    assert nodes.get(living.job(delivered.job_id)).state is JobState.QUEUED


@pytest.mark.beside_the_reactor
def test_a_node_that_leaves_gives_back_what_it_has_not_delivered(nodes: Nodes) -> None:
    leaving, staying = (nodes.node() for _ in range(2))
    nodes.get(leaving.open_session(SessionRequest("r")))
    job = nodes.get(leaving.enqueue("r", Submission("f", None, JobSource.CONTOUR_ASYNC)))
    nodes.get(leaving.poll("r", 0))
    nodes._made.remove(leaving)
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
    assert nodes._server.command("SREM", "twisted-cm:0:nodes", former) == b":1\r\n"
    within(5, lambda: late.node.up and late.node.node_id != former)
    job = nodes.get(other.enqueue("r", Submission("f", None, JobSource.CONTOUR_ASYNC)))
    assert nodes.get(poll).job_id == job.job_id


@pytest.mark.beside_the_reactor
def test_a_node_keeps_what_it_holds_though_it_takes_several_attempts_to_join_anew(nodes: Nodes) -> None:
    holding = nodes.node()
    nodes.get(holding.open_session(SessionRequest("r")))
    job = nodes.get(holding.enqueue("r", Submission("f", None, JobSource.CONTOUR_ASYNC)))
    nodes.get(holding.poll("r", 0))
    node, former = holding.node, holding.node.node_id
    greet, load, done = node._greet, node.load, []

    # A Redis that has just been started refuses for a while, and may be gone again after the node has joined.
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

    node._greet, node.load = first_refused, first_lost
    node._drop()
    within(5, lambda: node.up and node.node_id != former)
    nodes.settle()
    held = nodes._server.command("SMEMBERS", f"twisted-cm:0:handing:{node.node_id}")
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
    await until(lambda: second.broker._polls and first.broker._waiters)
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
    # The one that was delivered is not handed out again, and the parked poll gets the next.
    _, submitted, _ = await first.app("POST", "/deployed-apps/jobs", {"deployedAppRid": "ri.two", "queryType": "g"})
    _, envelope, _ = await poll
    assert envelope["computeModuleJobV1"]["jobId"] == submitted["id"]
    await second.module("POST", f"/results/{handle['id']}", b"late", "two")
    assert (await first.app("GET", f"/jobs/{handle['id']}/result"))[1] == b"late"


@pytest_twisted.ensureDeferred
async def test_a_stream_goes_on_where_it_was_after_redis_was_killed(three: list[Harness], redis: RedisServer) -> None:
    caller = three[0].execute()
    job = (await three[1].module("GET", "/job"))[1]["computeModuleJobV1"]
    post = raw_stream_head(three[1], job["jobId"])
    post.sendall(b"3\r\none\r\n")
    await until(lambda: three[0].broker._readers)
    redis.kill()
    await until(lambda: not any(each.broker.node.up for each in three))
    post.sendall(b"3\r\ntwo\r\n")
    await deferToThread(redis.start)
    post.sendall(b"5\r\nthree\r\n0\r\n\r\n")
    assert (await caller)[:2] == (200, b"onetwothree")
    post.close()


@pytest_twisted.ensureDeferred
async def test_a_redis_that_hangs_is_as_good_as_away(redis: RedisServer) -> None:
    harness = make_harness(broker=redis.url)
    await harness.broker.node.when_up()
    harness.broker.node._lease = 0.5
    harness.broker.node._beat.reset(0)
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
    await until(lambda: first.broker._waiters)
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
    await until(lambda: harness.broker._waiters)
    former = harness.broker.node.node_id
    await deferToThread(redis.command, "FLUSHALL")
    harness.broker.node._drop()
    assert (await caller)[1]["error"] == "not_found"
    await until(lambda: harness.broker.node.up and harness.broker.node.node_id != former)
    caller = harness.execute()
    await serve_one(harness, b"there")
    assert (await caller)[:2] == (200, b"there")
    await harness.pool.closeCachedConnections()
    await harness.service.stopService()


def test_nothing_is_lost_when_a_node_and_redis_are_killed_under_load() -> None:
    command = [sys.executable, str(ROOT / "tests/bench/nodes.py"), "--jobs", "1200", "--rate-jobs", "0", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert (figures["lost"], figures["wrong results"], figures["done twice for no reason"]) == (0, 0, 0)


# The address


def test_the_address_of_a_redis() -> None:
    address = parse_address("redis://user:p%40ss@[::1]:7/3")
    assert (address.host, address.port, address.user, address.password, address.db) == ("::1", 7, "user", "p@ss", 3)
    assert parse_address("redis://somewhere").port == 6379
    assert parse_address("unix:///run/redis.sock?db=2").path == "/run/redis.sock"
    for wrong in ("http://x", "redis://", "redis://x/y", "redis://:secret@x:y", "unix://?db=1", "unix:///x?y=1"):
        with pytest.raises(InvalidAddress) as error:
            parse_address(wrong)
        assert "secret" not in str(error.value)


@pytest_twisted.ensureDeferred
async def test_a_redis_that_wants_a_password_and_another_database() -> None:
    with closing(RedisServer("--requirepass", "s3cret")) as server:
        for password, works in (("other", False), ("s3cret", True)):
            address = evolve(parse_address(server.url), password=password, db=3)
            broker = RedisBroker(RedisNode(reactor, address), Registry())
            await broker.start()
            assert broker.node.up is works
            if works:
                await broker.open_session(SessionRequest("r"))
            else:
                with pytest.raises(BrokerUnavailable):
                    await broker.open_session(SessionRequest("r"))
            await broker.stop()
            await broker.close()


def test_the_seed_may_name_the_broker() -> None:
    seed = parse_seed("foundry: {compute_modules: {broker: 'redis://:s3cret@somewhere/1'}}")
    assert seed.broker == "redis://:s3cret@somewhere/1"
    assert "s3cret" not in repr(seed)


def test_a_broker_that_cannot_be_had_is_said() -> None:
    serve = "import sys; from twisted_cm.cli import main; main(sys.argv[1:])"
    hidden = serve.replace("from", "sys.modules['txredisapi'] = None; from")
    for program, url, said in (
        (hidden, "redis://localhost", "pip install 'twisted-cm[redis]'"),
        (serve, "mysql://user:secret@localhost", "give redis://"),
    ):
        command = [sys.executable, "-c", program, "serve", "--port", "0", "--tls-port", "0", "--broker", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert said in done.stderr
        assert "secret" not in done.stderr
        assert "Traceback" not in done.stderr


# A load balancer


NGINX = ROOT / "docs" / "nginx.conf"


class Balancer:
    """A real nginx before emulators, with the configuration of the documentation."""

    def __init__(self, directory: Path, upstreams: list[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        servers = "\n".join(f"        server {url.removeprefix('http://')};" for url in upstreams)
        text = NGINX.read_text("utf-8")
        for shipped in ("server 127.0.0.1:4000;\n", "server 127.0.0.1:4001;\n", "listen 8080;\n"):
            assert shipped in text
        text = text.replace("server 127.0.0.1:4000;\n", servers.strip() + "\n").replace("server 127.0.0.1:4001;\n", "")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{self.port};")
        (directory / "nginx.conf").write_text(text, "utf-8")
        command = ["nginx", "-p", str(directory), "-c", "nginx.conf", "-e", "error.log", "-g", "daemon off;"]
        self.process = subprocess.Popen(command)
        for _ in range(1000):
            assert self.process.poll() is None, "nginx did not start"
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError("nginx does not listen")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def balanced(three: list[Harness], tmp_path: Path) -> Iterator[Harness]:
    """Three emulators behind a balancer, which is who is asked."""
    urls = [each.service.addresses.http for each in three]
    with closing(Balancer(tmp_path, [url for url in urls if url is not None])) as balancer:
        front = Harness(three[0].service)
        addresses = evolve(three[0].service.addresses, http=f"http://127.0.0.1:{balancer.port}")
        three[0].service.addresses, direct = addresses, three[0].service.addresses
        yield front
        three[0].service.addresses = direct
        pytest_twisted.blockon(front.pool.closeCachedConnections())


@pytest_twisted.ensureDeferred
async def test_a_balancer_spreads_parked_parties_and_streams_through(balanced: Harness, three: list[Harness]) -> None:
    # Long-polls park at every node, for longer than a proxy likes by itself.
    polls = [Deferred.fromCoroutine(balanced.module("GET", "/job")) for _ in range(9)]
    await until(lambda: sum(len(each.broker._polls) for each in three) == 9)
    assert all(each.broker._polls for each in three)
    callers = [balanced.execute(n) for n in range(9)]
    for poll in polls:
        _, envelope, _ = await poll
        job = envelope["computeModuleJobV1"]
        answer = await balanced.module("POST", f"/results/{job['jobId']}", b"result of %d" % job["query"])
        assert answer[:2] == (204, b"")
    assert [(await caller)[1] for caller in callers] == [b"result of %d" % n for n in range(9)]
    # A stream arrives as it is posted.
    caller = raw_caller(balanced)
    job = (await balanced.module("GET", "/job"))[1]["computeModuleJobV1"]
    post = raw_stream_head(balanced, job["jobId"])
    for word in (b"first", b"second"):
        post.sendall(b"%x\r\n%s\r\n" % (len(word), word))
        await receive_until(caller, word + b"\r\n")
    post.sendall(b"0\r\n\r\n")
    await receive_until(caller, b"0\r\n\r\n")
    caller.close()
    post.close()
    # A large body is not too large.
    large = balanced.execute("large")
    await serve_one(balanced, bytes(20 * MIB))
    assert len((await large)[1]) == 20 * MIB
    # Whoever waits longest is not cut off.
    status, _, headers = await balanced.call(
        "GET", f"{RUNTIMES}/one/job", Module_Auth_Token="token-one", Prefer="wait=1"
    )
    assert (status, headers.getRawHeaders("Preference-Applied")) == (204, ["wait=1"])
