"""Steps of an application and a runtime that several tests take."""

from __future__ import annotations

from typing import Any

from conftest import Harness

SUBMISSION = {"deployedAppRid": "ri.one", "queryType": "f"}


async def submit(harness: Harness, rid: str = "ri.one") -> dict[str, Any]:
    """Submit a job, and return its handle."""
    status, handle, _ = await harness.app("POST", "/deployed-apps/jobs", {**SUBMISSION, "deployedAppRid": rid})
    assert status == 200
    found: dict[str, Any] = handle
    return found


async def take(harness: Harness) -> str:
    """Take the next job as the runtime; return its id."""
    status, envelope, _ = await harness.module("GET", "/job")
    assert status == 200
    job_id: str = envelope["computeModuleJobV1"]["jobId"]
    return job_id
