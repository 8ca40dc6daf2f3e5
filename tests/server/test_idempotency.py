"""The header ``Idempotency-Key``: a submission that is sent again makes no second job."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, SEED, Harness, make_harness, pause, serve_one
from twisted.internet.defer import Deferred

from twisted_cm.broker.interface import BrokerLoad
from twisted_cm.model.faults import FaultKind, FaultPlan

SUBMISSION = {"deployedAppRid": "ri.one", "queryType": "f", "query": {"n": 1}}
SUBMIT, EXECUTE = f"{CONTOUR}/deployed-apps/jobs", f"{CONTOUR}/compute-modules/jobs/execute"
DIRECT = f"{RUNTIMES}/one/jobs"
BEARER = {"Authorization": "Bearer app-token"}


async def send(harness: Harness, path: str, key: str | None = "k", body: Any = None, **headers: str) -> Any:
    """Send a submission with a key."""
    sent = dict(headers or BEARER)
    if key is not None:
        sent["Idempotency_Key"] = key
    return await harness.call("POST", path, body or SUBMISSION, **sent)


def executing(harness: Harness, key: str = "k") -> Deferred[Any]:
    return Deferred.fromCoroutine(send(harness, EXECUTE, key))


async def counts(harness: Harness) -> tuple[int, int]:
    """Return the numbers of queued and of running jobs."""
    load = await harness.broker.load()
    return load.queued, load.running


async def until(harness: Harness, condition: Callable[[BrokerLoad], bool]) -> None:
    """Wait until the broker is so loaded, at most 5 seconds or so."""
    for _ in range(1000):
        if condition(await harness.broker.load()):
            return
        await pause(0.005)
    raise AssertionError(await harness.broker.load())


@pytest.mark.parametrize(("path", "status"), [(SUBMIT, 200), (DIRECT, 201)], ids=["contour", "direct"])
@pytest_twisted.ensureDeferred
async def test_a_submission_that_is_sent_again_is_answered_with_its_job(
    anywhere: Harness, path: str, status: int
) -> None:
    name = "id" if path == SUBMIT else "job_id"
    answers = [await send(anywhere, path) for _ in range(3)]
    assert [answer[0] for answer in answers] == [status] * 3
    assert len({answer[1][name] for answer in answers}) == 1
    await serve_one(anywhere, b"done")
    _, late, _ = await send(anywhere, path)
    assert late[name] == answers[0][1][name]
    assert (late["status"]["type"] if path == SUBMIT else late["status"]) == "succeeded"
    assert await counts(anywhere) == (0, 0)
    other = await send(anywhere, path, "another")
    assert other[1][name] != late[name]


@pytest_twisted.ensureDeferred
async def test_callers_with_the_same_key_share_a_job(anywhere: Harness) -> None:
    callers = [executing(anywhere), executing(anywhere)]
    await until(anywhere, lambda load: load.queued == 1)
    await serve_one(anywhere, b"shared")
    for caller in callers:
        assert (await caller)[:2] == (200, b"shared")
    assert (await executing(anywhere))[:2] == (200, b"shared")
    assert await counts(anywhere) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_a_caller_goes_on_when_its_lost_connection_is_noticed(anywhere: Harness) -> None:
    """A caller sends the same again before the emulator notices that the first connection was lost."""
    first = executing(anywhere)
    await until(anywhere, lambda load: load.queued == 1)
    second = executing(anywhere)
    await until(anywhere, lambda load: load.parked_callers == 2)
    first.addErrback(lambda _: None)
    first.cancel()
    await until(anywhere, lambda load: load.parked_callers == 1)
    await serve_one(anywhere, b"ok")
    assert (await second)[:2] == (200, b"ok")
    assert await counts(anywhere) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_a_key_for_another_submission_is_refused(anywhere: Harness) -> None:
    _, handle, _ = await send(anywhere, SUBMIT)
    for path, body in ((SUBMIT, {**SUBMISSION, "query": {"n": 2}}), (EXECUTE, SUBMISSION), (DIRECT, SUBMISSION)):
        status, answer, _ = await send(anywhere, path, body=body)
        assert (status, answer["error"]) == (422, "idempotency_key_reused")
        assert answer["parameters"] == {"jobId": handle["id"]}
    assert await counts(anywhere) == (1, 0)


@pytest_twisted.ensureDeferred
async def test_a_key_means_nothing_for_another_caller() -> None:
    harness = make_harness(SEED.replace("{login: jane}}", "{login: jane}, other: {login: joe}}"))
    try:
        jobs = {
            (await send(harness, DIRECT))[1]["job_id"],
            (await send(harness, DIRECT, Authorization="Bearer other"))[1]["job_id"],
            (await send(harness, DIRECT, Module_Auth_Token="token-one"))[1]["job_id"],
            (await send(harness, f"{RUNTIMES}/two/jobs", Module_Auth_Token="token-two"))[1]["job_id"],
        }
        assert len(jobs) == 4
    finally:
        await harness.pool.closeCachedConnections()
        await harness.service.stopService()


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a\tb", "é"], ids=["empty", "blank", "long", "tab", "accent"])
@pytest_twisted.ensureDeferred
async def test_what_is_no_key_is_refused(harness: Harness, key: str) -> None:
    for path in (SUBMIT, EXECUTE, DIRECT):
        status, answer, _ = await send(harness, path, key)
        assert (status, answer["error"]) == (400, "invalid_request")
        assert answer["parameters"] == {"header": "Idempotency-Key"}
    assert not harness.jobs()


@pytest_twisted.ensureDeferred
async def test_a_fault_strikes_a_submission_once(anywhere: Harness) -> None:
    await anywhere.service.faults.add(FaultPlan(FaultKind.FAIL_JOB, count=1, message="struck"))
    jobs = [(await send(anywhere, DIRECT))[1] for _ in range(2)]
    assert [(job["status"], job["error_message"]) for job in jobs][1] == ("failed", "struck")
    assert len({job["job_id"] for job in jobs}) == 1
    await anywhere.service.faults.add(FaultPlan(FaultKind.FAIL_JOB, message="struck again"))
    assert (await send(anywhere, DIRECT))[1]["error_message"] == "struck"


@pytest_twisted.ensureDeferred
async def test_the_key_is_not_in_any_answer(harness: Harness) -> None:
    status, job, _ = await send(harness, DIRECT, "secret-key")
    assert status == 201
    shown = (await harness.module("GET", f"/jobs/{job['job_id']}"))[1]
    assert "key" not in json.dumps([job, shown])
