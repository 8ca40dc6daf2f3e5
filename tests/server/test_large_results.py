"""Large and streamed results over real sockets: back-pressure, memory, limits and what is forgotten."""

from __future__ import annotations

import gc
import tempfile
import weakref
from typing import Any

import pytest
import pytest_twisted
from conftest import (
    RUNTIMES,
    Harness,
    make_harness,
    pause,
    raw_caller,
    raw_stream,
    receive_until,
    serve_one,
)
from server.contour_steps import submit, take
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.web.client import ResponseFailed

from twisted_cm.model.limits import Limits


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_caller_that_does_not_read_holds_the_runtime_back(harness: Harness, scheme: str) -> None:
    caller = await deferToThread(raw_caller, harness, scheme)
    job_id = await take(harness)
    post = await deferToThread(raw_stream, harness, job_id, "first", scheme)
    body = await harness.until(lambda: harness.job(job_id).result)
    chunk = b"10000\r\n%s\r\n" % (b"x" * 65536)
    posting = deferToThread(lambda: [post.sendall(chunk) for _ in range(900)] and post.sendall(b"0\r\n\r\n"))
    # The runtime gets rid of as much as the sockets' buffers hold, and no more.
    await harness.until(lambda: body.is_behind())
    await pause(0.3)
    assert body.is_behind()
    assert not posting.called
    assert body.size < 50_000_000
    assert body.size - body.readers[0].offset < 1_000_000
    caller.close()
    # The slow caller is gone, so the post goes on.
    await posting
    assert b" 204 " in await receive_until(post, b"\r\n\r\n")
    assert body.size == 900 * 65536 + 5
    post.close()


@pytest_twisted.ensureDeferred
async def test_a_large_result_is_kept_in_a_file_and_removed_with_its_job(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = tempfile.TemporaryFile

    def temporary_file(*arguments: Any, **options: Any) -> Any:
        file = real(*arguments, **options)
        made.append(weakref.ref(file))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", temporary_file)
    small, large = await submit(harness), await submit(harness)
    await serve_one(harness, b"x" * 1024 * 1024)
    assert made == []
    content = b"y" * (1024 * 1024 + 1)
    await serve_one(harness, content)
    assert len(made) == 1
    assert (await harness.app("GET", f"/jobs/{large['id']}/result"))[1] == content
    assert len((await harness.app("GET", f"/jobs/{small['id']}/result"))[1]) == 1024 * 1024
    await harness.broker.delete_runtime("one")
    gc.collect()
    assert made[0]() is None


@pytest_twisted.ensureDeferred
async def test_a_stream_over_the_limit_is_refused_and_fails_its_job() -> None:
    small = make_harness(limits=Limits(max_body=1000))
    try:
        caller = small.execute()
        job_id = await take(small)
        post = raw_stream(small, job_id, "x" * 900)
        post.sendall(b"c8\r\n" + b"y" * 200 + b"\r\n")
        assert b" 413 " in await receive_until(post, b"}}")
        post.close()
        with pytest.raises(ResponseFailed):
            await caller
        assert (await small.app("GET", f"/jobs/{job_id}/status"))[1]["type"] == "failed"
        # A fixed length is refused before the body is read, and the runtime may post a smaller result.
        second = await submit(small)
        await take(small)
        assert (await small.module("POST", f"/results/{second['id']}", b"x" * 1001))[0] == 413
        assert (await small.module("POST", f"/results/{second['id']}", b"x" * 1000))[0] == 204
    finally:
        await small.pool.closeCachedConnections()
        await small.service.stopService()


@pytest_twisted.ensureDeferred
async def test_memory_stays_flat_while_a_stream_is_longer_than_it(harness: Harness) -> None:
    """The stream is two hundred times as long as a reader may fall behind, and the caller reads slowly."""
    caller = raw_caller(harness)
    caller.setblocking(False)
    job_id = await take(harness)
    post = raw_stream(harness, job_id, "first")
    body = await harness.until(lambda: harness.job(job_id).result)
    chunk = b"10000\r\n%s\r\n" % (b"x" * 65536)
    posting = deferToThread(lambda: [post.sendall(chunk) for _ in range(800)] and post.sendall(b"0\r\n\r\n"))
    received = b""
    behind = 0
    while not received.endswith(b"0\r\n\r\n"):
        try:
            received = received[-16:] + caller.recv(100_000)
        except BlockingIOError:
            await pause(0.001)
        if body.readers:
            behind = max(behind, body.size - body.readers[0].offset)
    await posting
    assert body.size == 800 * 65536 + 5
    assert behind < 1_000_000
    assert body.in_file
    post.close()
    caller.close()


@pytest.mark.parametrize("size", [1, 64 * 1024 + 1, 300_000])
@pytest.mark.parametrize("route", ["result", "inspection"])
@pytest_twisted.ensureDeferred
async def test_a_job_that_is_forgotten_before_its_result_is_read(
    anywhere: Harness, monkeypatch: pytest.MonkeyPatch, size: int, route: str
) -> None:
    """The answer is the whole result or an error, not a length without a body."""
    handle = await submit(anywhere)
    await serve_one(anywhere, b"x" * size)
    job = anywhere.broker.job

    async def look_up_and_forget(job_id: str) -> Any:
        found = await job(job_id)
        await anywhere.broker.delete_runtime("one")
        return found

    monkeypatch.setattr(anywhere.broker, "job", lambda job_id: Deferred.fromCoroutine(look_up_and_forget(job_id)))
    if route == "result":
        status, answer, _ = await anywhere.app("GET", f"/jobs/{handle['id']}/result")
    else:
        path = f"{RUNTIMES}/one/jobs/{handle['id']}"
        status, answer, _ = await anywhere.call("GET", path, Authorization="Bearer app-token")
    if status == 200:
        assert answer == b"x" * size if route == "result" else answer["job"]["result_body_utf8"] == "x" * size
    else:
        assert (status, answer["error"]) == (404, "not_found")
