"""Jobs whose functions raised, wherever people look."""

from __future__ import annotations

import re
from typing import Any

import pytest
import pytest_twisted
from conftest import RUNTIMES, Harness, logged, raw_stream, serve_one

EMULATOR = RUNTIMES.removesuffix("/runtimes")
BEARER = {"Authorization": "Bearer app-token"}
RAISED = b'{"exception": "on purpose: Traceback (most recent call last):\\n  File"}'
MESSAGE = "on purpose: Traceback (most recent call last):\n  File"


async def listed(harness: Harness, query: str = "") -> list[dict[str, Any]]:
    status, answer, _ = await harness.call("GET", f"{EMULATOR}/jobs{query}", **BEARER)
    assert status == 200
    return list(answer["jobs"])


@pytest_twisted.ensureDeferred
async def test_a_function_that_raised_is_shown_as_that(anywhere: Harness) -> None:
    caller = anywhere.execute()
    with logged(" raised ") as lines:
        job = await serve_one(anywhere, RAISED)
        # On the wire it has succeeded, and its bytes are passed on.
        assert (await caller)[:2] == (200, RAISED)
        await anywhere.until(lambda: lines)
    status, answer, _ = await anywhere.app("GET", f"/jobs/{job['jobId']}/status")
    assert (status, answer["type"]) == (200, "succeeded")
    (line,) = lines
    assert re.fullmatch(rf"f raised \d+ ms one …{job['jobId'][-4:]}", line)
    status, answer, _ = await anywhere.call("GET", f"{RUNTIMES}/one/jobs/{job['jobId']}", **BEARER)
    shown = answer["job"]
    assert (shown["status"], shown["raised"], shown["raised_message"]) == ("succeeded", True, MESSAGE)
    assert shown["error_message"] is None
    (summary,) = await listed(anywhere)
    assert (summary["status"], summary["raised"], summary["raised_message"]) == ("succeeded", True, "on purpose")
    status, text, _ = await anywhere.call("GET", "/metrics", **BEARER)
    assert b'twisted_cm_jobs_raised_total{source="contour-sync"} 1.0' in text


@pytest_twisted.ensureDeferred
async def test_a_streamed_result_is_looked_at_too(anywhere: Harness) -> None:
    # The Java SDK posts without a length.
    caller = anywhere.execute()
    _status, envelope, _ = await anywhere.module("GET", "/job")
    job_id = envelope["computeModuleJobV1"]["jobId"]
    post = raw_stream(anywhere, job_id, f"JobId: {job_id}\njava.lang.Er")
    post.sendall(b"7\r\nror: no\r\n0\r\n\r\n")
    await caller
    await anywhere.broker.wait_end(job_id, 10)
    (job,) = await listed(anywhere)
    assert (job["raised"], job["raised_message"]) == (True, "java.lang.Error: no")
    post.close()


@pytest_twisted.ensureDeferred
async def test_jobs_are_listed_by_what_became_of_them(anywhere: Harness) -> None:
    found = {}
    for name, result in (("raised", RAISED), ("succeeded", b"42")):
        caller = anywhere.execute()
        found[name] = (await serve_one(anywhere, result))["jobId"]
        await caller
    for status, job_id in found.items():
        assert [job["job_id"] for job in await listed(anywhere, f"?status={status}")] == [job_id]
    assert len(await listed(anywhere)) == 2
    assert await listed(anywhere, "?status=failed") == []
    status, answer, _ = await anywhere.call("GET", f"{EMULATOR}/jobs?status=x", **BEARER)
    assert status == 400 and "raised" in answer["error_description"]


@pytest.mark.parametrize("result", [b"42", b'{"exception": 1}', b"x" * 100_000])
@pytest_twisted.ensureDeferred
async def test_other_results_did_not_raise(anywhere: Harness, result: bytes) -> None:
    caller = anywhere.execute()
    await serve_one(anywhere, result)
    await caller
    (job,) = await listed(anywhere)
    assert (job["raised"], job["raised_message"]) == (False, None)
