"""Go back to the seed while modules stay connected."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from conftest import RUNTIMES, Harness
from server.replica_steps import BEARER, listed, open_replica, poll, replica_call, submit
from twisted.internet.defer import Deferred

BASE = "/_emulate/foundry/compute-modules"


async def reset(harness: Harness, query: str = "?keep=replicas") -> tuple[int, Any]:
    return (await harness.call("POST", f"{BASE}/reset{query}"))[:2]


async def functions(harness: Harness, runtime: str = "one") -> list[str]:
    """Return the names of the functions that a runtime has reported."""
    _, shown, _ = await harness.call("GET", f"{RUNTIMES}/{runtime}", **BEARER)
    return [each["function_name"] for each in shown["schemas"] or ()]


@pytest_twisted.ensureDeferred
async def test_replicas_and_schemas_are_kept_and_jobs_are_not(anywhere: Harness) -> None:
    replica = await open_replica(anywhere, replicaId="kept", maxConcurrentTasks=3)
    closed = await open_replica(anywhere, replicaId="closed")
    await replica_call(anywhere, closed, "DELETE", "")
    await replica_call(anywhere, replica, "POST", "/schemas", [{"functionName": "f"}])
    lost = await submit(anywhere)
    assert await poll(anywhere, replica, 20) == lost
    await anywhere.call("POST", f"{BASE}/faults", {"kind": "drop_job"})
    assert await reset(anywhere) == (204, b"")
    assert (await anywhere.call("GET", f"{BASE}/jobs", **BEARER))[1]["jobs"] == []
    assert (await anywhere.call("GET", f"{BASE}/faults"))[1] == []
    assert await functions(anywhere) == ["f"]
    shown = await listed(anywhere)
    assert sorted(shown) == ["default", "kept"]
    assert (shown["kept"]["max_concurrent_tasks"], shown["kept"]["state"]) == (3, "starting")
    job = await submit(anywhere)
    assert await poll(anywhere, replica, 20) == job
    assert await replica_call(anywhere, replica, "POST", f"/results/{job}", b"done") == (204, b"")


@pytest_twisted.ensureDeferred
async def test_runtimes_that_the_seed_does_not_have_are_gone(anywhere: Harness) -> None:
    await open_replica(anywhere, "other")
    assert await reset(anywhere) == (204, b"")
    assert (await anywhere.call("GET", f"{RUNTIMES}/other", **BEARER))[0] == 404


@pytest_twisted.ensureDeferred
async def test_without_keep_replicas_and_schemas_are_forgotten(anywhere: Harness) -> None:
    replica = await open_replica(anywhere)
    await replica_call(anywhere, replica, "POST", "/schemas", [{"functionName": "f"}])
    assert await reset(anywhere, "") == (204, b"")
    assert await functions(anywhere) == []
    assert sorted(await listed(anywhere)) == ["default"]


@pytest_twisted.ensureDeferred
async def test_a_request_that_holds_a_replica_stays_parked(harness: Harness) -> None:
    replica = await open_replica(harness, replicaId="kept")
    path = f"{RUNTIMES}/one/replicas/kept"
    headers = {"Module_Auth_Token": replica["moduleAuthToken"], "Prefer": "wait=30"}
    holding = Deferred.fromCoroutine(harness.call("GET", f"{path}?until=gone&hold=true", **headers))
    parked = Deferred.fromCoroutine(poll(harness, replica, 20))
    await harness.until(lambda: harness.work().parked_polls)
    assert await reset(harness) == (204, b"")
    assert await parked is None
    assert not holding.called
    await harness.call("DELETE", path, Module_Auth_Token=replica["moduleAuthToken"])
    assert (await holding)[1]["state"] == "gone"


@pytest_twisted.ensureDeferred
async def test_nothing_else_can_be_kept(harness: Harness) -> None:
    status, error = await reset(harness, "?keep=jobs")
    assert status == 400
    assert error["error_description"] == "'keep' must be replicas."


@pytest_twisted.ensureDeferred
async def test_a_replica_that_gets_no_more_jobs_gets_none_after_a_reset(anywhere: Harness) -> None:
    drained = await open_replica(anywhere, replicaId="drained", maxConcurrentTasks=3)
    other = await open_replica(anywhere, replicaId="other")
    await anywhere.broker.drain_replica("one", "drained")
    assert await reset(anywhere) == (204, b"")
    job = await submit(anywhere)
    assert await poll(anywhere, drained) is None
    assert await poll(anywhere, other) == job
