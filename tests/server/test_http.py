"""The routes over real sockets, and what becomes of those who vanish."""

from __future__ import annotations

import json
import os
import re
import resource
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import pytest_twisted
from conftest import (
    CONTOUR,
    RUNTIMES,
    Harness,
    Server,
    make_harness,
    pause,
    raw,
    raw_caller,
    raw_poll,
    raw_stream,
    receive_until,
    serve_one,
)
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.threads import deferToThread

from twisted_cm.model.jobs import JobSource, JobState, Submission
from twisted_cm.model.limits import Limits
from twisted_cm.service import CannotStart

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


@pytest_twisted.ensureDeferred
async def test_a_synchronous_caller_gets_the_exact_bytes(harness: Harness) -> None:
    content = os.urandom(16 * 1024 * 1024)
    caller = harness.execute({"n": 1})
    job = await serve_one(harness, content)
    status, answer, headers = await caller
    assert status == 200
    assert answer == content
    assert headers.getRawHeaders("Content-Type") == ["application/octet-stream"]
    assert headers.getRawHeaders("X-Job-Id") == [job["jobId"]]
    assert job == {
        "jobId": job["jobId"],
        "queryType": "f",
        "query": {"n": 1},
        "temporaryCredentialsAuthToken": ANY,
        "authHeader": ANY,
        "userId": "jane",
    }


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "query",
    [
        {"ü": ["€", "😀", "\u2028", "\x7f", '"\\/'], "": None},
        {"half a pair": "\ud83d", "beside": "ü"},
        [2**63 - 1, 2**63, -(2**63), 10**400],
        [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1e22, 123456789.123456789],
    ],
    ids=["text", "half a surrogate pair", "integers", "floats"],
)
async def test_a_query_arrives_as_it_was_sent(harness: Harness, query: Any) -> None:
    caller = harness.execute(query)
    job = await serve_one(harness, b"1")
    assert repr(job["query"]) == repr(query)
    assert (await caller)[0] == 200


@pytest_twisted.ensureDeferred
async def test_an_asynchronous_job_from_handle_to_result(harness: Harness) -> None:
    body = {"deployedAppRid": "ri.one", "queryType": "f"}
    status, handle, _ = await harness.app("POST", "/deployed-apps/jobs", body)
    assert status == 200
    assert handle["status"] == {"type": "queued", "queued": {"queueInfo": "NORMAL_OPERATION"}}
    by_id = {"id": handle["id"]}
    status, answer, _ = await harness.app("PUT", "/jobs/result/v2", by_id)
    assert (status, answer["error"]) == (409, "job_not_ready")
    job = await serve_one(harness, b"[1]")
    assert job["query"] == {}
    _, answer, _ = await harness.app("GET", f"/jobs/{handle['id']}/status")
    assert answer["type"] == "succeeded"
    assert answer["succeeded"]["multiplexerJobTiming"]["queuedJob"]["moduleSubmitTimeMillis"] > 0
    for reference in (by_id, {"jobHandle": handle["jobHandle"]}):
        assert (await harness.app("PUT", "/jobs/result/v2", reference))[:2] == (200, b"[1]")


@pytest_twisted.ensureDeferred
async def test_a_session_from_opening_to_reset(harness: Harness) -> None:
    opening = {"runtimeId": "a/b ü", "deployedAppRid": "ri.new"}
    status, session, _ = await harness.call("POST", RUNTIMES, opening)
    assert status == 200
    base = f"{harness.service.addresses.http}{RUNTIMES}/a%2Fb%20%C3%BC"
    assert session["getJobUri"] == f"{base}/job"
    assert session["postResultUri"] == f"{base}/results"
    assert session["moduleAuthToken"].startswith("foundry_module_auth_")
    token = {"Module_Auth_Token": session["moduleAuthToken"]}
    caller = harness.execute(rid="ri.new")
    path = f"{RUNTIMES}/a%2Fb%20%C3%BC"
    status, envelope, _ = await harness.call("GET", f"{path}/job", **token)
    assert status == 200
    _, shown, _ = await harness.call("GET", f"{path}/jobs/{envelope['computeModuleJobV1']['jobId']}")
    assert shown["runtime"]["connected"] is True
    assert shown["runtime"]["module_auth_token"] != session["moduleAuthToken"]
    assert shown["job"]["source"] == "contour-sync"
    await harness.call("POST", RUNTIMES, {"runtimeId": "a/b ü"})
    status, answer, _ = await caller
    assert (status, answer["error"]) == (500, "job_failed")
    assert "reset" in answer["error_description"]
    assert (await harness.call("GET", f"{path}/job", **token))[0] == 401
    assert (await harness.execute(rid="ri.new"))[0] == 404


