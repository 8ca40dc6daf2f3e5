"""Test which requests are sent again, and when, against an emulator and servers that break off."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from client_helpers import QUICK, application, runtime, start, until
from conftest import SEED, Harness, free_port, make_harness
from raw_server import LosingProxy, RawServer, http
from twisted.internet import reactor
from twisted.internet.task import Clock
from twisted.web.client import Agent

from twisted_cm.client import (
    AnswerLost,
    CannotConnect,
    ComputeModules,
    EmulatorControl,
    QueueFull,
    ResultBrokenOff,
    Retries,
    RuntimeSession,
    Unavailable,
)

SUCCEEDED = {"type": "succeeded", "succeeded": {}}
FULL = http(429, {"error": "queue_full", "error_description": "full"}, Retry_After="0")
STOPPED = http(503, {"error": "unavailable", "error_description": "stopping"}, Retry_After="0")
HALF = http(200, "result")[:-2]


async def ask_everything(url: str) -> list[Any]:
    """Send every request that is safe to repeat; return the answers."""
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

#: The requests that have a key, by which the emulator knows them again, each with an answer that it accepts.
KEYED = {"execute": http(200, 1), "stream": http(200, 1), "submit": http(200, HANDLE)}

#: The requests that are not safe to repeat, in the same way.
UNSAFE = {
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
    """Send one of the requests of ``KEYED`` and ``UNSAFE``."""
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


@pytest.mark.parametrize("name", KEYED)
@pytest_twisted.ensureDeferred
async def test_a_submission_is_sent_again_with_its_key(name: str) -> None:
    # A stream that has begun is not read again.
    lost = [None, None] if name == "stream" else [None, HALF]
    async with RawServer(*lost, KEYED[name], *lost, KEYED[name]) as raw:
        for _ in range(2):
            await do_once(name, raw.url)
        assert (len(raw.requests), raw.answers) == (6, [])
        assert None not in raw.keys
        # One key for each submission.
        assert raw.keys == [raw.keys[0]] * 3 + [raw.keys[3]] * 3
        assert raw.keys[0] != raw.keys[3]


@pytest_twisted.ensureDeferred
async def test_a_stream_that_broke_off_is_not_sent_again() -> None:
    async with RawServer(HALF, KEYED["stream"]) as raw:
        with pytest.raises(ResultBrokenOff):
            await do_once("stream", raw.url)
        assert len(raw.requests) == 1


@pytest_twisted.ensureDeferred
async def test_a_lost_answer_and_one_submission_make_one_job(harness: Harness) -> None:
    async with LosingProxy(harness, 2) as proxy, ComputeModules(proxy.url, "app-token", retries=QUICK) as modules:
        handle = await modules.submit("ri.one", "f")
        assert [job.job_id for job in harness.jobs()] == [handle.id]
        async with runtime(harness) as module:
            job = await module.poll()
            assert job is not None
            await module.post_result(job.job_id, b"1")
            proxy.losses = 2
            executing = start(modules.execute("ri.one", "f"))
            job = await module.poll()
            assert job is not None
            await module.post_result(job.job_id, b"2")
            assert (await executing).content == b"2"
        assert proxy.losses == 0
        assert [job.attempts for job in harness.jobs()] == [1, 1]


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


@pytest.mark.parametrize("name", [*KEYED, *UNSAFE])
@pytest_twisted.ensureDeferred
async def test_what_was_never_sent_is_sent_once_there_is_a_connection(name: str) -> None:
    port, clock = free_port(), Clock()
    doing = start(do_once(name, f"http://127.0.0.1:{port}", reactor=clock, agent=Agent(reactor)))
    await until(clock.getDelayedCalls)
    async with RawServer((KEYED | UNSAFE)[name], port=port) as raw:
        clock.advance(QUICK.maximum)
        await doing
        assert len(raw.requests) == 1


@pytest.mark.parametrize("name", [*KEYED, *UNSAFE])
@pytest_twisted.ensureDeferred
async def test_what_was_refused_for_now_is_sent_again(name: str) -> None:
    async with RawServer(FULL, STOPPED, (KEYED | UNSAFE)[name]) as raw:
        if name == "post_stream":
            # The iterator is used up.
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
        await stopping.until(lambda: stopping.work().queued)
        (job_id,) = [each.job_id for each in stopping.jobs()]
        await stopping.service.stopService()
        with pytest.raises(Unavailable) as stopped:
            await caller
        assert (stopped.value.status, stopped.value.job_id, stopped.value.retry_after) == (503, job_id, 1.0)


@pytest_twisted.ensureDeferred
async def test_a_full_queue_is_tried_again_after_the_time_that_it_says() -> None:
    full = make_harness(SEED.replace("poll_timeout: 30\n", "poll_timeout: 30\n    queue_depth: 1\n"))
    clock = Clock()
    try:
        options: dict[str, Any] = {"reactor": clock, "agent": Agent(reactor, pool=full.pool)}
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
