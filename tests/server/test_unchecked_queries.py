"""With ``validate_queries``, a query is not checked before its runtime has posted schemas. The emulator says so."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from conftest import RUNTIMES, Harness, logged, serve_one
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, globalLogPublisher

BEARER = {"Authorization": "Bearer app-token"}
SKIPPED = ["skipped"]
WARNING = (
    "runtime one: its queries are not checked, because it has posted no schemas; start its module, or restart it, so"
    " that it posts them"
)


def direct(harness: Harness, runtime: str = "one", **headers: str) -> Any:
    """Submit a job to a runtime."""
    body = {"queryType": "f", "query": {"x": 1}}
    return harness.call("POST", f"{RUNTIMES}/{runtime}/jobs", body, **BEARER, **headers)


def said(headers: Any) -> Any:
    return headers.getRawHeaders("X-Query-Validation")


@pytest_twisted.ensureDeferred
async def test_each_answer_says_that_the_query_was_not_checked(checking: Harness) -> None:
    body = {"deployedAppRid": "ri.one", "queryType": "f", "query": {"x": "1"}}

    async def answers() -> list[tuple[int, Any]]:
        found = []
        for path in ("/compute-modules/jobs/execute", "/deployed-apps/jobs/execute"):
            executing = Deferred.fromCoroutine(checking.app("POST", path, body))
            await serve_one(checking, b"1")
            found.append(await executing)
        found.append(await checking.app("POST", "/deployed-apps/jobs", body))
        found.append(await direct(checking))
        return [(status, said(headers)) for status, _, headers in found]

    assert await answers() == [(200, SKIPPED), (200, SKIPPED), (200, SKIPPED), (201, SKIPPED)]
    for _ in range(2):
        await serve_one(checking, b"1")
    await checking.module("POST", "/schemas", [{"functionName": "f", "schema": {"type": "object"}}])
    assert await answers() == [(200, None), (200, None), (200, None), (201, None)]


@pytest_twisted.ensureDeferred
async def test_the_answer_to_a_repeated_submission_says_it_too(checking: Harness) -> None:
    first, again = [await direct(checking, Idempotency_Key="k") for _ in range(2)]
    assert first[1]["job_id"] == again[1]["job_id"]
    assert said(first[2]) == said(again[2]) == SKIPPED


@pytest_twisted.ensureDeferred
async def test_pages_of_allowed_origins_may_read_it(checking: Harness) -> None:
    _, _, headers = await direct(checking, Origin="https://app.example")
    assert said(headers) == SKIPPED
    (exposed,) = headers.getRawHeaders("Access-Control-Expose-Headers")
    assert "X-Query-Validation" in exposed.split(", ")


@pytest_twisted.ensureDeferred
async def test_nothing_is_said_without_validate_queries(anywhere: Harness) -> None:
    with logged("not checked") as lines:
        _, _, headers = await direct(anywhere)
    assert (said(headers), lines) == (None, [])


@pytest_twisted.ensureDeferred
async def test_the_log_says_it_once_for_each_runtime(checking: Harness) -> None:
    levels: list[LogLevel] = []

    def observe(event: Any) -> None:
        if "not checked" in (event.get("log_format") or ""):
            levels.append(event["log_level"])

    globalLogPublisher.addObserver(observe)
    try:
        with logged("not checked") as lines:
            for runtime in ("one", "one", "two", "one", "two"):
                await direct(checking, runtime)
            assert lines == [WARNING, WARNING.replace("runtime one", "runtime two")]
    finally:
        globalLogPublisher.removeObserver(observe)
    assert levels == [LogLevel.warn] * 2


@pytest_twisted.ensureDeferred
async def test_the_log_says_it_again_after_schemas_were_lost(checking: Harness) -> None:
    async def reset() -> str:
        _, session, _ = await checking.call("POST", RUNTIMES, {"runtimeId": "one"})
        return str(session["moduleAuthToken"])

    with logged("not checked") as lines:
        await direct(checking)
        # It had posted none, so it lost none.
        token = await reset()
        await direct(checking)
        assert lines == [WARNING]
        await checking.call("POST", f"{RUNTIMES}/one/schemas", [{"functionName": "f"}], Module_Auth_Token=token)
        await reset()
        await direct(checking)
        await direct(checking)
        assert lines == [WARNING, WARNING]
