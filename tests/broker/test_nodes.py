"""Emulators that share a Redis: what one of them learns, all of them know."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack, closing

import pytest
import pytest_twisted
from conftest import RUNTIMES, Harness, raw, raw_caller, raw_stream_head, receive_until, serve_one
from emulator import MIB, Emulator, read_answer
from node_fixtures import BASE, OAUTH_SEED, until, until_parked
from redis_server import RedisServer
from stream import open_stream
from twisted.internet.defer import Deferred

from twisted_cm.broker.faults import FaultBook
from twisted_cm.config.seed import parse_seed
from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.jobs import JobState


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
async def test_a_session_opened_at_one_node_is_there_at_every_other_at_once(
    monkeypatch: pytest.MonkeyPatch, three: list[Harness]
) -> None:
    monkeypatch.setattr("twisted_cm.server.refused_polls.HOLD", 0)
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
    await until_parked([second], polls=1)
    await until_parked([third], callers=1)
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
    await until_parked(three, polls=5)
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
            # A stream that breaks off fails its job, and the answer stays unfinished.
            post.close()
            assert await receive_until(caller, None) == b""
            assert (await first.broker.job(job["jobId"])).state is JobState.FAILED
        else:
            post.sendall(b"0\r\n\r\n")
            assert await receive_until(caller, b"0\r\n\r\n") == b"0\r\n\r\n"
            assert (await first.app("GET", f"/jobs/{job['jobId']}/result"))[1] == b"firstsecond"
            post.close()
        caller.close()


@pytest.mark.long
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


@pytest_twisted.ensureDeferred
async def test_a_client_is_connected_to_the_events_when_redis_tells_its_node_of_each_change(
    three: list[Harness], redis: RedisServer
) -> None:
    redis.pause()
    request = f"GET {BASE}/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer app-token\r\n\r\n"
    with closing(raw(three[0], request)) as client:
        await until(lambda: three[0].connections() == 1)
        # By then, the node has read the request.
        assert (await three[0].call("GET", "/healthz"))[0] == 200
        with pytest.raises(BlockingIOError):
            client.recv(1, socket.MSG_DONTWAIT)
        redis.resume()
        await receive_until(client, b": connected\n\n\r\n")
        caller = three[1].execute()
        assert b'"status": "queued"' in await receive_until(client, b"}\n\n\r\n")
        await serve_one(three[2], b"1")
        await caller


@pytest_twisted.ensureDeferred
async def test_a_time_limit_of_a_reloaded_seed_applies_to_a_job_that_runs_at_another_node(three: list[Harness]) -> None:
    caller = three[0].execute()
    job = (await three[1].module("GET", "/job"))[1]["computeModuleJobV1"]
    text = OAUTH_SEED.replace("token-one}", "token-one, job_timeout: 0.1}")
    await three[2].service.reseed(parse_seed(text))
    await caller
    failed = await three[0].broker.job(job["jobId"])
    assert failed.error_message == "The job ran for longer than its time limit of 0.1 seconds."