@pytest_twisted.ensureDeferred
async def test_schemas_are_kept_whole_or_refused_whole(harness: Harness) -> None:
    good = {"functionName": "f", "inputs": [], "output": {"type": "single", "single": {"dataType": {"type": "date"}}}}
    assert (await harness.module("POST", "/schemas", [good]))[:2] == (200, {})
    status, answer, _ = await harness.module("POST", "/schemas", [{"inputs": []}, {"g": 1}, {"name": "h", "type": 3}])
    assert status == 400
    pointers = [each["pointer"] for each in answer["parameters"]["violations"]]
    assert pointers == ["/0", "/1", "/2/type"]
    _, shown, _ = await harness.call("GET", f"{RUNTIMES}/one", Authorization="Bearer app-token")
    assert [each["function_name"] for each in shown["schemas"]] == ["f"]


@pytest_twisted.ensureDeferred
async def test_restart_answers_the_caller_of_a_running_job(harness: Harness) -> None:
    caller = harness.execute()
    _, envelope, _ = await harness.module("GET", "/job")
    status, lost, _ = await harness.module("POST", "/restart")
    assert (status, lost) == (200, [envelope["computeModuleJobV1"]["jobId"]])
    status, answer, _ = await caller
    assert (status, answer["error_description"]) == (500, "runtime restarted")


