"""Test inspection, faults and reset through the client."""

from __future__ import annotations

import pytest
import pytest_twisted
from client_helpers import application
from conftest import Harness, make_harness

from twisted_cm.client import (
    EmulatorControl,
    Forbidden,
    InvalidRequest,
    InvalidToken,
    JobFailed,
    NotFound,
    RuntimeSession,
)
from twisted_cm.model.replicas import ReplicaRequest


@pytest_twisted.ensureDeferred
async def test_faults_are_added_listed_and_removed(harness: Harness) -> None:
    addresses = harness.service.addresses
    async with EmulatorControl(addresses.http, "app-token") as control, application(harness) as modules:
        info = await control.info()
        assert (info.http, info.https, info.ca_certificate) == (
            addresses.http,
            addresses.https,
            addresses.ca_certificate,
        )
        assert (info.poll_timeout, info.sync_timeout) == (30, 30)
        fault = await control.add_fault(kind="fail_job", message="no luck", count=1)
        other = await control.add_fault(kind="drop_job", count=1)
        with pytest.raises(JobFailed, match="no luck"):
            await modules.execute("ri.one", "f")
        assert [(each["fault_id"], each["struck"]) for each in await control.faults()] == [
            (fault["fault_id"], 1),
            (other["fault_id"], 0),
        ]
        await control.remove_fault(fault["fault_id"])
        with pytest.raises(NotFound):
            await control.remove_fault(fault["fault_id"])
        await control.clear_faults()
        assert await control.faults() == []
        with pytest.raises(InvalidRequest):
            await control.add_fault(kind="none")
        handle = await modules.submit("ri.one", "f")
        assert [(each["runtime_id"], each["queued_jobs"]) for each in await control.runtimes()] == [
            ("one", 1),
            ("two", 0),
        ]
        await control.reset()
        with pytest.raises(NotFound):
            await modules.status(handle)
        await harness.call("POST", "/_emulate/foundry/compute-modules/runtimes/one/replicas", {"replicaId": "mine"})
        await control.reset(keep_replicas=True)
        assert [each["replica_id"] for each in await control.replicas("one")] == ["default", "mine"]
        await control.reset()
        assert [each["replica_id"] for each in await control.replicas("one")] == ["default"]


@pytest_twisted.ensureDeferred
async def test_an_administrator_opens_and_deletes_a_runtime() -> None:
    guarded = make_harness(interface="0.0.0.0", admin_token="root")
    url = guarded.service.addresses.http
    try:
        with pytest.raises(InvalidToken):
            await RuntimeSession.open(url, "mine")
        session = await RuntimeSession.open(url, "mine", admin_token="root")
        async with session, EmulatorControl(url, "root") as control, EmulatorControl(url, "app-token") as other:
            with pytest.raises(Forbidden):
                await other.delete_runtime("mine")
            await control.delete_runtime("mine")
            with pytest.raises(NotFound):
                await control.runtime("mine")
            with pytest.raises(NotFound):
                await session.poll(wait=0)
    finally:
        await guarded.service.stopService()


@pytest_twisted.ensureDeferred
async def test_the_replicas_of_a_runtime_are_listed(harness: Harness) -> None:
    async with EmulatorControl(harness.service.addresses.http, "app-token") as control:
        opened = await harness.broker.open_replica(ReplicaRequest("one", "r/1", 2))
        default, replica = await control.replicas("one")
        assert (default["replica_id"], default["max_concurrent_tasks"]) == ("default", None)
        assert (replica["replica_id"], replica["state"], replica["max_concurrent_tasks"]) == ("r/1", "starting", 2)
        assert (await control.runtime("one"))["replicas"] == [replica]
        await harness.broker.close_replica("one", opened.replica_id)
        assert [each["ended_why"] for each in await control.replicas("one")] == [None, "replica stopped"]
        with pytest.raises(NotFound, match="none"):
            await control.replicas("none")
