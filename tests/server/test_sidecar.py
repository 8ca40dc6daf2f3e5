"""What is particular to a sidecar: flat jobs, requests without a token, and tokens that say which replica it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from conftest import RUNTIMES, Harness
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.client import Agent

from twisted_cm.client.connections import https_policy
from twisted_cm.config.seed import Sidecar
from twisted_cm.config.tls import local_certificate
from twisted_cm.model.jobs import JobFilter, JobSource, Submission
from twisted_cm.server.refused_polls import HOLD

FOUNDRY = "/interactive-module/api/internal-query"


@pytest.fixture
def beside(start_anywhere: Callable[..., Harness], state_dir: Path) -> Harness:
    """Start an emulator with a sidecar for runtime ``one``, on each kind of broker."""
    return start_anywhere(sidecars=(Sidecar("one", 0, 0),), certificate=local_certificate(state_dir, "127.0.0.1"))


@pytest.fixture
def guarded(start_anywhere: Callable[..., Harness], monkeypatch: pytest.MonkeyPatch) -> Harness:
    """Start an emulator with a sidecar whose main listeners can be reached from other machines."""
    monkeypatch.setattr("twisted_cm.service.is_loopback", lambda interface: False)
    return start_anywhere(sidecars=(Sidecar("one", 0, 0),), admin_token="boss")


async def ask(
    harness: Harness, method: str, path: str, body: bytes | None = None, tls: bool = False, **headers: str
) -> tuple[int, Any]:
    """Send a request to the sidecar; return the status and the body of the answer."""
    addresses = harness.service.sidecar_addresses["one"]
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    url = (addresses.https if tls else addresses.http) + path
    client = harness.http
    if tls:
        client = HTTPClient(Agent(reactor, https_policy(addresses.ca_certificate), pool=harness.pool))
    response = await client.request(method, url, data=body, headers=sent)
    content = await response.content()
    return response.code, content if not content or response.code >= 400 else await response.json()


async def open_replica(harness: Harness) -> dict[str, Any]:
    status, replica, _ = await harness.call("POST", f"{RUNTIMES}/one/replicas", {})
    assert status == 201
    return dict(replica)


@pytest_twisted.ensureDeferred
async def test_a_module_without_a_token_works_on_the_plain_listener(beside: Harness) -> None:
    assert await ask(beside, "POST", "/schemas", b'[{"functionName": "f"}]') == (200, {})
    assert await ask(beside, "POST", "/restart-notify") == (200, [])
    running = beside.execute({"b": [1]})
    status, job = await ask(beside, "GET", "/job")
    assert (status, job["queryType"], job["query"]) == (200, "f", {"b": [1]})
    assert await ask(beside, "POST", f"/results/{job['jobId']}", b"done") == (204, b"")
    assert (await running)[:2] == (200, b"done")


@pytest_twisted.ensureDeferred
async def test_a_replica_without_a_token_works_under_its_own_paths(beside: Harness) -> None:
    replica = await open_replica(beside)
    base = f"/replicas/{replica['replicaId']}"
    running = beside.execute(1)
    status, job = await ask(beside, "GET", f"{base}/job")
    assert (status, job["query"]) == (200, 1)
    found = {each.replica.replica_id: each for each in await beside.broker.replicas("one")}
    assert found[replica["replicaId"]].job_ids == [job["jobId"]]
    assert await ask(beside, "POST", f"{base}/restart-notify") == (200, [job["jobId"]])
    assert (await running)[1]["error_description"] == "runtime restarted"
    for method, path in (("GET", "/job"), ("POST", "/restart"), ("POST", "/schemas"), ("POST", "/results/x")):
        assert (await ask(beside, method, f"/replicas/unknown{path}", b"[]"))[0] == 404, path


@pytest.mark.parametrize("prefix", ["", FOUNDRY])
@pytest_twisted.ensureDeferred
async def test_the_token_of_a_replica_says_which_one_it_is(beside: Harness, prefix: str) -> None:
    replica = await open_replica(beside)
    running = beside.execute(1)
    status, job = await ask(beside, "GET", f"{prefix}/job", Module_Auth_Token=replica["moduleAuthToken"])
    assert status == 200
    job_id = job["jobId"] if not prefix else job["computeModuleJobV1"]["jobId"]
    found = {each.replica.replica_id: each.job_ids for each in await beside.broker.replicas("one")}
    assert found == {"default": [], replica["replicaId"]: [job_id]}
    token = {"Module_Auth_Token": replica["moduleAuthToken"]}
    assert (await ask(beside, "POST", f"{prefix}/results/{job_id}", b"done", **token))[0] == 204
    assert (await running)[1] == b"done"


@pytest.mark.parametrize("path", ["/job", "/restart"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Module_Auth_Token": "wrong"},
        {"Module_Auth_Token": ""},
        {"Sec_Fetch_Site": "none"},
        {"Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Mode": "no-cors"},
        {"Referer": "http://localhost/page"},
        {"Origin": "ORIGIN"},
    ],
    ids=lambda each: " ".join(each.values()) or "empty",
)
@pytest_twisted.ensureDeferred
async def test_a_browser_or_a_wrong_token_gets_no_job(
    beside: Harness, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], path: str
) -> None:
    monkeypatch.setattr("twisted_cm.server.refused_polls.HOLD", 0)
    await beside.broker.enqueue("one", Submission("f", b"1", JobSource.RUNTIME_DIRECT))
    origin = beside.service.sidecar_addresses["one"].http or ""
    sent = {name: origin if value == "ORIGIN" else value for name, value in headers.items()}
    method = "GET" if path == "/job" else "POST"
    assert (await ask(beside, method, path, **sent))[0] == 401
    assert [job.state.value for job in await beside.broker.jobs(JobFilter(), 10)] == ["queued"]


@pytest_twisted.ensureDeferred
async def test_a_poll_of_a_replica_that_is_not_there_is_refused_late(beside: Harness) -> None:
    started = reactor.seconds()
    assert (await ask(beside, "GET", "/replicas/unknown/job"))[0] == 404
    await beside.broker.delete_runtime("one")
    assert (await ask(beside, "GET", "/job"))[0] == 404
    assert reactor.seconds() - started >= HOLD * 2
    # Not for a browser.
    started = reactor.seconds()
    assert (await ask(beside, "GET", "/job", Sec_Fetch_Site="none"))[0] == 404
    assert reactor.seconds() - started < HOLD


@pytest.mark.parametrize(("path", "tls"), [(f"{FOUNDRY}/job", False), (f"{FOUNDRY}/job", True), ("/job", True)])
@pytest_twisted.ensureDeferred
async def test_a_token_is_needed_everywhere_else(
    beside: Harness, monkeypatch: pytest.MonkeyPatch, path: str, tls: bool
) -> None:
    monkeypatch.setattr("twisted_cm.server.refused_polls.HOLD", 0)
    assert (await ask(beside, "GET", path, tls=tls))[0] == 401


@pytest_twisted.ensureDeferred
async def test_a_name_that_points_here_is_refused_also_beyond_loopback(guarded: Harness) -> None:
    # A browser sends no Sec-Fetch headers to such a name, and a page of that name may ask for anything.
    await guarded.broker.enqueue("one", Submission("f", b"1", JobSource.RUNTIME_DIRECT))
    for host in ("evil.example:8946", "0.0.0.0:8946", "[::ffff:127.0.0.1]:8946", "[::]:8946", "192.0.2.1"):
        assert (await ask(guarded, "GET", "/job", Host=host))[0] == 403, host
    assert (await ask(guarded, "GET", "/job"))[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_poll_without_a_token_ends_with_its_runtime(beside: Harness) -> None:
    polling = Deferred.fromCoroutine(ask(beside, "GET", "/job"))
    await beside.until(lambda: beside.connections())
    await beside.broker.delete_runtime("one")
    assert (await polling)[0] in (204, 404)
    assert (await ask(beside, "GET", "/job"))[0] == 404
