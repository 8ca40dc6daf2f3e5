"""Test which exception each answer raises."""

from __future__ import annotations

import pytest
import pytest_twisted
from client_helpers import application, runtime
from conftest import RUNTIMES, SEED, make_harness
from raw_server import RawServer

from twisted_cm.client import (
    ApiError,
    ComputeModules,
    Forbidden,
    InvalidRequest,
    InvalidToken,
    JobTimeout,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    RuntimeSession,
)
from twisted_cm.client.connections import Connections, Request
from twisted_cm.client.errors import api_error
from twisted_cm.model.limits import Limits


@pytest_twisted.ensureDeferred
async def test_each_error_has_a_class_of_its_own() -> None:
    seed = SEED.replace("poll_timeout: 30\n", "poll_timeout: 30\n    queue_depth: 1\n")
    strict = make_harness(seed, limits=Limits(poll_timeout=30, sync_timeout=0.05, max_body=1000))
    try:
        async with application(strict, retries=None) as modules, runtime(strict) as module:
            with pytest.raises(NotFound, match="is bound to") as not_found:
                await modules.execute("ri.none", "f")
            assert (not_found.value.status, not_found.value.error) == (404, "not_found")
            assert not_found.value.parameters["deployedAppRid"] == "ri.none"
            with pytest.raises(InvalidRequest) as invalid:
                await modules.submit("", "f")
            assert invalid.value.parameters == {"field": "deployedAppRid"}
            with pytest.raises(PayloadTooLarge):
                await modules.submit("ri.one", "f", "x" * 1000)
            with pytest.raises(JobTimeout) as timeout:
                await modules.execute("ri.one", "f")
            with pytest.raises(QueueFull) as full:
                await modules.submit("ri.one", "f")
            assert (full.value.status, full.value.retry_after) == (429, 1.0)
            job = await module.poll()
            assert job is not None and job.job_id == timeout.value.job_id
            async with RuntimeSession.join(module.url, "two", "token-one") as wrong:
                with pytest.raises(Forbidden):
                    await wrong.poll()
            async with ComputeModules(modules.url, "wrong") as nobody:
                with pytest.raises(InvalidToken):
                    await nobody.status("x")
        connections = Connections(modules.url)
        with pytest.raises(MethodNotAllowed):
            await connections.send(Request("PATCH", RUNTIMES))
        await connections.close()
    finally:
        await strict.service.stopService()


def test_what_is_no_error_of_an_emulator_says_so() -> None:
    for content in (b"", b"<html>", b"[]", b'{"error": "x"}', b'{"error": [], "error_description": ""}'):
        error = api_error(502, content)
        assert (type(error), error.status, error.error) == (ApiError, 502, "unknown")
        assert "is it an emulator" in str(error)
    other = api_error(500, b'{"error": "new", "error_description": "d"}', retry_after="Wed, 21 Oct 2015 07:28:00 GMT")
    assert (type(other), other.error, other.retry_after) == (ApiError, "new", None)


@pytest_twisted.ensureDeferred
async def test_a_server_that_is_no_emulator_is_told_by_its_answers() -> None:
    for status, content in (("200 OK", "<html>"), ("302 Found", ""), ("200 OK", '{"type": "x"}'), ("200 OK", "[]")):
        answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n{content}"
        async with RawServer(answer.encode()) as raw, ComputeModules(raw.url) as modules:
            with pytest.raises(ApiError, match="is it an emulator") as error:
                await modules.status("x")
            assert error.value.status == int(status[:3])


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(ValueError, match="must start with"):
        ComputeModules("localhost:4000")


def test_an_error_that_comes_from_no_answer_looks_like_one_that_does() -> None:
    made = NotFound.make("Unknown job '7'.", job_id="7", runtimeId="one")
    assert (made.status, made.error, made.description, str(made)) == (404, "not_found", *["Unknown job '7'."] * 2)
    assert (made.job_id, made.parameters, made.retry_after) == ("7", {"runtimeId": "one"}, None)
    assert all(each.kind and each.usual_status >= 400 for each in ApiError.__subclasses__())
