"""Test timeouts, cancellation and closing: no request, connection or timer is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from client_helpers import application, never_ending, sockets_and_timers, start, until
from conftest import Harness, Server, free_port
from twisted.internet import reactor
from twisted.internet.defer import CancelledError

from twisted_cm.client import (
    ComputeModules,
    ResultBrokenOff,
    Retries,
    RuntimeSession,
    TimedOut,
)


@pytest_twisted.ensureDeferred
async def test_a_caller_that_gives_up_cancels_its_queued_job(harness: Harness) -> None:
    async with application(harness) as modules:
        with pytest.raises(TimedOut, match=r"0\.1 seconds") as expired:
            await modules.execute("ri.one", "f", timeout=0.1)
        assert isinstance(expired.value, TimeoutError)
        await harness.until(lambda: not harness.work().queued)
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
        await harness.until(lambda: harness.load().parked_callers == 1)
        waiting.cancel()
        with pytest.raises(CancelledError):
            await waiting
        await harness.until(lambda: harness.load().parked_callers == 0)


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
    nobody = ComputeModules(f"http://127.0.0.1:{free_port()}", retries=Retries(initial=2000, maximum=2000))
    sleeping = start(nobody.status("x"))
    await until(lambda: any(each.getTime() - reactor.seconds() > 900 for each in reactor.getDelayedCalls()))
    for client in (modules, module, nobody):
        await client.close()
    assert sockets_and_timers() == before
    for canceled in (posting, asking, polling, sleeping):
        with pytest.raises(CancelledError):
            await canceled
    with pytest.raises(ResultBrokenOff):
        await stream.__anext__()
