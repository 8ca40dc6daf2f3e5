"""The client over real sockets, against an emulator in this process and against servers that break off."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from conftest import ROOT, RUNTIMES, SEED, Harness, Server, free_port, make_harness, pause, raw_stream
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredQueue
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import Agent

from twisted_cm.client import (
    AnswerLost,
    ApiError,
    CannotConnect,
    ComputeModules,
    EmulatorControl,
    Forbidden,
    InvalidModuleAuthToken,
    InvalidRequest,
    InvalidToken,
    JobAlreadyCompleted,
    JobFailed,
    JobNotReady,
    JobState,
    JobTimeout,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    ResultBrokenOff,
    ResultStream,
    Retries,
    RuntimeSession,
    TimedOut,
    Unavailable,
    UntrustedServer,
)
from twisted_cm.client.connections import Connections
from twisted_cm.client.errors import api_error
from twisted_cm.client.streams import HIGH_WATER
from twisted_cm.client.values import ValueParser
from twisted_cm.model.limits import Limits

QUICK = Retries(attempts=5, initial=0.01, maximum=2)


def start(coroutine: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(coroutine)


def application(harness: Harness, scheme: str = "http", **options: Any) -> ComputeModules:
    addresses = harness.service.addresses
    ca = addresses.ca_certificate if scheme == "https" else None
    return ComputeModules(getattr(addresses, scheme), "app-token", ca_certificate=ca, **{"retries": QUICK, **options})


def runtime(harness: Harness, scheme: str = "http", **options: Any) -> RuntimeSession:
    addresses = harness.service.addresses
    ca = addresses.ca_certificate if scheme == "https" else None
    url = getattr(addresses, scheme)
    return RuntimeSession.join(url, "one", "token-one", ca_certificate=ca, **{"retries": QUICK, **options})


def sockets_and_timers() -> list[Any]:
    """What trial would find left behind."""
    return [*reactor.getReaders(), *reactor.getWriters(), *reactor.getDelayedCalls()]


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await pause(0.005)
    raise AssertionError(f"never became true: {condition}")


# Applications


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
        await harness.until(lambda: len(harness.broker._end_waits.get(handle.id, ())) == 2)
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
async def test_waiting_asks_again_until_the_job_has_ended(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.client.api._LONG_POLL", 1)
    async with application(harness) as modules, runtime(harness) as module:
        handle = await modules.submit("ri.one", "f")
        waiting = start(modules.wait(handle))
        seen: list[Any] = []

        def parked() -> bool:
            seen.extend(each for each in harness.broker._end_waits.get(handle.id, {}) if each not in seen)
            return len(seen) >= 2

        await until(parked)
        assert await module.poll() is not None
        await module.post_result(handle.id, b"")
        assert (await waiting).state is JobState.SUCCEEDED


# Timeouts and closing


@pytest_twisted.ensureDeferred
async def test_a_caller_that_gives_up_cancels_its_queued_job(harness: Harness) -> None:
    async with application(harness) as modules:
        with pytest.raises(TimedOut, match=r"0\.1 seconds") as expired:
            await modules.execute("ri.one", "f", timeout=0.1)
        assert isinstance(expired.value, TimeoutError)
        await harness.until(lambda: not harness.broker._work["one"].queued)
        handle = await modules.submit("ri.one", "f", timeout=30)
        with pytest.raises(TimedOut):
            await modules.wait(handle, timeout=0.1)
        with pytest.raises(TimedOut):
            await modules.stream("ri.one", "f", timeout=0.1).__anext__()


@pytest_twisted.ensureDeferred
async def test_a_canceled_request_is_canceled_and_not_repeated(harness: Harness) -> None:
    async with application(harness) as modules:
        handle = await modules.submit("ri.one", "f")
        waiting = start(modules.wait(handle))
        await harness.until(lambda: handle.id in harness.broker._end_waits)
        waiting.cancel()
        with pytest.raises(CancelledError):
            await waiting
        await harness.until(lambda: handle.id not in harness.broker._end_waits)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_closing_leaves_the_reactor_clean(server: Server, state_dir: Path, scheme: str) -> None:
    before = sockets_and_timers()
    ca = (state_dir / "ca.pem").read_text() if scheme == "https" else None
    modules = ComputeModules(server.urls[scheme], "app-token", ca_certificate=ca)
    module = RuntimeSession.join(server.urls[scheme], "one", "token-one", ca_certificate=ca)
    idle = await modules.submit("ri.two", "f")
    assert sockets_and_timers() != before
    stream = modules.stream("ri.one", "f")
    chunk = start(stream.__anext__())
    job = await module.poll()
    assert job is not None
    posting = start(module.post_result(job.job_id, never_ending(b"first")))
    assert await chunk == b"first"
    asking, polling = start(modules.wait(idle)), start(module.poll())
    nobody = ComputeModules(f"http://127.0.0.1:{free_port()}", retries=Retries(initial=500, maximum=500))
    sleeping = start(nobody.status("x"))
    await until(lambda: any(each.getTime() - reactor.seconds() > 200 for each in reactor.getDelayedCalls()))
    for client in (modules, module, nobody):
        await client.close()
    assert sockets_and_timers() == before
    for canceled in (posting, asking, polling, sleeping):
        with pytest.raises(CancelledError):
            await canceled
    with pytest.raises(ResultBrokenOff):
        await stream.__anext__()


# Streams


async def never_ending(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    await Deferred()


async def begin_stream(
    modules: ComputeModules, module: RuntimeSession, chunks: AsyncIterator[bytes]
) -> tuple[ResultStream, Deferred[bytes], Deferred[None]]:
    """A stream, its first chunk, and the runtime's post."""
    stream = modules.stream("ri.one", "f")
    first = start(stream.__anext__())
    job = await module.poll()
    assert job is not None
    return stream, first, start(module.post_result(job.job_id, chunks))


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
        await harness.until(lambda: harness.broker._jobs[job.job_id].result)
        pieces.put(umlaut[2:] + b'{"a": 1}1')
        assert (await following, await values.__anext__()) == ("ü", {"a": 1})
        following = start(values.__anext__())
        pieces.put(b"2")
        await harness.until(lambda: harness.broker._jobs[job.job_id].result.size == len(umlaut) + 10)
        assert not following.called
        pieces.put(b" 3")
        assert await following == 12
        pieces.put(b"")
        assert [value async for value in values] == [3]
        await posted


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_values_are_found_however_they_are_cut(size: int) -> None:
    values = [
        *(
            {"a": [1, {"b": "}"}], "ü€😀": '"\\'},
            "",
            '\\"',
            "😀",
            [],
            [[]],
            {},
            True,
            False,
            None,
            -1,
            0,
            1.5e-7,
            10**30,
        ),
        *("[", "a b", [True, "x"], float("inf"), 12),
    ]
    for text in (
        "\n".join(json.dumps(each, ensure_ascii=False) for each in values),
        " ".join(json.dumps(each) for each in values) + " \r\n",
    ):
        data = text.encode()
        parser = ValueParser()
        found: list[Any] = []
        for begin in range(0, len(data), size):
            found.extend(parser.feed(data[begin : begin + size]))
        assert [*found, *parser.feed(b"", final=True)] == values


