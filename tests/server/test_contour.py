"""The Contour routes over real sockets: status, results, canceling and streams."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from conftest import (
    CONTOUR,
    Harness,
    make_harness,
    raw_caller,
    raw_stream,
    raw_stream_head,
    receive_until,
    serve_one,
)
from server.contour_steps import SUBMISSION, submit, take
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from twisted_cm.model.limits import Limits


def in_background(coroutine: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine)


# Status


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest_twisted.ensureDeferred
async def test_status_in_foundrys_union(harness: Harness, version: str) -> None:
    handle = await submit(harness)

    async def status(job: dict[str, Any]) -> Any:
        path = f"{CONTOUR}/jobs/status/{version}"
        body = {"jobHandle": job["jobHandle"]}
        code, answer, sent = await harness.call("PUT", path, body, Authorization="Bearer app-token", Prefer="wait=0")
        assert (code, sent.getRawHeaders("Preference-Applied")) == (200, ["wait=0"])
        return answer

    assert await status(handle) == {"type": "queued", "queued": {"queueInfo": "NORMAL_OPERATION"}}
    await take(harness)
    progress = {"completedTasks": 0, "approxNumTasks": None, "metadata": None}
    assert await status(handle) == {"type": "inProgress", "inProgress": progress}
    await harness.module("POST", f"/results/{handle['id']}", b"1")
    succeeded = await status(handle)
    assert succeeded["type"] == "succeeded"
    assert succeeded["succeeded"]["multiplexerJobTiming"]["type"] == "queuedJob"

    canceled = await submit(harness)
    await harness.app("DELETE", f"/jobs/{canceled['id']}")
    failed = await submit(harness)
    await take(harness)
    await harness.module("POST", "/restart")
    for job, kind, message in (
        (canceled, "canceled", "The job was canceled."),
        (failed, "failed", "runtime restarted"),
    ):
        answer = await status(job)
        assert answer["type"] == kind
        exception = answer[kind]["exception"]
        assert set(exception) == {"args", "errorInstanceId", "errorType", "message", "safeMessage"}
        assert exception["message"] == message
        assert await status(job) == answer


@pytest_twisted.ensureDeferred
async def test_status_parks_until_the_job_has_ended(harness: Harness) -> None:
    handle = await submit(harness)
    parked = [
        in_background(harness.app("PUT", "/jobs/status/v3", {"id": handle["id"]})),
        in_background(
            harness.call(
                "GET", f"{CONTOUR}/jobs/{handle['id']}/status", Authorization="Bearer app-token", Prefer="wait=20"
            )
        ),
    ]
    await harness.until(lambda: harness.load().parked_callers == 2)
    # A job that runs has not ended, even if its result has begun.
    job_id = await take(harness)
    post = raw_stream(harness, job_id, "a")
    await harness.until(lambda: harness.job(job_id).result)
    assert not any(each.called for each in parked)
    post.sendall(b"0\r\n\r\n")
    (_, foundry, _), (_, plain, headers) = [await each for each in parked]
    assert (foundry["type"], plain["type"]) == ("succeeded", "succeeded")
    assert headers.getRawHeaders("Preference-Applied") == ["wait=20"]
    post.close()


@pytest_twisted.ensureDeferred
async def test_status_answers_after_the_poll_timeout() -> None:
    hasty = make_harness(limits=Limits(poll_timeout=0.05, sync_timeout=30))
    try:
        handle = await submit(hasty)
        _, answer, _ = await hasty.app("PUT", "/jobs/status/v2", {"id": handle["id"]})
        assert answer["type"] == "queued"
        _, answer, headers = await hasty.app("GET", f"/jobs/{handle['id']}/status")
        assert answer["type"] == "queued"
        assert not headers.hasHeader("Preference-Applied")
    finally:
        await hasty.pool.closeCachedConnections()
        await hasty.service.stopService()


# Results


@pytest_twisted.ensureDeferred
async def test_a_result_by_every_route(harness: Harness) -> None:
    handle = await submit(harness)
    routes = [
        ("GET", f"/jobs/{handle['id']}/result", None),
        ("PUT", "/jobs/result/v2", {"id": handle["id"]}),
        ("PUT", "/jobs/result/v3", {"jobHandle": handle["jobHandle"]}),
    ]
    for route in routes:
        status, answer, _ = await harness.app(*route)
        assert (status, answer["error"]) == (409, "job_not_ready")
        assert answer["error_description"] == f"Compute-module job '{handle['id']}' has not completed successfully."
    await serve_one(harness, b"\x00\xff")
    for route in routes:
        status, answer, headers = await harness.app(*route)
        assert (status, answer) == (200, b"\x00\xff")
        assert headers.getRawHeaders("X-Job-Id") == [handle["id"]]
    for method, path, body in (
        ("GET", "/jobs/none/result", None),
        ("GET", "/jobs/none/status", None),
        ("PUT", "/jobs/result/v3", {"id": "none"}),
        ("PUT", "/jobs/status/v2", {"id": "none"}),
        ("DELETE", "/jobs/none", None),
        ("DELETE", "/jobs/v3", {"id": "none"}),
        ("PUT", "/jobs/none/soft-cancel", None),
    ):
        status, answer, _ = await harness.app(method, path, body)
        assert (status, answer["error"]) == (404, "not_found"), path
    for body in ({}, {"id": 1}, {"jobHandle": "{"}, {"jobHandle": "{}"}, [], {"jobHandle": "[" * 100_000}):
        status, answer, _ = await harness.app("PUT", "/jobs/result/v3", body)
        assert (status, answer["error"]) == (400, "invalid_request"), str(body)[:20]


@pytest_twisted.ensureDeferred
async def test_both_execute_routes_are_one(harness: Harness) -> None:
    caller = in_background(harness.app("POST", "/deployed-apps/jobs/execute", {**SUBMISSION, "query": [1]}))
    assert (await serve_one(harness, b"2"))["query"] == [1]
    assert (await caller)[:2] == (200, b"2")


# Canceling


@pytest_twisted.ensureDeferred
async def test_a_canceled_job_is_never_dispatched(harness: Harness) -> None:
    first, second, third, last = [await submit(harness) for _ in range(4)]
    assert (await harness.app("DELETE", f"/jobs/{first['id']}"))[:2] == (204, b"")
    assert (await harness.app("DELETE", "/jobs", {"id": second["id"]}))[0] == 204
    assert (await harness.app("DELETE", "/jobs/v3", {"jobHandle": third["jobHandle"]}))[0] == 204
    assert await take(harness) == last["id"]
    _, answer, _ = await harness.app("GET", f"/jobs/{first['id']}/status")
    assert answer == {"type": "canceled", "canceled": {"message": "The job was canceled."}}
    assert (await harness.app("GET", f"/jobs/{first['id']}/result"))[0] == 409


@pytest_twisted.ensureDeferred
async def test_canceling_a_running_job_answers_at_once_and_discards_its_result(harness: Harness) -> None:
    caller = harness.execute()
    job_id = await take(harness)
    watcher = in_background(harness.app("PUT", "/jobs/status/v3", {"id": job_id}))
    await harness.until(lambda: harness.load().parked_callers == 2)
    assert (await harness.app("DELETE", f"/jobs/{job_id}"))[0] == 204
    status, answer, _ = await caller
    assert (status, answer["error"], answer["error_description"]) == (500, "job_failed", "The job was canceled.")
    assert (await watcher)[1]["type"] == "canceled"
    for _ in range(2):
        assert (await harness.module("POST", f"/results/{job_id}", b"late"))[:2] == (204, b"")
    streamed = raw_stream(harness, job_id, "late")
    streamed.sendall(b"0\r\n\r\n")
    assert b" 204 " in await receive_until(streamed, b"\r\n\r\n")
    streamed.close()
    assert (await harness.app("GET", f"/jobs/{job_id}/result"))[0] == 409
    # The runtime goes on to the next job.
    following = harness.execute()
    await serve_one(harness, b"ok")
    assert (await following)[1] == b"ok"


@pytest_twisted.ensureDeferred
async def test_canceling_mid_stream_breaks_the_answer_and_lets_the_runtime_finish(harness: Harness) -> None:
    caller = raw_caller(harness)
    job_id = await take(harness)
    post = raw_stream(harness, job_id, "first")
    await receive_until(caller, b"first\r\n")
    await harness.app("DELETE", f"/jobs/{job_id}")
    assert not (await receive_until(caller, None)).endswith(b"0\r\n\r\n")
    post.sendall(b"4\r\nlast\r\n0\r\n\r\n")
    assert b" 204 " in await receive_until(post, b"\r\n\r\n")
    post.close()
    caller.close()


@pytest_twisted.ensureDeferred
async def test_soft_cancel_leaves_a_running_job_alone(harness: Harness) -> None:
    running, queued = await submit(harness), await submit(harness)
    assert await take(harness) == running["id"]
    for job, kind in ((running, "running"), (queued, "canceled")):
        assert (await harness.app("PUT", f"/jobs/{job['id']}/soft-cancel"))[:2] == (204, b"")
        assert (await harness.app("GET", f"/jobs/{job['id']}/status"))[1]["type"] == kind
    await harness.module("POST", f"/results/{running['id']}", b"1")
    assert (await harness.app("DELETE", f"/jobs/{running['id']}"))[0] == 204
    assert (await harness.app("GET", f"/jobs/{running['id']}/result"))[1] == b"1"


@pytest_twisted.ensureDeferred
async def test_a_caller_that_disconnects_once_its_job_runs_does_not_cancel_it(harness: Harness) -> None:
    caller = raw_caller(harness)
    job_id = await take(harness)
    caller.close()
    await harness.until(lambda: not harness.load().parked_callers)
    await harness.module("POST", f"/results/{job_id}", b"kept")
    assert (await harness.app("GET", f"/jobs/{job_id}/result"))[1] == b"kept"


# Streaming


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_stream_reaches_the_caller_while_it_is_posted(harness: Harness, scheme: str) -> None:
    caller = await deferToThread(raw_caller, harness, scheme)
    job_id = await take(harness)
    post = await deferToThread(raw_stream, harness, job_id, "first", scheme)
    received = await receive_until(caller, b"first\r\n")
    assert b"200 OK" in received
    assert b"0\r\n\r\n" not in received
    await deferToThread(post.sendall, b"6\r\nsecond\r\n0\r\n\r\n")
    assert await receive_until(caller, b"0\r\n\r\n") == b"6\r\nsecond\r\n0\r\n\r\n"
    assert (await harness.app("GET", f"/jobs/{job_id}/result"))[1] == b"firstsecond"
    post.close()
    caller.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_runtime_that_dies_mid_stream_breaks_the_answer(harness: Harness, scheme: str) -> None:
    caller = await deferToThread(raw_caller, harness, scheme)
    job_id = await take(harness)
    post = await deferToThread(raw_stream, harness, job_id, "first", scheme)
    received = await receive_until(caller, b"first\r\n")
    post.close()
    received += await receive_until(caller, None)
    assert not received.endswith(b"0\r\n\r\n")
    _, answer, _ = await harness.app("GET", f"/jobs/{job_id}/status")
    assert answer["type"] == "failed"
    assert "lost" in answer["failed"]["message"]
    caller.close()


@pytest_twisted.ensureDeferred
async def test_a_stream_begins_with_its_first_byte() -> None:
    hasty = make_harness(limits=Limits(poll_timeout=30, sync_timeout=0.2))
    try:
        caller = hasty.execute()
        job_id = await take(hasty)
        post = raw_stream_head(hasty, job_id)
        # No byte has been streamed, so the caller times out.
        status, answer, _ = await caller
        assert (status, answer["error"]) == (504, "job_timeout")
        before = hasty.connections()
        post.close()
        await hasty.until(lambda: hasty.connections() < before)
        assert (await hasty.app("GET", f"/jobs/{job_id}/status"))[1]["type"] == "running"
        empty = raw_stream_head(hasty, job_id)
        empty.sendall(b"0\r\n\r\n")
        assert b" 204 " in await receive_until(empty, b"\r\n\r\n")
        assert (await hasty.app("GET", f"/jobs/{job_id}/result"))[:2] == (200, b"")
        empty.close()
    finally:
        await hasty.pool.closeCachedConnections()
        await hasty.service.stopService()


@pytest_twisted.ensureDeferred
async def test_a_runtime_dies_mid_stream_when_its_job_is_gone(harness: Harness) -> None:
    caller = raw_caller(harness)
    job_id = await take(harness)
    post = raw_stream(harness, job_id, "first")
    received = await receive_until(caller, b"first\r\n")
    assert (await harness.call("POST", "/_emulate/foundry/compute-modules/reset"))[0] == 204
    received += await receive_until(caller, None)
    assert not received.endswith(b"0\r\n\r\n")
    post.close()
    caller.close()
    # An error that the emulator logs until then fails the test.
    await harness.until(lambda: harness.connections() <= 1)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_caller_that_goes_away_mid_stream_does_not_stop_the_post(harness: Harness, scheme: str) -> None:
    caller = await deferToThread(raw_caller, harness, scheme)
    job_id = await take(harness)
    post = await deferToThread(raw_stream, harness, job_id, "first", scheme)
    await receive_until(caller, b"first\r\n")
    body: Any = harness.job(job_id).result
    caller.close()
    await harness.until(lambda: not body.readers)
    rest = b"x" * 3_000_000
    await deferToThread(post.sendall, b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
    assert b" 204 " in await receive_until(post, b"\r\n\r\n")
    assert (await harness.app("GET", f"/jobs/{job_id}/result"))[1] == b"first" + rest
    post.close()