@pytest_twisted.ensureDeferred
async def test_results_that_come_again_late_or_to_the_wrong_place(harness: Harness) -> None:
    status, job, _ = await harness.module("POST", "/jobs", {"queryType": "f", "query": [1]})
    assert (status, job["source"]) == (201, "runtime-direct")
    await serve_one(harness, b"\xff")
    path = f"/results/{job['job_id']}"
    assert (await harness.module("POST", path, b"\xff"))[0] == 204
    status, answer, _ = await harness.module("POST", path, b"other")
    assert (status, answer["error"]) == (409, "job_already_completed")
    assert (await harness.module("POST", path, b"\xff", "two"))[0] == 404
    assert (await harness.module("POST", "/results/none", b""))[0] == 404
    _, shown, _ = await harness.module("GET", f"/jobs/{job['job_id']}")
    assert (shown["job"]["result_body_utf8"], shown["job"]["result_body_base64"]) == (None, "/w==")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_poller_that_vanished_while_parked_gets_no_job(harness: Harness, scheme: str) -> None:
    poller = await raw_poll(harness, scheme)
    await harness.until(lambda: harness.work().parked_polls)
    poller.close()
    await harness.until(lambda: not harness.work().parked_polls)
    caller = harness.execute()
    job = await serve_one(harness, b"ok")
    assert (await caller)[1] == b"ok"
    assert harness.job(job["jobId"]).attempts == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_poller_that_vanishes_while_the_envelope_is_written_gives_it_back(
    harness: Harness, scheme: str
) -> None:
    poller = await raw_poll(harness, scheme)
    await harness.until(lambda: harness.work().parked_polls)
    caller = harness.execute("x" * 30_000_000)
    await harness.until(lambda: harness.work().running)
    second = harness.execute("second")
    await harness.until(lambda: harness.work().queued)
    poller.close()
    await harness.until(lambda: not harness.work().running)
    job = await serve_one(harness, b"ok")
    assert len(job["query"]) == 30_000_000
    assert (await caller)[1] == b"ok"
    assert (await serve_one(harness, b"2"))["query"] == "second"
    assert (await second)[1] == b"2"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_poller_that_has_vanished_unseen_gives_its_envelope_back(harness: Harness, scheme: str) -> None:
    poller = await raw_poll(harness, scheme)
    await harness.until(lambda: harness.work().parked_polls)
    poller.close()
    # In the same turn of the reactor, which has not read from the connection since.
    harness.broker.enqueue("one", Submission("f", b"{}", JobSource.RUNTIME_DIRECT))
    assert harness.work().running
    await harness.until(lambda: not harness.connections())
    assert [job.state for job in harness.jobs()] == [JobState.QUEUED]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_an_envelope_leaves_in_the_turn_of_the_reactor_in_which_it_is_dispatched(
    harness: Harness, scheme: str
) -> None:
    poller = await raw_poll(harness, scheme)
    await harness.until(lambda: harness.work().parked_polls)
    harness.broker.enqueue("one", Submission("f", b"{}", JobSource.RUNTIME_DIRECT))
    # The reactor does not run until all of it is received.
    poller.settimeout(5)
    received = b""
    while not received.endswith(b"}}"):
        received += poller.recv(65536)
    assert b"computeModuleJobV1" in received
    poller.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_poller_that_is_just_being_cut_off_gives_its_envelope_back(harness: Harness, scheme: str) -> None:
    poller = await raw_poll(harness, scheme)
    await harness.until(lambda: harness.work().parked_polls)
    (channel,) = harness.sites()[0].channels
    channel.abort()
    harness.broker.enqueue("one", Submission("f", b"{}", JobSource.RUNTIME_DIRECT))
    assert harness.work().running
    await harness.until(lambda: not harness.connections())
    assert [job.state for job in harness.jobs()] == [JobState.QUEUED]
    poller.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_delivered_envelope_stays_delivered_when_the_poller_closes(harness: Harness, scheme: str) -> None:
    poller = await raw_poll(harness, scheme)
    caller = harness.execute()
    received = await receive_until(poller, b"}}")
    assert b"computeModuleJobV1" in received
    poller.close()
    (job_id,) = [job.job_id for job in harness.jobs() if job.state is JobState.RUNNING]
    await harness.until(lambda: harness.connections() <= 1)
    assert harness.job(job_id).state is JobState.RUNNING
    await harness.module("POST", f"/results/{job_id}", b"ok")
    assert (await caller)[1] == b"ok"


@pytest_twisted.ensureDeferred
async def test_an_envelope_that_a_timer_sent_is_delivered_however_soon_the_poller_closes(harness: Harness) -> None:
    poller = await raw_poll(harness)
    await harness.until(lambda: harness.work().parked_polls)
    received = bytearray()

    def dispatch() -> None:
        harness.broker.enqueue("one", Submission("f", b"{}", JobSource.RUNTIME_DIRECT))
        reactor.callLater(0, take)

    def take() -> None:
        # What was written is on its way by now, and the emulator has not looked at this connection since.
        received.extend(poller.recv(65536))
        poller.close()

    reactor.callLater(0, dispatch)
    await harness.until(lambda: received and not harness.connections())
    assert received.endswith(b"}}")
    assert [job.state for job in harness.jobs()] == [JobState.RUNNING]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_an_envelope_that_a_timer_sent_is_delivered_though_the_poller_wants_its_connection_closed(
    harness: Harness, scheme: str
) -> None:
    headers = "Host: localhost\r\nModule-Auth-Token: token-one\r\nConnection: close\r\n"
    poll = f"GET {RUNTIMES}/one/job HTTP/1.1\r\n{headers}\r\n"
    poller = await deferToThread(raw, harness, poll, scheme)
    await harness.until(lambda: harness.work().parked_polls)
    reactor.callLater(0, harness.broker.enqueue, "one", Submission("f", b"{}", JobSource.RUNTIME_DIRECT))
    assert (await receive_until(poller, None)).endswith(b"}}")
    poller.close()
    await harness.until(lambda: not harness.connections())
    assert [job.state for job in harness.jobs()] == [JobState.RUNNING]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_caller_that_disconnects_while_its_job_is_queued_cancels_it(harness: Harness, scheme: str) -> None:
    caller = await deferToThread(raw_caller, harness, scheme)
    await harness.until(lambda: harness.work().queued)
    caller.close()
    await harness.until(lambda: not harness.work().queued)
    assert [job.state.value for job in harness.jobs()] == ["canceled"]


