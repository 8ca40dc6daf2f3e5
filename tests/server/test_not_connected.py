"""A time-out says that no replica is connected, and since when."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from conftest import RUNTIMES, SEED, Harness, Server
from twisted.internet.defer import Deferred

from twisted_cm.broker.interface import BrokerUnavailable
from twisted_cm.model.limits import Limits

HASTY = Limits(poll_timeout=30, sync_timeout=0.1)
ADMIN = {"Authorization": "Bearer app-token"}


@pytest.fixture
def hasty_anywhere(start_anywhere: Callable[..., Harness]) -> Harness:
    """Start an emulator whose callers time out soon, on each kind of broker."""
    return start_anywhere(limits=HASTY)


async def time_out(harness: Harness) -> str:
    """Execute a job that times out; return what the answer says after the sentence of the contract."""
    status, answer, headers = await harness.execute()
    assert (status, answer["error"]) == (504, "job_timeout")
    job_id = headers.getRawHeaders("X-Job-Id")[0]
    start = f"Timed out waiting for compute-module job '{job_id}'."
    said: str = answer["error_description"]
    assert said.startswith(start)
    assert answer["errorDescription"] == said
    return said.removeprefix(start)


@pytest_twisted.ensureDeferred
async def test_no_replica_has_ever_polled(hasty_anywhere: Harness) -> None:
    assert await time_out(hasty_anywhere) == " No replica of runtime 'one' has ever polled."


@pytest_twisted.ensureDeferred
async def test_the_last_replica_is_gone(hasty_anywhere: Harness) -> None:
    hasty = hasty_anywhere
    status, opened, _ = await hasty.call("POST", f"{RUNTIMES}/one/replicas", {"replicaId": "r"}, **ADMIN)
    assert status == 201
    token = opened["moduleAuthToken"]
    path = f"{RUNTIMES}/one/replicas/r"
    assert (await hasty.call("GET", f"{path}/job", Module_Auth_Token=token, Prefer="wait=0"))[0] == 204
    # It is still connected, so the job takes long for another reason.
    assert await time_out(hasty) == ""
    assert (await hasty.call("DELETE", path, Module_Auth_Token=token))[0] == 204
    said = await time_out(hasty)
    expected = r" No replica of runtime 'one' is connected \(last poll: \d\d:\d\d:\d\d, \d s ago\)\."
    assert re.fullmatch(expected, said), said


@pytest_twisted.ensureDeferred
async def test_a_broker_that_cannot_be_asked_does_not_hide_the_time_out(
    hasty_anywhere: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(runtime_id: str) -> Deferred[None]:
        return Deferred.fromCoroutine(_refused())

    monkeypatch.setattr(hasty_anywhere.service.broker, "snapshot", refuse)
    assert await time_out(hasty_anywhere) == ""


async def _refused() -> None:
    raise BrokerUnavailable("Redis is away")


def test_the_command_line_says_it_too(tmp_path: Path, state_dir: Path) -> None:
    server = Server(tmp_path, state_dir, seed=SEED.replace("sync_timeout: 30", "sync_timeout: 0.1"))
    try:
        ran = server.cm("submit", "ri.one", "f")
    finally:
        server.stop()
    assert ran.returncode == 1
    expected = (
        r"Error: Timed out waiting for compute-module job '(\w+)'\. No replica of runtime 'one' has ever polled\.\n"
    )
    assert re.fullmatch(expected, ran.stderr.decode()), ran.stderr
