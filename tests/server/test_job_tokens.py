"""The bearer token that a job carries, with which the function that runs it calls back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import pytest_twisted
from conftest import CONTOUR, RUNTIMES, SEED, Harness, make_harness, pause
from every_route import EMULATOR
from redis_server import RedisServer

from twisted_cm.model.tokens import job_of_token, job_token

Emulators: TypeAlias = Callable[..., AbstractAsyncContextManager[list[Harness]]]

ME = "/multipass/api/me"
SCOPED_SEED = SEED.replace("{login: jane}", "{login: jane, scopes: [read, write]}, other-token: {login: jane}")
SUBMIT = {"deployedAppRid": "ri.one", "queryType": "f"}


@pytest.fixture(params=["memory", "redis"])
def emulators(request: pytest.FixtureRequest) -> Emulators:
    """Return a function that starts emulators that share a broker of each kind, each with some settings."""
    shared: dict[str, Any] = {}
    if request.param == "redis":
        redis: RedisServer = request.getfixturevalue("redis_server")
        assert redis.command("FLUSHALL") == b"+OK\r\n"
        shared["broker"] = redis.url

    @asynccontextmanager
    async def start(*each: dict[str, Any]) -> AsyncIterator[list[Harness]]:
        made = []
        try:
            for settings in each or ({},):
                made.append(make_harness(SCOPED_SEED, **shared, **settings))
                while not (await made[-1].service.readiness())["seed"]:
                    await pause(0.01)
            yield made
        finally:
            for harness in made:
                await harness.pool.closeCachedConnections()
                await harness.service.stopService()

    return start


async def submit(harness: Harness, token: str = "app-token", **headers: str) -> str:
    """Submit a job; return its id."""
    status, handle, _ = await harness.call(
        "POST", f"{CONTOUR}/deployed-apps/jobs", SUBMIT, Authorization=f"Bearer {token}", **headers
    )
    assert status == 200
    job_id: str = handle["id"]
    return job_id


async def poll(harness: Harness) -> tuple[str, str]:
    """Take a job; return its id and its token."""
    status, envelope, _ = await harness.module("GET", "/job")
    assert status == 200
    job = envelope["computeModuleJobV1"]
    return job["jobId"], job["temporaryCredentialsAuthToken"]


async def me(harness: Harness, token: str) -> tuple[str, list[str], str] | None:
    """Return the login, the scopes and the role of a token, or ``None`` if it is refused."""
    status, answer, _ = await harness.call("GET", ME, Authorization=f"Bearer {token}")
    if status == 401:
        assert answer["error"] == "invalid_token"
        return None
    assert status == 200
    return answer["username"], answer["scopes"], answer["role"]


@pytest_twisted.ensureDeferred
async def test_a_function_calls_back_as_the_submitter_of_its_job(emulators: Emulators) -> None:
    async with emulators() as (harness,):
        await submit(harness)
        _, envelope, _ = await harness.module("GET", "/job")
        job = envelope["computeModuleJobV1"]
        assert job["authHeader"] == "Bearer " + job["temporaryCredentialsAuthToken"]
        status, answer, _ = await harness.call("GET", ME, Authorization=job["authHeader"])
        assert (status, answer) == (
            200,
            {"id": "jane", "username": "jane", "scopes": ["read", "write"], "role": "admin"},
        )
        # What the function submits is the user's, too.
        nested = await submit(harness, job["temporaryCredentialsAuthToken"])
        job_id, token = await poll(harness)
        assert job_id == nested
        assert await me(harness, token) == ("jane", ["read", "write"], "admin")


@pytest.mark.parametrize("end", ["result", "restart", "cancel", "session", "delete", "reset"])
@pytest_twisted.ensureDeferred
async def test_the_token_ends_with_its_job(emulators: Emulators, end: str) -> None:
    async with emulators() as (harness,):
        await submit(harness)
        job_id, token = await poll(harness)
        assert await me(harness, token) is not None
        if end == "result":
            assert (await harness.module("POST", f"/results/{job_id}", b"1"))[0] == 204
        elif end == "restart":
            assert (await harness.module("POST", "/restart"))[1] == [job_id]
        elif end == "cancel":
            assert (await harness.app("DELETE", f"/jobs/{job_id}"))[0] == 204
        elif end == "session":
            assert (await harness.call("POST", RUNTIMES, {"runtimeId": "one"}))[0] == 200
        elif end == "delete":
            # The function itself may do what its submitter may.
            answer = await harness.call("DELETE", f"{RUNTIMES}/one", Authorization=f"Bearer {token}")
            assert answer[0] == 204
        else:
            await harness.service.reset()
        assert await me(harness, token) is None


@pytest_twisted.ensureDeferred
async def test_a_job_that_is_queued_again_has_its_token_back_when_it_runs(emulators: Emulators) -> None:
    async with emulators() as (harness,):
        job_id = await submit(harness)
        assert await me(harness, job_token(harness.service.credentials.issued.job_key, job_id)) is None
        first = await poll(harness)
        await harness.broker.give_back(job_id, 1)
        assert await me(harness, first[1]) is None
        assert await poll(harness) == first
        assert await me(harness, first[1]) is not None


@pytest_twisted.ensureDeferred
async def test_a_token_cannot_be_changed_to_that_of_another_job(emulators: Emulators) -> None:
    async with emulators() as (harness,):
        for _ in range(2):
            await submit(harness)
        (one, token_of_one), (other, token_of_other) = await poll(harness), await poll(harness)
        mac, other_mac = (each.rpartition(".")[2] for each in (token_of_one, token_of_other))
        assert mac != other_mac
        last = "0" if mac[-1] != "0" else "1"
        for forged in (f"{one}.{other_mac}", f"{other}.{mac}", f"{one}.{mac[:-1]}{last}", one, f"{one}.", f".{mac}"):
            assert await me(harness, forged) is None
        assert await me(harness, token_of_one) is not None


@pytest_twisted.ensureDeferred
async def test_the_token_is_shown_to_its_poller_only(emulators: Emulators, tmp_path: Path) -> None:
    recording = tmp_path / "recording.jsonl"
    async with emulators({"record": recording}) as (harness,):
        await submit(harness)
        job_id, token = await poll(harness)
        shown = b""
        for path in (RUNTIMES, f"{RUNTIMES}/one", f"{RUNTIMES}/one/jobs/{job_id}", f"{RUNTIMES}/one/replicas"):
            shown += await content(harness, path)
        for path in (f"{EMULATOR}/jobs", f"{EMULATOR}/jobs/{job_id}", f"{CONTOUR}/jobs/{job_id}/status", "/metrics"):
            shown += await content(harness, path)
        assert (await harness.module("POST", f"/results/{job_id}", b"1"))[0] == 204
        shown += await content(harness, f"{EMULATOR}/jobs/{job_id}")
        await harness.until(lambda: recording.exists() and recording.read_bytes().endswith(b"\n"))
        shown += recording.read_bytes()
        assert shown.count(job_id.encode()) >= 6
        assert token.rpartition(".")[2].encode() not in shown


async def content(harness: Harness, path: str) -> bytes:
    """Return what the application is shown at a path."""
    headers = {"Authorization": "Bearer app-token"}
    response = await harness.http.get(harness.service.addresses.http + path, headers=headers)
    assert response.code == 200
    found: bytes = await response.content()
    return found


def test_a_token_is_that_of_one_key_only() -> None:
    token = job_token(b"a key", "foundry_job_1")
    assert job_of_token(b"a key", token) == "foundry_job_1"
    assert job_of_token(b"another key", token) is None
    assert job_of_token(b"a key", "\udcff.\udcff") is None


@pytest_twisted.ensureDeferred
async def test_the_token_has_no_rights_that_its_submitter_does_not_have(emulators: Emulators) -> None:
    async with emulators({"admin_token": "boss"}) as (harness,):
        for token, owner, may_delete in (
            ("app-token", ("jane", ["read", "write"], "application"), 403),
            ("boss", ("admin", [], "admin"), 204),
        ):
            await submit(harness, token)
            job_id, token = await poll(harness)
            assert await me(harness, token) == owner
            await submit(harness, token)
            nested, nested_token = await poll(harness)
            assert await me(harness, nested_token) == owner
            for each in (job_id, nested):
                deleted = await harness.call("DELETE", f"{RUNTIMES}/two", Authorization=f"Bearer {nested_token}")
                assert deleted[0] == (may_delete if each == job_id else 401)
                assert (await harness.module("POST", f"/results/{nested}", b"1"))[0] == 204


@pytest.mark.parametrize("admin_token", [None, "boss"])
@pytest_twisted.ensureDeferred
async def test_a_job_that_a_module_submits_acts_as_its_runtime(emulators: Emulators, admin_token: str | None) -> None:
    async with emulators({"admin_token": admin_token}) as (harness,):
        assert (await harness.module("POST", "/jobs", {"queryType": "f"}))[0] == 201
        _, envelope, _ = await harness.module("GET", "/job")
        job = envelope["computeModuleJobV1"]
        assert job["userId"] == ""
        role = "admin" if admin_token is None else "application"
        assert await me(harness, job["temporaryCredentialsAuthToken"]) == ("one", [], role)
        assert (await harness.call("GET", f"{RUNTIMES}", Authorization=job["authHeader"]))[0] == 200
        await harness.call("POST", f"{RUNTIMES}/one/jobs", {"queryType": "g"}, Authorization="Bearer other-token")
        assert await me(harness, (await poll(harness))[1]) == ("jane", [], role)


@pytest_twisted.ensureDeferred
async def test_a_key_stands_for_its_job_whatever_token_it_is_sent_with(emulators: Emulators) -> None:
    async with emulators() as (harness,):
        key = {"Idempotency_Key": "once"}
        assert await submit(harness, "app-token", **key) == await submit(harness, "other-token", **key)
        assert await me(harness, (await poll(harness))[1]) == ("jane", ["read", "write"], "admin")


@pytest.mark.parametrize("emulators", ["redis"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_all_emulators_on_one_redis_accept_the_token(emulators: Emulators) -> None:
    async with emulators({}, {"admin_token": "boss"}, {}) as (one, guarded, late):
        await submit(one)
        job_id, token = await poll(guarded)
        # Each emulator decides who is an administrator there.
        roles = [await me(each, token) for each in (one, guarded, late)]
        assert [role and role[2] for role in roles] == ["admin", "application", "admin"]
        one.broker.node.drop_link()
        await one.until(lambda: not one.broker.node.up)
        await one.until(lambda: one.broker.node.up)
        assert await me(one, token) == roles[0]
        assert (await late.module("POST", f"/results/{job_id}", b"1"))[0] == 204
        assert [await me(each, token) for each in (one, guarded, late)] == [None] * 3