@pytest.mark.parametrize("begun", ["", "GET ", "GET / HTTP/1.1\r\nHost: localhost\r\n"])
@pytest_twisted.ensureDeferred
async def test_a_client_that_goes_away_before_its_headers_are_there_is_forgotten(harness: Harness, begun: str) -> None:
    client = raw(harness, begun)
    await harness.until(harness.connections)
    client.close()
    await harness.until(lambda: not harness.connections())


@pytest_twisted.ensureDeferred
async def test_refusals_have_one_shape(harness: Harness) -> None:
    execute = f"{CONTOUR}/compute-modules/jobs/execute"
    bearer = {"Authorization": "Bearer app-token"}
    one = f"{RUNTIMES}/one"
    cases: list[tuple[tuple[str, str, Any], dict[str, str], int, str]] = [
        (("POST", execute, {}), {}, 401, "invalid_token"),
        (("POST", execute, {}), {"Authorization": "Bearer wrong"}, 401, "invalid_token"),
        (("POST", execute, {"queryType": "f"}), bearer, 400, "invalid_request"),
        (("POST", execute, {"deployedAppRid": "ri.one", "queryType": " "}), bearer, 400, "invalid_request"),
        (("POST", execute, b"{"), bearer, 400, "invalid_request"),
        (("POST", execute, b"\xff"), bearer, 400, "invalid_request"),
        (("POST", execute, b'{"a": NaN}'), bearer, 400, "invalid_request"),
        (("POST", execute, b"[" * 100_000), bearer, 400, "invalid_request"),
        (("POST", execute, {"deployedAppRid": "ri.none", "queryType": "f"}), bearer, 404, "not_found"),
        (("POST", execute, {"deployedAppRid": "ri.off", "queryType": "f"}), bearer, 404, "not_found"),
        (("GET", execute, None), bearer, 405, "method_not_allowed"),
        (("HEAD", f"{one}/job", None), {}, 405, ""),
        (("GET", "/nowhere", None), {}, 404, "not_found"),
        (("GET", "/%ff", None), {}, 404, "not_found"),
        (("GET", f"{one}/job", None), {}, 401, "invalid_module_auth_token"),
        (("GET", f"{one}/job", None), {"Module_Auth_Token": "wrong"}, 401, "invalid_module_auth_token"),
        (("GET", f"{one}/job", None), {"Module_Auth_Token": "token-two"}, 403, "forbidden"),
        (("GET", f"{RUNTIMES}/none/job", None), {"Module_Auth_Token": "token-two"}, 404, "not_found"),
        (("GET", f"{RUNTIMES}/none/jobs/x", None), {}, 404, "not_found"),
        (("POST", RUNTIMES, {"runtimeId": ""}), {}, 400, "invalid_request"),
        (("POST", RUNTIMES, {"runtimeId": 1}), {}, 400, "invalid_request"),
        (("POST", RUNTIMES, {"runtimeId": "x", "keepBindings": 1}), {}, 400, "invalid_request"),
        (("GET", RUNTIMES, None), {}, 401, "invalid_token"),
    ]
    for request, headers, status, error in cases:
        answered, answer, sent = await harness.call(*request, **headers)
        assert answered == status, (request, answer)
        if error:
            assert answer["error"] == error
            names = {"errorCode", "errorName", "errorInstanceId", "errorDescription"}
            assert set(answer) == {"error", "error_description", "parameters", *names}
            assert answer["errorDescription"] == answer["error_description"]
        if status == 401 and error == "invalid_token":
            assert sent.getRawHeaders("WWW-Authenticate") == ["Bearer"]
        if status == 405:
            assert sent.hasHeader("Allow")


