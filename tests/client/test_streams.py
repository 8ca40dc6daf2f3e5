"""Test results that are read while they arrive."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_twisted
from client_helpers import application, begin_stream, never_ending, runtime, start, until
from conftest import CONTOUR, Harness, pause, raw_stream
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.web.client import Agent

from twisted_cm.client import JobFailed, ResultBrokenOff
from twisted_cm.client.base import json_request
from twisted_cm.client.body import HIGH_WATER
from twisted_cm.client.connections import Connections, https_policy
from twisted_cm.client.pool import ConnectionPool


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_chunks_arrive_while_the_runtime_posts(harness: Harness, scheme: str) -> None:
    go_on: Deferred[None] = Deferred()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a"
        yield b""
        await go_on
        yield b"b"

    async with application(harness, scheme) as modules, runtime(harness, scheme) as module:
        stream, first, posted = await begin_stream(modules, module, chunks())
        assert stream.job_id is None
        assert await first == b"a"
        assert not posted.called
        assert stream.job_id is not None
        go_on.callback(None)
        assert [chunk async for chunk in stream] == [b"b"]
        assert [chunk async for chunk in stream] == []
        await posted
        assert (await modules.result(stream.job_id)).content == b"ab"


@pytest_twisted.ensureDeferred
async def test_values_are_returned_when_they_are_whole(harness: Harness) -> None:
    pieces: DeferredQueue[bytes] = DeferredQueue()

    async def chunks() -> AsyncIterator[bytes]:
        while piece := await pieces.get():
            yield piece

    async with application(harness) as modules, runtime(harness) as module:
        stream = modules.stream("ri.one", "f")
        values = stream.values()
        following = start(values.__anext__())
        job = await module.poll()
        assert job is not None
        posted = start(module.post_result(job.job_id, chunks()))
        umlaut = json.dumps("ü", ensure_ascii=False).encode()
        pieces.put(umlaut[:2])
        await harness.until(lambda: harness.job(job.job_id).result)
        pieces.put(umlaut[2:] + b'{"a": 1}1')
        assert (await following, await values.__anext__()) == ("ü", {"a": 1})
        following = start(values.__anext__())
        pieces.put(b"2")
        await harness.until(lambda: harness.job(job.job_id).result.size == len(umlaut) + 10)
        assert not following.called
        pieces.put(b" 3")
        assert await following == 12
        pieces.put(b"")
        assert [value async for value in values] == [3]
        await posted


@pytest_twisted.ensureDeferred
async def test_values_before_a_mistake_are_returned(harness: Harness) -> None:
    for content in (b"1 2 x 3", b"1 2 [", b"1 2 " + b"[" * 200_000):
        async with application(harness) as modules, runtime(harness) as module:
            values = modules.stream("ri.one", "f").values()
            first = start(values.__anext__())
            job = await module.poll()
            assert job is not None
            await module.post_result(job.job_id, content)
            assert [await first, await values.__anext__()] == [1, 2]
            with pytest.raises(ValueError):  # noqa: PT011 - of json
                await values.__anext__()
            assert [value async for value in values] == []


@pytest_twisted.ensureDeferred
async def test_a_broken_stream_is_said_after_what_arrived(harness: Harness) -> None:
    async with application(harness) as modules, runtime(harness) as module:
        values = modules.stream("ri.one", "f").values()
        first = start(values.__anext__())
        job = await module.poll()
        assert job is not None
        post = raw_stream(harness, job.job_id, "1 2 3")
        assert [await first, await values.__anext__()] == [1, 2]
        post.close()
        with pytest.raises(ResultBrokenOff) as broken:
            await values.__anext__()
        assert [value async for value in values] == []
        assert broken.value.job_id == job.job_id
        executing = start(modules.execute("ri.one", "f"))
        job = await module.poll()
        assert job is not None
        post = raw_stream(harness, job.job_id, "1")
        await harness.until(lambda: harness.job(job.job_id).result)
        post.close()
        # The client asks again what became of its submission: the job failed, and no other was made.
        with pytest.raises(JobFailed, match="connection was lost while it streamed") as failed:
            await executing
        assert failed.value.job_id == job.job_id
        assert len(harness.jobs()) == 2


@pytest.mark.parametrize("how", ["break", "values", "aclose", "cancel"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_stopping_early_closes_the_connection(harness: Harness, scheme: str, how: str) -> None:
    async with application(harness, scheme) as modules, runtime(harness, scheme) as module:
        stream, first, posted = await begin_stream(modules, module, never_ending(b"1 2 "))
        await first
        # One connection is the stream's, the other one the post's.
        assert harness.connections() == 2
        if how == "aclose":
            waiting = start(stream.__anext__())
            await stream.aclose()
            with pytest.raises(StopAsyncIteration):
                await waiting
        elif how == "cancel":
            waiting = start(stream.__anext__())
            waiting.cancel()
            with pytest.raises(CancelledError):
                await waiting
        await stream.aclose()
        await harness.until(lambda: harness.connections() == 1)
        assert not posted.called
        assert [chunk async for chunk in stream] == []
        posted.cancel()
        with pytest.raises(CancelledError):
            await posted
        # Leaving a loop drops its stream.
        following = start(module.poll())

        async def one() -> None:
            if how == "values":
                async for _ in modules.stream("ri.one", "f").values():
                    break
            else:
                async for _ in modules.stream("ri.one", "f"):
                    break

        leaving = start(one())
        job = await following
        posted = start(module.post_result(job.job_id, never_ending(b"1 2 ")))
        await leaving
        await harness.until(lambda: harness.connections() == 1)
        assert not posted.called
        posted.cancel()
        with pytest.raises(CancelledError):
            await posted


@pytest_twisted.ensureDeferred
async def test_a_stream_that_is_closed_before_it_begins_sends_nothing(harness: Harness) -> None:
    async with application(harness) as modules:
        stream = modules.stream("ri.one", "f")
        await stream.aclose()
        assert [chunk async for chunk in stream] == []
        assert not harness.jobs()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_consumer_that_takes_nothing_holds_the_runtime_back(harness: Harness, scheme: str) -> None:
    written: list[int] = []
    total = 64 * 1024 * 1024

    def chunks() -> Iterator[bytes]:
        for _ in range(total // 65536 - 1):
            written.append(65536)
            yield bytes(65536)

    async with application(harness, scheme) as modules, runtime(harness, scheme) as module:
        stream, first, posted = await begin_stream(modules, module, chunks())  # type: ignore[arg-type]
        size = len(await first)
        stuck = -1
        while stuck != len(written):
            stuck = len(written)
            await pause(0.2)
        assert sum(written) < total // 2
        assert 0 < stream.buffered <= HIGH_WATER + 2**18
        async for chunk in stream:
            size += len(chunk)
        await posted
        assert size == sum(written) == total - 65536


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_is_held_back_can_be_closed(harness: Harness, scheme: str) -> None:
    pool = ConnectionPool(reactor)
    agent = Agent(reactor, https_policy(harness.service.addresses.ca_certificate), pool=pool)
    async with application(harness, scheme, agent=agent) as modules, runtime(harness, scheme) as module:
        stream, first, posted = await begin_stream(modules, module, never_ending(*[bytes(65536)] * 16))
        await first
        await until(lambda: stream.buffered > HIGH_WATER)
        assert pool.open_connections == 1
        await stream.aclose()
        await harness.until(lambda: harness.connections() == 1)
        await until(lambda: not pool.open_connections)
        assert not posted.called
        posted.cancel()
        with pytest.raises(CancelledError):
            await posted


@pytest_twisted.ensureDeferred
async def test_only_one_may_wait_for_a_chunk(harness: Harness) -> None:
    connections = Connections(harness.service.addresses.http)
    submission = {"deployedAppRid": "ri.one", "queryType": "f"}
    async with runtime(harness) as module:
        opening = start(
            connections.open(
                json_request(
                    "POST", f"{CONTOUR}/compute-modules/jobs/execute", {"Authorization": "Bearer app-token"}, submission
                )
            )
        )
        job = await module.poll()
        assert job is not None
        posted = start(module.post_result(job.job_id, never_ending(b"a")))
        body = await opening
        assert await body.next() == b"a"
        waiting = body.next()
        with pytest.raises(RuntimeError):
            body.next()
        waiting.cancel()
        posted.cancel()
        for each in (waiting, posted):
            with pytest.raises(CancelledError):
                await each
    await connections.close()