def test_values_that_touch_are_told_apart_where_json_can() -> None:
    for text, values in (
        (b'{}[]"a""b"truefalsenull', [{}, [], "a", "b", True, False, None]),
        (b'1"a"2[3]4-5', [1, "a", 2, [3], 4, -5]),
        (b"12", [12]),
        (b"", []),
        (b" \n", []),
    ):
        parser = ValueParser()
        found = [value for byte in text for value in parser.feed(bytes([byte]))]
        assert [*found, *parser.feed(b"", final=True)] == values


@pytest.mark.parametrize(
    "text", [b"{", b'"a', b"[1, 2", b"tru", b"-", b"x", b"[}", b"1 }", b'{"a" 1}', b'"\xc3', b"1.", b"\xff"]
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    parser = ValueParser()
    with pytest.raises(ValueError):  # noqa: PT011 - of json or of the decoder
        list(parser.feed(text[:1])) + list(parser.feed(text[1:])) + list(parser.feed(b"", final=True))


def test_a_large_value_in_many_chunks_is_decoded_once() -> None:
    parser = ValueParser()
    decoded = []
    decode = parser._json.raw_decode

    def counting(text: str, start: int = 0) -> Any:
        decoded.append(len(text))
        return decode(text, start)

    parser._json.raw_decode = counting  # type: ignore[method-assign]
    data = json.dumps([{"a": ["b" * 10] * 10}] * 1000).encode()
    found = [value for begin in range(0, len(data), 100) for value in parser.feed(data[begin : begin + 100])]
    assert len(found) == 1 and decoded == [len(data)]


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
        await harness.until(lambda: harness.broker._jobs[job.job_id].result)
        post.close()
        with pytest.raises(ResultBrokenOff) as broken:
            await executing
        assert broken.value.job_id == job.job_id


@pytest.mark.parametrize("how", ["break", "values", "aclose", "cancel"])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_stopping_early_closes_the_connection(harness: Harness, scheme: str, how: str) -> None:
    async with application(harness, scheme) as modules, runtime(harness, scheme) as module:
        stream, first, posted = await begin_stream(modules, module, never_ending(b"1 2 "))
        await first
        result = harness.broker._jobs[stream.job_id].result
        await harness.until(lambda: result.readers)
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
        await harness.until(lambda: not result.readers)
        assert [chunk async for chunk in stream] == []
        posted.cancel()
        with pytest.raises(CancelledError):
            await posted
        # By leaving a loop.
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
        result = harness.broker._jobs[job.job_id].result
        await harness.until(lambda: not result.readers)
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
        assert not harness.broker._jobs


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
        assert stream._body is not None and stream._body._held <= HIGH_WATER + 2**18
        async for chunk in stream:
            size += len(chunk)
        await posted
        assert size == sum(written) == total - 65536


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_a_stream_that_is_held_back_can_be_closed(harness: Harness, scheme: str) -> None:
    async with application(harness, scheme) as modules, runtime(harness, scheme) as module:
        stream, first, posted = await begin_stream(modules, module, never_ending(*[bytes(65536)] * 16))
        await first
        await until(lambda: stream._body is not None and stream._body._paused)
        result = harness.broker._jobs[stream.job_id].result
        await stream.aclose()
        await until(lambda: not result.readers)
        connections = modules._connections._pool
        await until(lambda: connections is not None and not connections._lost)
        posted.cancel()
        with pytest.raises(CancelledError):
            await posted


@pytest_twisted.ensureDeferred
async def test_only_one_may_wait_for_a_chunk(harness: Harness) -> None:
    async with application(harness) as modules, runtime(harness) as module:
        stream, first, posted = await begin_stream(modules, module, never_ending(b"a"))
        await first
        waiting = start(stream.__anext__())
        with pytest.raises(RuntimeError):
            await stream._body.next()  # type: ignore[union-attr]
        waiting.cancel()
        posted.cancel()
        for each in (waiting, posted):
            with pytest.raises(CancelledError):
                await each


# Runtimes


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
            await harness.until(lambda: harness.broker._jobs[handle.id].result)
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


# Control


@pytest_twisted.ensureDeferred
async def test_faults_are_added_listed_and_removed(harness: Harness) -> None:
    addresses = harness.service.addresses
    async with EmulatorControl(addresses.http, "app-token") as control, application(harness) as modules:
        info = await control.info()
        assert (info.http, info.https, info.ca_certificate) == (
            addresses.http,
            addresses.https,
            addresses.ca_certificate,
        )
        assert (info.poll_timeout, info.sync_timeout) == (30, 30)
        fault = await control.add_fault(kind="fail_job", message="no luck", count=1)
        other = await control.add_fault(kind="drop_job", count=1)
        with pytest.raises(JobFailed, match="no luck"):
            await modules.execute("ri.one", "f")
        assert [(each["fault_id"], each["struck"]) for each in await control.faults()] == [
            (fault["fault_id"], 1),
            (other["fault_id"], 0),
        ]
        await control.remove_fault(fault["fault_id"])
        with pytest.raises(NotFound):
            await control.remove_fault(fault["fault_id"])
        await control.clear_faults()
        assert await control.faults() == []
        with pytest.raises(InvalidRequest):
            await control.add_fault(kind="none")
        handle = await modules.submit("ri.one", "f")
        assert [(each["runtime_id"], each["queued_jobs"]) for each in await control.runtimes()] == [
            ("one", 1),
            ("two", 0),
        ]
        await control.reset()
        with pytest.raises(NotFound):
            await modules.status(handle)


@pytest_twisted.ensureDeferred
async def test_an_administrator_opens_and_deletes_a_runtime() -> None:
    guarded = make_harness(interface="0.0.0.0", admin_token="root")
    url = guarded.service.addresses.http
    try:
        with pytest.raises(InvalidToken):
            await RuntimeSession.open(url, "mine")
        session = await RuntimeSession.open(url, "mine", admin_token="root")
        async with session, EmulatorControl(url, "root") as control, EmulatorControl(url, "app-token") as other:
            with pytest.raises(Forbidden):
                await other.delete_runtime("mine")
            await control.delete_runtime("mine")
            with pytest.raises(NotFound):
                await control.runtime("mine")
            with pytest.raises(NotFound):
                await session.poll(wait=0)
    finally:
        await guarded.service.stopService()


# Errors


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
            await connections.request("PATCH", RUNTIMES, {})
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


# HTTPS


@pytest_twisted.ensureDeferred
async def test_a_server_is_verified_with_the_ca_or_the_systems(harness: Harness) -> None:
    addresses = harness.service.addresses
    other = trustme.CA().cert_pem.bytes().decode()
    for ca in (None, other):
        async with EmulatorControl(addresses.https, ca_certificate=ca) as control:
            with pytest.raises(UntrustedServer, match="certificate"):
                await control.info()
    async with EmulatorControl(addresses.https, ca_certificate=other + addresses.ca_certificate) as control:
        assert (await control.info()).https == addresses.https


# Retries


class RawServer(Factory):
    """
    A server that takes requests and does with each what the next of its answers says.

    An answer is sent, and the connection closed, unless it is one of the first C{kept}; with L{None} it is just
    closed.
    """

    noisy = False

    def __init__(self, *answers: bytes | None, port: int = 0, kept: int = 0) -> None:
        self.answers = list(answers)
        self.kept = kept
        self.made = 0
        self.requests: list[bytes] = []
        self.protocols: list[Protocol] = []
        self.port = reactor.listenTCP(port, self, interface="127.0.0.1")
        self.url = f"http://127.0.0.1:{self.port.getHost().port}"

    def buildProtocol(self, addr: Any) -> Protocol:
        return RawConnection(self)

    async def __aenter__(self) -> RawServer:  # noqa: PYI034
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.port.stopListening()
        for each in self.protocols:
            each.transport.abortConnection()
        await until(lambda: not self.protocols)


class RawConnection(Protocol):
    def __init__(self, server: RawServer) -> None:
        self.server = server
        self.received = b""

    def connectionMade(self) -> None:
        self.server.protocols.append(self)
        self.server.made += 1

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        chunked = b"chunked" in head
        if not separator or (chunked and b"0\r\n\r\n" not in body) or (length and len(body) < int(length.group(1))):
            return
        self.received = b""
        self.server.requests.append(head.split(b"\r\n")[0])
        answer = self.server.answers.pop(0)
        if answer is not None:
            self.transport.write(answer)
        if len(self.server.requests) > self.server.kept:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.server.protocols.remove(self)


def http(status: int, content: Any = None, **headers: str) -> bytes:
    body = b"" if content is None else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    lines.append("Connection: close")
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


SUCCEEDED = {"type": "succeeded", "succeeded": {}}
FULL = http(429, {"error": "queue_full", "error_description": "full"}, Retry_After="0")
STOPPED = http(503, {"error": "unavailable", "error_description": "stopping"}, Retry_After="0")
PARKED = http(503, {"error": "unavailable", "error_description": "stopping"}, Retry_After="0", X_Job_Id="job")
HALF = http(200, "result")[:-2]


async def ask_everything(url: str) -> list[Any]:
    """Whatever may be asked twice."""
    async with (
        ComputeModules(url, retries=QUICK) as modules,
        RuntimeSession.join(url, "one", "t", retries=QUICK) as module,
        EmulatorControl(url, retries=QUICK) as control,
    ):
        return [
            await modules.status("x"),
            await modules.wait("x"),
            (await modules.result("x")).content,
            await modules.cancel("x"),
            await modules.cancel("x", only_queued=True),
            await module.post_result("x", b"r"),
            await module.post_schemas([]),
            await control.runtimes(),
            await control.runtime("one"),
            await control.faults(),
            await control.clear_faults(),
        ]


@pytest_twisted.ensureDeferred
async def test_what_changes_nothing_twice_is_asked_again_when_its_answer_is_lost() -> None:
    answers = [SUCCEEDED, SUCCEEDED, "r", None, None, None, {}, [], {}, [], None]
    sent: list[bytes | None] = []
    for answer in answers:
        good = http(204 if answer is None else 200, answer)
        sent += [None, None if answer is None else good[:-1], STOPPED, good]
    async with RawServer(*sent) as raw:
        found = await ask_everything(raw.url)
        assert len(found) == len(answers)
        assert (len(raw.requests), raw.answers) == (len(sent), [])
        assert [request for request in raw.requests[::4] for _ in range(4)] == raw.requests


HANDLE = {"id": "x", "jobHandle": "{}", "status": SUCCEEDED}
URIS = ("getJobUri", "postResultUri", "postSchemaUri", "restartNotificationUri")

#: What must not be done twice, and an answer that it is content with.
UNSAFE = {
    "execute": http(200, 1),
    "stream": http(200, 1),
    "submit": http(200, HANDLE),
    "poll": http(204),
    "restart": http(200, []),
    "post_stream": http(204),
    "open": http(200, dict.fromkeys(("moduleAuthToken", *URIS), "x")),
    "delete_runtime": http(204),
    "add_fault": http(201, {}),
    "remove_fault": http(204),
    "reset": http(204),
}


async def do_once(name: str, url: str, **options: Any) -> None:
    options = {"retries": QUICK, **options}
    async with (
        ComputeModules(url, **options) as modules,
        RuntimeSession.join(url, "one", "t", **options) as module,
        EmulatorControl(url, **options) as control,
    ):
        if name == "execute":
            await modules.execute("ri.one", "f")
        elif name == "stream":
            async for _ in modules.stream("ri.one", "f"):
                pass
        elif name == "submit":
            await modules.submit("ri.one", "f")
        elif name == "post_stream":
            await module.post_result("x", iter([b"a"]))
        elif name == "open":
            await (await RuntimeSession.open(url, "one", **options)).close()
        elif name == "add_fault":
            await control.add_fault(kind="drop_job")
        elif name in ("delete_runtime", "remove_fault"):
            await getattr(control, name)("x")
        else:
            await getattr(module if name in ("poll", "restart") else control, name)()


@pytest.mark.parametrize("name", UNSAFE)
@pytest_twisted.ensureDeferred
async def test_what_might_be_done_twice_is_not_sent_again(name: str) -> None:
    for lost in (None, HALF):
        async with RawServer(lost, *[UNSAFE[name]] * 5) as raw:
            with pytest.raises(AnswerLost) as error:
                await do_once(name, raw.url)
            assert isinstance(error.value, ResultBrokenOff) is (lost is HALF)
            assert len(raw.requests) == 1


@pytest_twisted.ensureDeferred
async def test_a_poll_that_is_lost_on_a_kept_connection_is_not_sent_again() -> None:
    async with (
        RawServer(b"HTTP/1.1 204 X\r\n\r\n", None, http(204), kept=1) as raw,
        RuntimeSession.join(raw.url, "one", "t", retries=QUICK) as module,
    ):
        assert await module.poll() is None
        with pytest.raises(AnswerLost):
            await module.poll()
        assert (len(raw.requests), raw.made) == (2, 1)


@pytest.mark.parametrize("name", UNSAFE)
@pytest_twisted.ensureDeferred
async def test_what_was_never_sent_is_sent_once_there_is_a_connection(name: str) -> None:
    port, clock = free_port(), Clock()
    doing = start(do_once(name, f"http://127.0.0.1:{port}", reactor=clock, agent=Agent(reactor)))
    await until(clock.getDelayedCalls)
    async with RawServer(UNSAFE[name], port=port) as raw:
        clock.advance(QUICK.maximum)
        await doing
        assert len(raw.requests) == 1


@pytest.mark.parametrize("name", UNSAFE)
@pytest_twisted.ensureDeferred
async def test_what_was_refused_for_now_is_sent_again(name: str) -> None:
    async with RawServer(FULL, STOPPED, UNSAFE[name]) as raw:
        if name == "post_stream":
            # Its chunks are used up.
            with pytest.raises(QueueFull):
                await do_once(name, raw.url)
            assert len(raw.requests) == 1
        else:
            await do_once(name, raw.url)
            assert len(raw.requests) == 3


@pytest_twisted.ensureDeferred
async def test_a_job_that_was_queued_is_not_queued_again_because_the_server_stops() -> None:
    stopping = make_harness()
    async with application(stopping) as modules:
        caller = start(modules.execute("ri.one", "f"))
        await stopping.until(lambda: stopping.broker._work["one"].queued)
        (job_id,) = stopping.broker._jobs
        await stopping.service.stopService()
        with pytest.raises(Unavailable) as stopped:
            await caller
        assert (stopped.value.status, stopped.value.job_id, stopped.value.retry_after) == (503, job_id, 1.0)


@pytest_twisted.ensureDeferred
async def test_a_full_queue_is_tried_again_after_the_time_that_it_says() -> None:
    full = make_harness(SEED.replace("poll_timeout: 30\n", "poll_timeout: 30\n    queue_depth: 1\n"))
    clock = Clock()
    try:
        options: dict[str, Any] = {"reactor": clock, "agent": full.http._agent}
        async with application(full, **options) as modules, runtime(full) as module:
            await modules.submit("ri.one", "f")
            async with application(full, **options, retries=Retries(maximum=0.9)) as hasty:
                with pytest.raises(QueueFull):
                    await hasty.submit("ri.one", "f")
            submitting = start(modules.submit("ri.one", "f"))
            await until(clock.getDelayedCalls)
            assert [each.getTime() for each in clock.getDelayedCalls()] == [1.0]
            assert await module.poll() is not None
            clock.advance(1)
            await submitting
    finally:
        await full.pool.closeCachedConnections()
        await full.service.stopService()


@pytest_twisted.ensureDeferred
async def test_the_time_between_attempts_doubles_up_to_a_maximum() -> None:
    clock, port = Clock(), free_port()
    retries = Retries(attempts=6, initial=0.5, maximum=3)
    async with EmulatorControl(
        f"http://127.0.0.1:{port}", reactor=clock, agent=Agent(reactor), retries=retries
    ) as nobody:
        asking = start(nobody.info())
        for most in (0.5, 1, 2, 3, 3):
            await until(clock.getDelayedCalls)
            (call,) = clock.getDelayedCalls()
            assert most / 2 <= call.getTime() - clock.seconds() <= most
            clock.advance(call.getTime() - clock.seconds())
        with pytest.raises(CannotConnect, match=f"127.0.0.1:{port} cannot be reached"):
            await asking
        assert not clock.getDelayedCalls()
    async with EmulatorControl(nobody.url, reactor=clock, agent=Agent(reactor), retries=None) as nobody:
        with pytest.raises(CannotConnect):
            await nobody.info()
        assert not clock.getDelayedCalls()


@pytest_twisted.ensureDeferred
async def test_a_result_that_was_cut_is_fetched_again(harness: Harness) -> None:
    async with (
        application(harness) as modules,
        runtime(harness) as module,
        EmulatorControl(harness.service.addresses.http) as control,
    ):
        handle = await modules.submit("ri.one", "f")
        assert await module.poll() is not None
        await module.post_result(handle.id, b"0123456789")
        await control.add_fault(kind="cut_result", count=1)
        assert (await modules.result(handle)).content == b"0123456789"
        assert (await control.faults())[0]["struck"] == 1


@pytest_twisted.ensureDeferred
async def test_connections_are_kept_for_the_next_request(harness: Harness) -> None:
    channels = harness.service._sites[0].channels
    async with application(harness) as modules:
        handle = await modules.submit("ri.one", "f")
        (kept,) = channels
        await modules.status(handle)
        await modules.cancel(handle)
        assert channels == {kept}
    await until(lambda: not channels)


# What else is promised


def test_serving_does_not_load_the_client() -> None:
    code = "import sys, twisted_cm.cli, twisted_cm.service, twisted_cm.tap; print('treq' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


@pytest_twisted.ensureDeferred
async def test_the_example_in_the_readme_runs(harness: Harness) -> None:
    page = (ROOT / "docs" / "scripting.rst").read_text()
    (example,) = re.findall(r":caption: scripted.py\n\n((?:    ?.*\n|\n)+)", page)
    found: dict[str, Any] = {}
    exec(textwrap.dedent(example), found)
    assert await found["answer"](harness.service.addresses.http, "app-token") == 42
