"""What do tests of replicas do again and again? They open them, poll as one of them, and list them."""

from __future__ import annotations

from typing import Any

from conftest import RUNTIMES, Harness

BEARER = {"Authorization": "Bearer app-token"}


async def open_replica(harness: Harness, runtime: str = "one", **body: Any) -> dict[str, Any]:
    """Open a replica; return what it is told."""
    status, replica, _ = await harness.call("POST", f"{RUNTIMES}/{runtime}/replicas", body)
    assert status == 201, replica
    return dict(replica)


async def replica_call(harness: Harness, replica: dict[str, Any], method: str, path: str, body: Any = None) -> Any:
    """Send a request of a replica to its own routes; return the status and the body."""
    base = replica["getJobUri"].removesuffix("/job").removeprefix(harness.service.addresses.http)
    answer = await harness.call(method, base + path, body, Module_Auth_Token=replica["moduleAuthToken"])
    return answer[:2]


async def poll(harness: Harness, replica: dict[str, Any], wait: int = 0) -> str | None:
    """Poll as a replica; return the id of the job, or ``None``."""
    base = replica["getJobUri"].removeprefix(harness.service.addresses.http)
    headers = {"Module_Auth_Token": replica["moduleAuthToken"], "Prefer": f"wait={wait}"}
    status, envelope, _ = await harness.call("GET", base, **headers)
    assert status in (200, 204), envelope
    return envelope["computeModuleJobV1"]["jobId"] if status == 200 else None


async def submit(harness: Harness, runtime: str = "one") -> str:
    """Queue a job; return its id."""
    status, job, _ = await harness.call("POST", f"{RUNTIMES}/{runtime}/jobs", {"queryType": "f"}, **BEARER)
    assert status == 201, job
    return str(job["job_id"])


async def listed(harness: Harness, runtime: str = "one") -> dict[str, dict[str, Any]]:
    """Return the replicas of a runtime, by id."""
    status, replicas, _ = await harness.call("GET", f"{RUNTIMES}/{runtime}/replicas", **BEARER)
    assert status == 200, replicas
    return {each["replica_id"]: each for each in replicas}
