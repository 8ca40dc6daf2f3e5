"""Reset, reload, limits and faults, over real sockets."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import pytest_twisted
from conftest import RUNTIMES, SEED, Harness, Server, make_harness, raw_caller, raw_poll, result_of, serve_one
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.client import ResponseFailed

from twisted_cm.broker.faults import FaultBook
from twisted_cm.broker.interface import BrokerUnavailable
from twisted_cm.model.faults import FaultKind, FaultPlan

BASE = "/_emulate/foundry/compute-modules"
FAULTS = f"{BASE}/faults"


def with_limits(lines: str) -> str:
    return SEED.replace(
        "poll_timeout: 30\n", "poll_timeout: 30\n" + "".join(f"    {line}\n" for line in lines.split("\n"))
    )


@pytest.fixture
def limited(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """Run an emulator with more lines in its seed; they are the parameter of the test."""
    made = make_harness(with_limits(request.param))
    yield made
    pytest_twisted.blockon(made.pool.closeCachedConnections())
    pytest_twisted.blockon(made.service.stopService())


def receive_all(client: socket.socket) -> bytes:
    """Receive until the connection is closed or lost."""
    received = b""
    with suppress(OSError):
        while data := client.recv(65536):
            received += data
    return received


async def inject(harness: Harness, **fault: Any) -> None:
    status, answer, _ = await harness.call("POST", FAULTS, fault)
    assert (status, answer["struck"], answer["spent"]) == (201, 0, False), answer


async def attempts_of(harness: Harness, job_id: str) -> list[str]:
    _, shown, _ = await harness.call("GET", f"{RUNTIMES}/one/jobs/{job_id}")
    return [each["outcome"] for each in shown["job"]["attempts"]]


# Limits


@pytest.mark.parametrize("limited", ["job_lease: 0.1\nmax_attempts: 2"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_job_whose_runtime_went_silent_is_dispatched_again(limited: Harness) -> None:
    caller = limited.execute()
    for _ in range(2):
        status, envelope, _ = await limited.module("GET", "/job")
        assert status == 200
    status, answer, _ = await caller
    assert (status, answer["error_description"]) == (
        500,
        "There was no result within the lease of 0.1 seconds, in 2 attempts.",
    )
    job_id = envelope["computeModuleJobV1"]["jobId"]
    assert await attempts_of(limited, job_id) == ["lease ran out"] * 2
    assert (await limited.module("POST", f"/results/{job_id}", b"late"))[0] == 409


@pytest.mark.parametrize("limited", ["queue_depth: 1"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_full_queue_is_said_with_a_time_to_retry(limited: Harness) -> None:
    first = limited.execute()
    await limited.until(lambda: limited.work().queued)
    for status, answer, headers in (
        await limited.execute(),
        await limited.app("POST", "/deployed-apps/jobs", {"deployedAppRid": "ri.one", "queryType": "f"}),
        await limited.module("POST", "/jobs", {"queryType": "f"}),
    ):
        assert (status, answer["error"]) == (429, "queue_full")
        assert answer["parameters"] == {"runtimeId": "one", "limit": 1, "unit": "jobs"}
        assert headers.getRawHeaders("Retry-After") == ["1"]
    await serve_one(limited, b"ok")
    assert (await first)[1] == b"ok"


@pytest.mark.parametrize("limited", ["retention: {jobs: 1}"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_job_that_is_no_longer_kept_is_unknown(limited: Harness) -> None:
    handles = []
    for _ in range(2):
        body = {"deployedAppRid": "ri.one", "queryType": "f"}
        handles.append((await limited.app("POST", "/deployed-apps/jobs", body))[1]["id"])
        await serve_one(limited, b"1")
    assert [(await limited.app("GET", f"/jobs/{each}/result"))[0] for each in handles] == [404, 200]


# Reset and reload


@pytest_twisted.ensureDeferred
async def test_reset_answers_everybody_and_leaves_the_seed(harness: Harness) -> None:
    await harness.call("POST", RUNTIMES, {"runtimeId": "mine", "deployedAppRid": "ri.one"})
    await inject(harness, kind="drop_job")
    await harness.call("DELETE", FAULTS)
    caller = harness.execute(rid="ri.two")
    await harness.until(lambda: harness.work("two").queued)
    poll = Deferred.fromCoroutine(harness.module("GET", "/job"))
    await harness.until(lambda: harness.work().parked_polls)
    await inject(harness, kind="drop_job")
    assert (await harness.call("POST", f"{BASE}/reset"))[:2] == (204, b"")
    assert (await caller)[1]["error_description"] == "The emulator was reset."
    assert (await poll)[0] == 204
    assert (await harness.call("GET", FAULTS))[1] == []
    _, runtimes, _ = await harness.call("GET", RUNTIMES, Authorization="Bearer app-token")
    assert [each["runtime_id"] for each in runtimes] == ["one", "two"]
    caller = harness.execute()
    await serve_one(harness, b"ok")
    assert (await caller)[1] == b"ok"


def status_of(server: Server, path: str, **headers: str) -> int:
    try:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        with urlopen(Request(server.urls["http"] + path, headers=sent)) as answer:
            status: int = answer.status
            return status
    except HTTPError as error:
        error.close()
        return error.code


def log_until(server: Server, text: str) -> None:
    assert server.process.stdout is not None
    for line in server.process.stdout:
        if text in line:
            return
    raise AssertionError(f"never logged: {text}")


def test_sighup_reloads_the_seed_and_refuses_a_bad_one(server: Server) -> None:
    seed = server.seed_file
    poll = {"Prefer": "wait=0"}
    seed.write_text("foundry: {compute_modules: {runtimes: [{runtime: one}]}}")
    server.process.send_signal(signal.SIGHUP)
    log_until(server, "seed not reloaded")
    assert status_of(server, f"{RUNTIMES}/one/job", Module_Auth_Token="token-one", **poll) == 204
    seed.write_text(SEED.replace("app-token", "other-token").replace("runtime_id: one", "runtime_id: three"))
    server.process.send_signal(signal.SIGHUP)
    log_until(server, "seed reloaded")
    assert status_of(server, f"{RUNTIMES}/one/job", Module_Auth_Token="token-one", **poll) == 404
    assert status_of(server, f"{RUNTIMES}/three/job", Module_Auth_Token="token-one", **poll) == 204
    assert status_of(server, RUNTIMES, Authorization="Bearer app-token") == 401
    assert status_of(server, RUNTIMES, Authorization="Bearer other-token") == 200


# Faults


@pytest_twisted.ensureDeferred
async def test_the_next_jobs_fail_with_a_message(harness: Harness) -> None:
    await inject(harness, kind="fail_job", runtime_id="one", function="f", count=2, message="no luck")
    answers = [await harness.execute() for _ in range(2)]
    assert [(status, answer["error_description"]) for status, answer, _ in answers] == [(500, "no luck")] * 2
    caller = harness.execute()
    await serve_one(harness, b"ok")
    assert (await caller)[1] == b"ok"
    _, (fault,), _ = await harness.call("GET", FAULTS)
    assert (fault["kind"], fault["struck"], fault["spent"]) == ("fail_job", 2, True)
    _, shown, _ = await harness.call("GET", f"{RUNTIMES}/one", Authorization="Bearer app-token")
    assert shown["faults"] == [fault]
    _, shown, _ = await harness.call("GET", f"{RUNTIMES}/two", Authorization="Bearer app-token")
    assert shown["faults"] == []
    assert (await harness.call("DELETE", f"{FAULTS}/{fault['fault_id']}"))[0] == 204
    assert (await harness.call("DELETE", f"{FAULTS}/{fault['fault_id']}"))[0] == 404
    assert (await harness.call("GET", FAULTS))[1] == []


@pytest_twisted.ensureDeferred
async def test_a_dropped_job_is_never_answered(harness: Harness) -> None:
    await inject(harness, kind="drop_job", function="f", count=1)
    dropped = raw_caller(harness)
    await harness.until(lambda: harness.work().queued)
    (job,) = harness.jobs()
    second = harness.execute()
    await serve_one(harness, b"ok")
    assert (await second)[1] == b"ok"
    assert harness.work().queued == 1
    assert (await harness.app("GET", f"/jobs/{job.job_id}/status"))[1]["type"] == "queued"
    dropped.close()
    await harness.until(lambda: not harness.work().queued)


@pytest_twisted.ensureDeferred
async def test_polls_are_answered_with_an_error_or_with_an_expired_token(harness: Harness) -> None:
    await inject(harness, kind="poll_error", runtime_id="one", count=1)
    await inject(harness, kind="poll_error", runtime_id="one", count=1, status=401)
    await inject(harness, kind="expire_token", runtime_id="one", count=1)
    seen = [(await harness.module("GET", "/job"))[:2] for _ in range(3)]
    assert sorted(status for status, _ in seen) == [401, 401, 500]
    assert {answer["error"] for _, answer in seen} == {"injected_fault", "invalid_module_auth_token"}
    caller = harness.execute()
    await serve_one(harness, b"ok")
    assert (await caller)[1] == b"ok"


@pytest_twisted.ensureDeferred
async def test_a_result_is_cut_in_its_middle(harness: Harness) -> None:
    await inject(harness, kind="cut_result", count=1)
    caller = harness.execute()
    job = await serve_one(harness, b"0123456789")
    with pytest.raises(ResponseFailed):
        await caller
    assert (await harness.app("GET", f"/jobs/{job['jobId']}/result"))[1] == b"0123456789"


@pytest.mark.parametrize("size", [10, 5_000_000])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest_twisted.ensureDeferred
async def test_of_a_result_that_is_cut_half_is_sent(harness: Harness, scheme: str, size: int) -> None:
    await inject(harness, kind="cut_result", count=1)
    caller = await deferToThread(raw_caller, harness, scheme)
    await harness.until(lambda: harness.work().queued)
    await serve_one(harness, b"x" * (size // 2) + b"y" * (size // 2))
    received = await deferToThread(receive_all, caller)
    assert f"Content-Length: {size}\r\n".encode() in received
    body = received.partition(b"\r\n\r\n")[2]
    assert set(body) == {ord("x")}
    # An abort loses what the operating system has accepted but not sent yet.
    assert len(body) == size // 2 or (len(body) < size // 2 and size > 10)


@pytest_twisted.ensureDeferred
async def test_a_delivery_is_duplicated(harness: Harness) -> None:
    await inject(harness, kind="duplicate_delivery", count=1)
    caller = harness.execute()
    ids = [(await harness.module("GET", "/job"))[1]["computeModuleJobV1"]["jobId"] for _ in range(2)]
    assert ids[0] == ids[1]
    assert [(await harness.module("POST", f"/results/{each}", b"ok"))[0] for each in ids] == [204, 204]
    assert (await caller)[1] == b"ok"


@pytest.mark.parametrize("kind", ["delay_dispatch", "delay_result"])
@pytest_twisted.ensureDeferred
async def test_dispatch_and_result_are_delayed(harness: Harness, kind: str) -> None:
    await inject(harness, kind=kind, seconds=0.2, count=1)
    caller = harness.execute()
    started = reactor.seconds()
    job = await serve_one(harness, b"late")
    assert reactor.seconds() - started >= 0.2
    assert (await caller)[1] == b"late"
    assert await attempts_of(harness, job["jobId"]) == ["succeeded"]


@pytest_twisted.ensureDeferred
async def test_a_poller_that_goes_away_during_a_delay_gives_the_job_back(harness: Harness) -> None:
    await inject(harness, kind="delay_dispatch", seconds=60, count=1)
    caller = harness.execute()
    poll = Deferred.fromCoroutine(harness.module("GET", "/job"))
    await harness.until(lambda: harness.work().running)
    poll.addErrback(lambda _: None)
    poll.cancel()
    await harness.until(lambda: not harness.work().running)
    await serve_one(harness, b"ok")
    assert (await caller)[1] == b"ok"


@pytest_twisted.ensureDeferred
async def test_a_job_is_given_back_if_its_poller_goes_away_before_the_faults_are_known(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faults are answered when the poller is gone, so nothing fails but the delivery."""
    await inject(harness, kind="fail_job", function="another")
    asked: list[FaultKind] = []
    draw = harness.service.faults.draw

    def answer_when_canceled(kind: FaultKind, *args: Any) -> Any:
        if kind is FaultKind.DELAY_DISPATCH:
            return deferLater(reactor, 0, lambda: None)
        if kind is not FaultKind.DUPLICATE_DELIVERY:
            return draw(kind, *args)
        asked.append(kind)
        return Deferred(lambda drawing: drawing.callback(None))

    with monkeypatch.context() as patched:
        patched.setattr(harness.service.faults, "draw", answer_when_canceled)
        caller = harness.execute()
        poller = await raw_poll(harness)
        await harness.until(lambda: asked)
        poller.close()
        await harness.until(lambda: harness.work().queued)
    await serve_one(harness, b"ok")
    assert (await caller)[1] == b"ok"


