"""Test the jobs of an application, from submitting to fetching results, over real sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted
from client_helpers import application, runtime, start, until
from conftest import Harness
from raw_server import RawServer, http
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.client import Agent
from twisted.web.iweb import IAgent, IResponse
from zope.interface import implementer

from twisted_cm.client import ComputeModules, JobNotReady, JobState


@implementer(IAgent)
class CountingAgent:
    """Sends requests and counts them."""

    def __init__(self) -> None:
        self.requests = 0
        self._agent = Agent(reactor)

    def request(self, *arguments: Any, **options: Any) -> Deferred[IResponse]:
        self.requests += 1
        sent: Deferred[IResponse] = self._agent.request(*arguments, **options)
        return sent


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_function_is_run_and_its_result_is_returned(harness: Harness, scheme: str) -> None:
    async with application(harness, scheme) as modules, runtime(harness, scheme) as module:
        caller = start(modules.execute("ri.one", "add", {"a": 1}, branch="master"))
        job = await module.poll()
        assert job is not None
        assert (job.query_type, job.query, job.user_id) == ("add", {"a": 1}, "jane")
        await module.post_result(job.job_id, {"sum": 3})
        result = await caller
        assert (result.job_id, result.content, result.json(), result.exception) == (
            job.job_id,
            b'{"sum": 3}',
            {"sum": 3},
            None,
        )
        assert "sum" not in repr(result)


@pytest_twisted.ensureDeferred
async def test_a_query_that_is_left_out_is_an_empty_object(harness: Harness) -> None:
    async with application(harness) as modules, runtime(harness) as module:
        for query, arrives in (((), {}), (([],), []), ((0,), 0), ((None,), None)):
            await modules.submit("ri.one", "f", *query)
            job = await module.poll()
            assert job is not None and job.query == arrives


@pytest_twisted.ensureDeferred
async def test_what_a_function_raised_is_in_its_result(harness: Harness) -> None:
    async with application(harness) as modules, runtime(harness) as module:
        for posted, exception in (
            ({"exception": "no: Traceback"}, "no: Traceback"),
            ({"exception": 1}, None),
            ({"exception": "no", "more": 1}, None),
            (["exception"], None),
            (b"\xff", None),
            ("[" * 100_000, None),
        ):
            caller = start(modules.execute("ri.one", "f"))
            job = await module.poll()
            assert job is not None
            await module.post_result(job.job_id, posted)
            assert (await caller).exception == exception


@pytest_twisted.ensureDeferred
async def test_a_job_is_submitted_watched_and_fetched(harness: Harness) -> None:
    async with application(harness) as modules, runtime(harness) as module:
        handle = await modules.submit("ri.one", "f", {"x": "ü"})
        assert handle.status.state is JobState.QUEUED
        assert json.loads(handle.job_handle)["jobId"] == handle.id
        with pytest.raises(JobNotReady) as not_ready:
            await modules.result(handle)
        assert not_ready.value.job_id == handle.id
        job = await module.poll()
        assert job is not None and job.query == {"x": "ü"}
        running = await modules.status(handle.id)
        assert running.state is JobState.RUNNING
        assert running.submitted_at is not None and running.dispatched_at is not None
        assert running.submitted_at <= running.dispatched_at
        parked = start(modules.status(handle, wait=20))
        waiting = start(modules.wait(handle))
        await harness.until(lambda: harness.load().parked_callers == 2)
        await module.post_result(job.job_id, "text ü")
        assert [(await each).state for each in (parked, waiting)] == [JobState.SUCCEEDED] * 2
        for _ in range(2):
            assert (await modules.result(handle)).text() == "text ü"


@pytest_twisted.ensureDeferred
async def test_a_job_is_canceled_and_waiting_says_so(harness: Harness) -> None:
    async with application(harness) as modules, runtime(harness) as module:
        running, queued = [await modules.submit("ri.one", "f") for _ in range(2)]
        assert await module.poll() is not None
        for job, state in ((running, JobState.RUNNING), (queued, JobState.CANCELED)):
            await modules.cancel(job, only_queued=True)
            assert (await modules.status(job)).state is state
        await modules.cancel(running.id)
        status = await modules.wait(running)
        assert (status.state, status.message) == (JobState.CANCELED, "The job was canceled.")


@pytest_twisted.ensureDeferred
async def test_waiting_does_not_hurry_where_a_proxy_drops_the_preference() -> None:
    running, ended = (http(200, {"type": kind, kind: {}}) for kind in ("running", "succeeded"))
    clock = Clock()
    async with RawServer(*[running] * 5, ended) as server:
        modules = ComputeModules(server.url, "t", reactor=clock, agent=Agent(reactor))
        waiting = start(modules.wait("x"))
        for requests, pause in enumerate((0.1, 0.2, 0.4, 0.8, 1.0), 1):
            await until(clock.getDelayedCalls)
            assert len(server.requests) == requests
            assert [call.getTime() - clock.seconds() for call in clock.getDelayedCalls()] == [pytest.approx(pause)]
            clock.advance(pause)
        assert (await waiting).state is JobState.SUCCEEDED
        await modules.close()


@pytest_twisted.ensureDeferred
async def test_waiting_asks_again_until_the_job_has_ended(harness: Harness) -> None:
    agent = CountingAgent()
    async with application(harness, agent=agent) as modules, runtime(harness) as module:
        handle = await modules.submit("ri.one", "f")
        submitted = agent.requests
        waiting = start(modules.wait(handle, long_poll=1))
        await until(lambda: agent.requests - submitted >= 2 and harness.load().parked_callers)
        assert await module.poll() is not None
        await module.post_result(handle.id, b"")
        assert (await waiting).state is JobState.SUCCEEDED