@pytest_twisted.ensureDeferred
async def test_polls_wait_as_they_prefer(harness: Harness) -> None:
    headers = {"Module_Auth_Token": "token-one", "Prefer": "respond-async, wait=0"}
    status, _, sent = await harness.call("GET", f"{RUNTIMES}/one/job", **headers)
    assert (status, sent.getRawHeaders("Preference-Applied")) == (204, ["wait=0"])


@pytest_twisted.ensureDeferred
async def test_a_runtime_is_deleted_with_its_jobs(harness: Harness) -> None:
    caller = harness.execute()
    await harness.until(lambda: harness.work().queued)
    assert (await harness.call("DELETE", f"{RUNTIMES}/one", Authorization="Bearer app-token"))[0] == 204
    assert (await caller)[0] == 500
    assert (await harness.module("GET", "/job"))[0] == 404


@pytest_twisted.ensureDeferred
async def test_info_says_how_to_reach_it(harness: Harness) -> None:
    _, info, _ = await harness.call("GET", "/_emulate/foundry/compute-modules/info")
    assert info["http"] == harness.service.addresses.http
    assert (info["pollTimeout"], info["syncTimeout"]) == (30, 30)


@pytest_twisted.ensureDeferred
async def test_a_body_over_the_limit_is_refused() -> None:
    small = make_harness(limits=Limits(max_body=1000))
    try:
        body = {"deployedAppRid": "ri.one", "queryType": "f", "query": "x" * 100_000}
        status, answer, _ = await small.app("POST", "/deployed-apps/jobs", body)
        assert (status, answer["parameters"]) == (413, {"limit": 1000})
        assert (await small.app("POST", "/deployed-apps/jobs", {**body, "query": 1}))[0] == 200
    finally:
        await small.pool.closeCachedConnections()
        await small.service.stopService()


@pytest_twisted.ensureDeferred
async def test_what_is_asked_next_on_a_connection_meets_the_new_session(harness: Harness) -> None:
    """The second of two pipelined requests is routed in the moment that the first is answered."""
    poll = f"GET {RUNTIMES}/one/job HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: token-one\r\n\r\n"
    client = raw(harness, poll + poll)
    await harness.until(lambda: harness.work().parked_polls)
    assert (await harness.call("POST", RUNTIMES, {"runtimeId": "one"}))[0] == 200
    received = await receive_until(client, b"}}")
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"204", b"401"]
    client.close()