@pytest_twisted.ensureDeferred
async def test_a_job_is_given_back_if_its_poll_fails_after_the_hand_out(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Faults are looked for only if there are any.
    await inject(harness, kind="fail_job", function="another")
    caller = harness.execute()
    faults = harness.service.faults
    draw = faults.draw

    def refuse(kind: FaultKind, *args: Any) -> Any:
        return (
            fail(BrokerUnavailable("Redis cannot be reached"))
            if kind is FaultKind.DELAY_DISPATCH
            else draw(kind, *args)
        )

    with monkeypatch.context() as patched:
        patched.setattr(faults, "draw", refuse)
        assert (await harness.module("GET", "/job"))[0] == 503
    await serve_one(harness, b"ok")
    assert (await caller)[1] == b"ok"


def test_a_probability_with_a_seed_strikes_in_the_same_places() -> None:
    def run(seed: int | None) -> list[bool]:
        book = FaultBook([FaultPlan(FaultKind.FAIL_JOB, probability=0.3, random_seed=seed)])
        return [result_of(book.draw(FaultKind.FAIL_JOB, "r", "f")) is not None for _ in range(1000)]

    first = run(7)
    assert first == run(7)
    assert first != run(8)
    assert 200 < sum(first) < 400


@pytest.mark.parametrize(
    ("fault", "pointer"),
    [
        ({}, ""),
        ({"kind": "delay"}, "/kind"),
        ({"kind": "delay_result"}, ""),
        ({"kind": "fail_job", "probability": 0}, "/probability"),
        ({"kind": "fail_job", "count": 0}, "/count"),
        ({"kind": "fail_job", "runtimeId": "one"}, ""),
        ({"kind": "poll_error", "status": 204}, "/status"),
        ([], ""),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_no_fault_is_said(harness: Harness, fault: Any, pointer: str) -> None:
    status, answer, _ = await harness.call("POST", FAULTS, fault)
    assert status == 400
    assert answer["parameters"]["violations"][0]["pointer"] == pointer
    assert await harness.service.faults.all() == []


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-1e999", b"1e999"])
@pytest.mark.parametrize("field", [b"seconds", b"probability"])
@pytest_twisted.ensureDeferred
async def test_a_fault_takes_finite_numbers(harness: Harness, field: bytes, number: bytes) -> None:
    body = b'{"kind": "delay_result", "seconds": 1, "probability": 1}'.replace(
        b'"%s": 1' % field, b'"%s": %s' % (field, number)
    )
    status, answer, _ = await harness.call("POST", FAULTS, body)
    assert (status, answer["error"]) == (400, "invalid_request")
    assert await harness.service.faults.all() == []


@pytest.mark.parametrize("limited", ["faults: [{kind: fail_job, message: seeded, count: 1}]"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_faults_from_the_seed_are_back_after_a_reset(limited: Harness) -> None:
    for _ in range(2):
        assert (await limited.execute())[1]["error_description"] == "seeded"
        await limited.call("POST", f"{BASE}/reset")


@pytest_twisted.ensureDeferred
async def test_control_beyond_loopback_needs_the_admin_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: False)
    guarded = make_harness(admin_token="boss")
    tokens = ({}, {"Authorization": "Bearer app-token"}, {"Authorization": "Bearer boss"})
    try:
        for method, path, body, right in (
            ("GET", FAULTS, None, 200),
            ("POST", FAULTS, {"kind": "drop_job"}, 201),
            ("DELETE", f"{FAULTS}/none", None, 404),
            ("DELETE", FAULTS, None, 204),
            ("POST", f"{BASE}/reset", None, 204),
        ):
            statuses = [(await guarded.call(method, path, body, **token))[0] for token in tokens]
            assert statuses == [401, 403, right], path
    finally:
        await guarded.pool.closeCachedConnections()
        await guarded.service.stopService()
