"""Test runtime sessions: polling, posting results and schemas, restarting."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from client_helpers import application, runtime, start
from conftest import RUNTIMES, Harness
from twisted.internet.defer import Deferred

from twisted_cm.client import (
    EmulatorControl,
    InvalidModuleAuthToken,
    InvalidRequest,
    JobAlreadyCompleted,
    JobFailed,
    JobState,
    NotFound,
    RuntimeSession,
)


@pytest_twisted.ensureDeferred
async def test_a_session_is_opened_reset_and_reached_by_its_uris(harness: Harness) -> None:
    url = harness.service.addresses.http
    name = "a/b c%ü"
    async with (
        await RuntimeSession.open(url, name, "ri.mine", "dev", "Mine") as first,
        application(harness) as modules,
        EmulatorControl(url, "app-token") as control,
    ):
        caller = start(modules.execute("ri.mine", "f", branch="dev"))
        assert await first.poll() is not None
        assert (await control.runtime(name))["bindings"] == [
            {"deployed_app_rid": "ri.mine", "branch": "dev", "display_name": "Mine", "active": True}
        ]
        async with await RuntimeSession.open(url, name, keep_bindings=True) as second:
            with pytest.raises(JobFailed):
                await caller
            with pytest.raises(InvalidModuleAuthToken):
                await first.poll()
            assert await second.poll(wait=0) is None
            joined = RuntimeSession.join(url, name, second.module_auth_token)
            assert joined.get_job_uri == second.get_job_uri == f"{url}{RUNTIMES}/a%2Fb%20c%25%C3%BC/job"
            assert joined.post_result_uri == second.post_result_uri
            assert joined.post_schema_uri == second.post_schema_uri
            assert joined.restart_notification_uri == second.restart_notification_uri
            await joined.post_schemas([{"functionName": "f", "inputs": [], "output": None}])
            assert [each["function_name"] for each in (await control.runtime(name))["schemas"]] == ["f"]
            with pytest.raises(InvalidRequest) as invalid:
                await joined.post_schemas([1])
            assert invalid.value.parameters["violations"]
            await joined.close()


@pytest_twisted.ensureDeferred
async def test_a_restart_ends_what_ran(harness: Harness) -> None:
    async with application(harness) as modules, runtime(harness) as module:
        handle = await modules.submit("ri.one", "f")
        assert await module.restart() == []
        assert await module.poll() is not None
        assert await module.restart() == [handle.id]
        status = await modules.wait(handle)
        assert (status.state, status.message) == (JobState.FAILED, "runtime restarted")


@pytest_twisted.ensureDeferred
async def test_results_of_every_sort_are_posted(harness: Harness) -> None:
    async with application(harness) as modules, runtime(harness) as module:
        for content, arrives in (
            (b"\x00\xff", b"\x00\xff"),
            (bytearray(b"a"), b"a"),
            ("ü", "ü".encode()),
            ([1, None], b"[1, null]"),
            (None, b"null"),
            (iter([b"a", b"b"]), b"ab"),
            ((each for each in (b"c", b"d")), b"cd"),
        ):
            handle = await modules.submit("ri.one", "f")
            assert await module.poll() is not None
            await module.post_result(handle.id, content)
            assert (await modules.result(handle)).content == arrives
        await module.post_result(handle.id, b"cd")
        with pytest.raises(JobAlreadyCompleted) as completed:
            await module.post_result(handle.id, b"other")
        assert completed.value.job_id == handle.id


@pytest_twisted.ensureDeferred
async def test_an_iterator_that_raises_breaks_the_post_off(harness: Harness) -> None:
    async with application(harness) as modules, runtime(harness) as module:
        handle = await modules.submit("ri.one", "f")
        assert await module.poll() is not None

        async def chunks() -> AsyncIterator[bytes]:
            yield b"a"
            await harness.until(lambda: harness.job(handle.id).result)
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await module.post_result(handle.id, chunks())
        assert (await modules.wait(handle)).state is JobState.FAILED


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_nobody_wants_is_not_read_to_its_end(harness: Harness, scheme: str) -> None:
    stopped: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await Deferred()
        finally:
            stopped.append("here")

    async with runtime(harness, scheme) as module:
        with pytest.raises(NotFound):
            await module.post_result("none", chunks())
        assert stopped
