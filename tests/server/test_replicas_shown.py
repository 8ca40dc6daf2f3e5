"""What inspection and Foundry's clients are told of replicas."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
import pytest_twisted
from conftest import RUNTIMES, Harness
from server.replica_steps import BEARER, listed, open_replica, poll, replica_call, submit

from twisted_cm.model.paths import CONTOUR_SERVICE


async def deployed_app(harness: Harness) -> dict[str, Any]:
    """Return what Foundry's clients are told of the replicas of a deployed app."""
    path = f"{CONTOUR_SERVICE}/deployed-apps/ri.one/master/status"
    status, answer, _ = await harness.call("GET", path, **BEARER)
    assert status == 200, answer
    shown = answer["currentReplicaSet"]
    total = shown["totalReplicas"]
    assert answer["scalingConfig"] == {"maxNumModules": total, "minNumModules": total}
    assert (shown["configuredMinModules"], shown["configuredMaxModules"]) == (total, total)
    return {
        "state": shown["state"],
        "counts": (shown["responsiveReplicas"], total),
        "updated": round(datetime.fromisoformat(answer["previousUpdate"]).timestamp() * 1000),
        "replicas": [
            (each["replicaId"], each["state"]["state"], each["maxConcurrentTasks"]) for each in shown["replicas"]
        ],
    }


async def inspected(harness: Harness) -> list[tuple[str, str]]:
    """Return id and state of each replica that the runtime is shown with, alone and in the list of runtimes."""
    _, runtimes, _ = await harness.call("GET", RUNTIMES, **BEARER)
    _, runtime, _ = await harness.call("GET", f"{RUNTIMES}/one", **BEARER)
    assert runtimes[0]["replicas"] == runtime["replicas"]
    everything = await listed(harness)
    assert all(each == everything[each["replica_id"]] for each in runtime["replicas"])
    return [(each["replica_id"], each["state"]) for each in runtime["replicas"]]


@pytest_twisted.ensureDeferred
async def test_a_runtime_without_replicas_has_the_default_one(anywhere: Harness) -> None:
    shown = await deployed_app(anywhere)
    assert (shown["state"], shown["counts"]) == ("STARTING", (0, 1))
    assert shown["replicas"] == [("default", "STARTING", None)]
    assert shown["updated"] == (await listed(anywhere))["default"]["opened_at"]
    assert await inspected(anywhere) == [("default", "starting")]
    await anywhere.call("GET", f"{RUNTIMES}/one/job", Module_Auth_Token="token-one", Prefer="wait=0")
    shown = await deployed_app(anywhere)
    assert (shown["state"], shown["counts"]) == ("ACTIVE", (1, 1))
    assert shown["replicas"] == [("default", "RESPONSIVE", None)]


@pytest_twisted.ensureDeferred
async def test_replicas_that_are_open_are_counted(anywhere: Harness) -> None:
    first = await open_replica(anywhere, replicaId="first")
    await open_replica(anywhere, replicaId="second", maxConcurrentTasks=4)
    shown = await deployed_app(anywhere)
    # Nobody uses the default replica.
    assert (shown["state"], shown["counts"]) == ("STARTING", (0, 2))
    assert shown["replicas"] == [("first", "STARTING", 1), ("second", "STARTING", 4)]
    assert shown["updated"] == (await listed(anywhere))["second"]["opened_at"]
    assert await inspected(anywhere) == [("first", "starting"), ("second", "starting")]
    job_id = await submit(anywhere)
    assert await poll(anywhere, first) == job_id
    shown = await deployed_app(anywhere)
    # It runs as many jobs as it may.
    assert (shown["state"], shown["counts"]) == ("ACTIVE", (1, 2))
    assert shown["replicas"] == [("first", "RESPONSIVE", 1), ("second", "STARTING", 4)]
    assert await inspected(anywhere) == [("first", "busy"), ("second", "starting")]
    await anywhere.call("GET", f"{RUNTIMES}/one/job", Module_Auth_Token="token-one", Prefer="wait=0")
    shown = await deployed_app(anywhere)
    assert shown["counts"] == (2, 3)
    assert shown["replicas"][0] == ("default", "RESPONSIVE", None)
    assert (await inspected(anywhere))[0] == ("default", "responsive")


@pytest_twisted.ensureDeferred
async def test_replicas_that_are_gone_are_listed_and_not_counted(anywhere: Harness) -> None:
    first = await open_replica(anywhere, replicaId="first")
    second = await open_replica(anywhere, replicaId="second")
    await replica_call(anywhere, first, "DELETE", "")
    shown = await deployed_app(anywhere)
    assert (shown["counts"], shown["replicas"]) == ((0, 1), [("second", "STARTING", 1)])
    assert shown["updated"] == (await listed(anywhere))["first"]["ended_at"]
    assert await inspected(anywhere) == [("first", "gone"), ("second", "starting")]
    await replica_call(anywhere, second, "DELETE", "")
    shown = await deployed_app(anywhere)
    # No other replica is left.
    assert (shown["counts"], shown["replicas"]) == ((0, 1), [("default", "STARTING", None)])
    assert await inspected(anywhere) == [("default", "starting"), ("first", "gone"), ("second", "gone")]


@pytest_twisted.ensureDeferred
async def test_a_silent_replica_is_unresponsive(anywhere: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    replica = await open_replica(anywhere, replicaId="first", maxConcurrentTasks=2)
    await poll(anywhere, replica)
    monkeypatch.setattr("twisted_cm.model.replicas.SILENT_AFTER", -1.0)
    shown = await deployed_app(anywhere)
    assert (shown["state"], shown["counts"]) == ("STARTING", (0, 1))
    assert shown["replicas"] == [("first", "UNRESPONSIVE", 2)]
    assert await inspected(anywhere) == [("first", "silent")]