def test_a_result_that_cannot_be_kept_is_said_and_may_be_posted_again(tmp_path: Path, state_dir: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024 * 1024, limit[1]))
    try:
        server = Server(tmp_path, state_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    try:
        base = f"{server.urls['http']}{RUNTIMES}/one"
        token = {"Module-Auth-Token": "token-one"}
        with urlopen(Request(f"{base}/jobs", b'{"queryType": "f"}', token)) as answer:
            job_id = json.load(answer)["job_id"]
        with urlopen(Request(f"{base}/job", headers=token)) as answer:
            assert job_id in answer.read().decode()
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{base}/results/{job_id}", b"x" * 3_000_000, token))
        assert refused.value.code == 503
        assert "cannot be kept: File too large" in json.load(refused.value)["error_description"]
        with urlopen(Request(f"{base}/results/{job_id}", b"small", token)) as answer:
            assert answer.status == 204
    finally:
        server.stop()


@pytest_twisted.ensureDeferred
async def test_stopping_answers_whoever_is_parked() -> None:
    stopped = make_harness()
    poll = await raw_poll(stopped)
    caller = stopped.execute(rid="ri.two")
    await stopped.until(lambda: stopped.work().parked_polls and stopped.work("two").queued)
    started = time.monotonic()
    await stopped.service.stopService()
    assert time.monotonic() - started < 5
    status, answer, headers = await caller
    assert (status, answer["error"], headers.hasHeader("Retry-After")) == (503, "unavailable", True)
    assert b" 204 " in await receive_until(poll, None)
    poll.close()
    await stopped.pool.closeCachedConnections()


@pytest.mark.long
@pytest_twisted.ensureDeferred
async def test_a_thousand_parked_callers_cost_nothing_and_each_gets_its_own(harness: Harness) -> None:
    harness.pool.maxPersistentPerHost = 1100
    callers = [harness.execute(n) for n in range(1000)]
    await harness.until(lambda: harness.work().queued == 1000)
    process = psutil.Process()
    before = process.cpu_times()
    await pause(3)
    after = process.cpu_times()
    assert (after.user + after.system - before.user - before.system) / 3 < 0.01
    for _ in range(1000):
        _, envelope, _ = await harness.module("GET", "/job")
        job = envelope["computeModuleJobV1"]
        await harness.module("POST", f"/results/{job['jobId']}", str(job["query"]).encode())
    answers = await gatherResults(callers)
    assert [answer[1] for answer in answers] == [str(n).encode() for n in range(1000)]


@pytest_twisted.ensureDeferred
async def test_a_caller_that_waits_too_long_can_fetch_the_result_later() -> None:
    hasty = make_harness(limits=Limits(poll_timeout=30, sync_timeout=0.05))
    try:
        status, answer, headers = await hasty.execute()
        job_id = headers.getRawHeaders("X-Job-Id")[0]
        assert (status, answer["error"]) == (504, "job_timeout")
        assert answer["error_description"].startswith(f"Timed out waiting for compute-module job '{job_id}'.")
        await serve_one(hasty, b"late")
        assert (await hasty.app("PUT", "/jobs/result/v2", {"id": job_id}))[:2] == (200, b"late")
    finally:
        await hasty.pool.closeCachedConnections()
        await hasty.service.stopService()


@pytest_twisted.ensureDeferred
async def test_beyond_loopback_the_admin_token_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: False)
    with pytest.raises(CannotStart, match="--admin-token"):
        make_harness()
    guarded = make_harness(admin_token="boss")
    try:
        session = {"runtimeId": "new"}
        job = f"{RUNTIMES}/one/jobs/{(await guarded.module('POST', '/jobs', {'queryType': 'f'}))[1]['job_id']}"
        tokens = ({}, {"Authorization": "Bearer app-token"}, {"Authorization": "Bearer boss"})
        for request, statuses in (
            (("POST", RUNTIMES, session), [401, 403, 200]),
            (("GET", RUNTIMES, None), [401, 200, 200]),
            (("GET", job, None), [401, 200, 200]),
            (("DELETE", f"{RUNTIMES}/one", None), [401, 403, 204]),
        ):
            assert [(await guarded.call(*request, **token))[0] for token in tokens] == statuses, request
        _, shown, _ = await guarded.call("GET", f"{RUNTIMES}/two", Authorization="Bearer boss")
        assert shown["module_auth_token"] == "token-two"
    finally:
        await guarded.pool.closeCachedConnections()
        await guarded.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_stream_may_pause_for_longer_than_an_idle_connection_lives(harness: Harness) -> None:
    harness.sites()[0].idle_timeout = 0.2
    caller = harness.execute()
    _, envelope, _ = await harness.module("GET", "/job")
    post = raw_stream(harness, envelope["computeModuleJobV1"]["jobId"], "a")
    await pause(0.6)
    post.sendall(b"1\r\nb\r\n0\r\n\r\n")
    assert (await caller)[1] == b"ab"
    # The connection is an idle one again, and closed as such.
    assert b" 204 " in await receive_until(post, None)
    post.close()
